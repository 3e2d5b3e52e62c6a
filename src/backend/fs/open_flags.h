// Flags of open(2), as guest and host have them (both are Linux on x86-64).
#pragma once

#include <fcntl.h>

#include <cstdint>

namespace trapeze {

// What of the guest's flags means something to the host: creating is asked for separately, and the
// rest is the guest's own business or could make an open wait or follow a link.
constexpr int host_flags(uint32_t guest_flags) {
  constexpr uint32_t kPassed = O_ACCMODE | O_APPEND | O_TRUNC | O_SYNC | O_DSYNC;
  return static_cast<int>(guest_flags & kPassed);
}

// Of an open file: what would be wrong to do again.
constexpr uint32_t without_truncation(uint32_t flags) { return flags & ~uint32_t{O_TRUNC}; }

constexpr bool is_for_writing(uint32_t guest_flags) {
  return (guest_flags & O_ACCMODE) != O_RDONLY || (guest_flags & O_TRUNC) != 0;
}

}  // namespace trapeze
