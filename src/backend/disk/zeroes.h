// Zeros for files that can neither punch holes nor zero ranges. Private to backend/disk.
#pragma once

#include "backend/disk/io_engine.h"

namespace trapeze {

// Writes zeros, waiting for it. 0 or an errno value.
int run_zeroes(IoEngine& engine, int fd, uint64_t offset, uint64_t bytes);

}  // namespace trapeze
