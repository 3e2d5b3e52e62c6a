// Gives up what the user-network helper does not need, for good: other users' rights, files,
// programs, most of the kernel. What it keeps: memory, its sockets, new IP sockets, and reading
// the host's DNS configuration.
#pragma once

#include <string>

#include "base/result.h"

namespace trapeze {

struct Confinement {
  bool has_landlock = false;  // else the system call filter alone keeps it from files
};

// When this fails the process has perhaps given up some of it, and must end.
Result<Confinement> confine_helper();

}  // namespace trapeze
