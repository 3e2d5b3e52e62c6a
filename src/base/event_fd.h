// What is done to an eventfd.
#pragma once

#include <unistd.h>

#include <cstdint>

#include "base/fd.h"

namespace trapeze {

// Makes it readable. Fails only when the counter is full, and then it is readable anyway. Any
// thread.
inline void signal_event(const Fd& event) {
  const uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(event.get(), &one, sizeof(one));
}

}  // namespace trapeze
