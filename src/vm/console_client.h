// What `trapeze console` does: joins this process's stdin and stdout with a machine's console.
#pragma once

#include "base/result.h"
#include "vm/manage/run_directory.h"

namespace trapeze {

// Until the user leaves (kEscapeByte, kEscapeCount times in a row), the machine ends, or nobody
// reads stdout. Blocks signals as run_vm() does, with the same conditions.
Result<void> view_console(const manage::RunningVm& vm);

}  // namespace trapeze
