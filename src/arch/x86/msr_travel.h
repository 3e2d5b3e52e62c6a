// Which MSRs a vCPU state may lose on its way to another host or accelerator. Everything else that
// the target does not take is an error, because the guest would go on with another machine than it
// had (docs/kvm.md has the table).
#pragma once

#include <cstdint>

namespace trapeze {

// For an MSR that the target does not have, or whose value it does not take: true when the guest
// loses nothing that it could have put there.
//  - Facts about the CPU under the VM (revisions, capabilities, counters of the firmware): each
//  host
//    has its own, and no guest writes them.
//  - Hints about speed, which change nothing that the guest sees.
//  - Zero: what an MSR of a feature that is off, or not there, holds.
bool may_stay_behind(uint32_t index, uint64_t value);

}  // namespace trapeze
