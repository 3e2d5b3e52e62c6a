// The XSAVE family's view of the register state (SDM 1 chapter 13).
#pragma once

#include "accel/soft/core/cpu.h"

namespace trapeze::soft::exec {

// XINUSE: bits as in XCR0 of the components that are not in their initial configuration (SDM 1
// 13.6). It is looked up when asked for; nothing keeps track of it.
uint64_t components_in_use(const Cpu& cpu);
// Any of the upper halves of YMM0 to YMM15 is not 0.
bool has_upper_halves(const Cpu& cpu);

}  // namespace trapeze::soft::exec
