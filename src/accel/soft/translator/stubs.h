// Stubs: the few pieces of code at the start of the buffer between C++ and translated code.
#pragma once

#include <cstdint>

#include "accel/soft/core/cpu.h"
#include "accel/soft/translator/assembler.h"

namespace trapeze::soft {

// What Cpu::translator.site holds when no exit was taken.
inline constexpr uint32_t kLeftByStub = 0xffff'ffff;

struct Stubs {
  // Loads the guest's state and jumps to `code`; returns Cpu::translator.site of whoever left.
  // The GS base must be &cpu.
  uint64_t (*enter)(Cpu* cpu, const void* code) = nullptr;
  uint32_t exit = 0;  // saves the guest's state and returns from enter()
  // Called where a probe missed: copies the TLB's entry to the inline one and returns, or goes to
  // `slow`. By table, then read or write.
  uint32_t fill[kFastTables][2] = {};
  // Where a return goes that matches the bottom of the return stack: on at R11, through C++.
  uint32_t bottom = 0;
  uint32_t slow = 0;  // saves it and asks Cpu::translator.slow how to go on: at an address, or null
};

// Emits them at the assembler's position. `exec_base`: where the buffer runs; `tables`: the vCPU's;
// `has_avx`: the CPU model has YMM registers.
Stubs emit_stubs(Assembler& code, const std::byte* exec_base, const TranslatorTables& tables,
                 bool has_avx);

}  // namespace trapeze::soft
