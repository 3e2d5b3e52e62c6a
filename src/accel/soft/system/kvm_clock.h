// kvmclock: the paravirtual clock that tells the guest how its TSC maps to time (Linux
// Documentation/virt/kvm/x86/msr.rst).
#pragma once

#include "accel/soft/core/cpu.h"

namespace trapeze::soft {

// Writes pvclock_vcpu_time_info where MSR_KVM_SYSTEM_TIME points, if it is enabled. Needed after
// the MSR was written and after the guest's TSC was moved; the clock needs no further updates, as
// TSC and time run at the same rate.
void update_kvm_clock(Cpu& cpu);
// Writes pvclock_wall_clock where MSR_KVM_WALL_CLOCK points.
void write_kvm_wall_clock(Cpu& cpu);

}  // namespace trapeze::soft
