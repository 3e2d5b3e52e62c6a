// What belongs to PVM (pagetable virtual machine) guests; docs/kvm.md has the rules.
#pragma once

#include <cstddef>
#include <span>

namespace trapeze::kvm {

// The synthetic CPUID of the PVM specification: `invlpg 0xffffffffff4d5650; cpuid`. A kernel that
// has it asks whether it runs under PVM.
bool has_pvm_cpuid(std::span<const std::byte> image);

}  // namespace trapeze::kvm
