// A machine in the background: a process of its own, whose start is waited for.
#pragma once

#include "vm/config.h"

namespace trapeze::cli {

// Runs the machine in a new process and waits until its command runs (or it failed). Prints the
// machine's name. The result is the exit status of this process, or, in the new one, of that.
int run_detached(RunConfig config);

// "vm-" and eight random digits.
std::string make_up_name();

}  // namespace trapeze::cli
