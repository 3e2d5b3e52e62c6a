// States that come from elsewhere: what of them the engine's CPU can go on with.
#pragma once

#include "accel/soft/core/cpu.h"
#include "base/result.h"

namespace trapeze::soft {

// An Error that names what this CPU lacks: register sets, bits of CR4 or EFER. MSRs are checked
// when they are written.
Result<void> check_foreign_state(const Cpu& cpu, const VcpuState& state);

}  // namespace trapeze::soft
