// Tells kernels that know PVM (pagetable virtual machine) from others; docs/kvm.md has the rules.
#pragma once

#include <cstddef>
#include <span>

namespace trapeze::boot {

// The synthetic CPUID of the PVM specification: `invlpg 0xffffffffff4d5650; cpuid`. A kernel that
// has it asks whether it runs under PVM.
bool has_pvm_cpuid(std::span<const std::byte> image);

}  // namespace trapeze::boot
