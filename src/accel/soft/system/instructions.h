// The semantic functions of the privileged and mode-related instructions; bind_system.cpp makes
// handlers of them. One function each, named after its mnemonic.
#pragma once

#include "accel/soft/core/cpu.h"
#include "accel/soft/decode/insn.h"

namespace trapeze::soft::system {

// iret.cpp
Step iret(Cpu& cpu, const Insn& insn);

// far_transfer.cpp
Step far_jmp_immediate(Cpu& cpu, const Insn& insn);  // imm64: offset, selector << 32
Step far_call_immediate(Cpu& cpu, const Insn& insn);
Step far_jmp_memory(Cpu& cpu, const Insn& insn);
Step far_call_memory(Cpu& cpu, const Insn& insn);
Step far_ret(Cpu& cpu, const Insn& insn);
// Reads an offset of 2, 4 or 8 bytes, for far pointers and pseudo-descriptors.
bool read_offset(Cpu& cpu, uint64_t linear, unsigned size, uint8_t seg, uint64_t& offset);

// interrupts.cpp
Step int_n(Cpu& cpu, const Insn& insn);
Step int3(Cpu& cpu, const Insn& insn);
Step int1(Cpu& cpu, const Insn& insn);
Step into(Cpu& cpu, const Insn& insn);
Step cli(Cpu& cpu, const Insn& insn);
Step sti(Cpu& cpu, const Insn& insn);
Step cld(Cpu& cpu, const Insn& insn);
Step std_(Cpu& cpu, const Insn& insn);
Step clac(Cpu& cpu, const Insn& insn);
Step stac(Cpu& cpu, const Insn& insn);
Step pushf(Cpu& cpu, const Insn& insn);
Step popf(Cpu& cpu, const Insn& insn);
Step hlt(Cpu& cpu, const Insn& insn);

// segment_moves.cpp
Step mov_sreg_from_reg(Cpu& cpu, const Insn& insn);
Step mov_sreg_from_mem(Cpu& cpu, const Insn& insn);
Step mov_sreg_to_reg(Cpu& cpu, const Insn& insn);
Step mov_sreg_to_mem(Cpu& cpu, const Insn& insn);
Step push_sreg(Cpu& cpu, const Insn& insn);
Step pop_sreg(Cpu& cpu, const Insn& insn);
Step load_far(Cpu& cpu, const Insn& insn);  // LDS, LES, LSS, LFS, LGS; aux: the segment

// selectors.cpp. The selector or the destination is a register or memory operand; aux says which.
inline constexpr uint8_t kOperandRegister = 0, kOperandMemory = 1;
Step lldt(Cpu& cpu, const Insn& insn);
Step ltr(Cpu& cpu, const Insn& insn);
Step sldt(Cpu& cpu, const Insn& insn);
Step str(Cpu& cpu, const Insn& insn);
Step verr(Cpu& cpu, const Insn& insn);
Step verw(Cpu& cpu, const Insn& insn);
Step lar(Cpu& cpu, const Insn& insn);
Step lsl(Cpu& cpu, const Insn& insn);
Step arpl(Cpu& cpu, const Insn& insn);

// control.cpp
Step mov_to_cr(Cpu& cpu, const Insn& insn);
Step mov_from_cr(Cpu& cpu, const Insn& insn);
Step lmsw(Cpu& cpu, const Insn& insn);
Step smsw(Cpu& cpu, const Insn& insn);
Step clts(Cpu& cpu, const Insn& insn);

// debug_moves.cpp
Step mov_to_dr(Cpu& cpu, const Insn& insn);
Step mov_from_dr(Cpu& cpu, const Insn& insn);

// tables.cpp
Step lgdt(Cpu& cpu, const Insn& insn);
Step lidt(Cpu& cpu, const Insn& insn);
Step sgdt(Cpu& cpu, const Insn& insn);
Step sidt(Cpu& cpu, const Insn& insn);
Step invlpg(Cpu& cpu, const Insn& insn);
Step invpcid(Cpu& cpu, const Insn& insn);
Step invd(Cpu& cpu, const Insn& insn);  // and WBINVD

// syscall.cpp
Step syscall(Cpu& cpu, const Insn& insn);
Step sysret(Cpu& cpu, const Insn& insn);
Step sysenter(Cpu& cpu, const Insn& insn);
Step sysexit(Cpu& cpu, const Insn& insn);
Step swapgs(Cpu& cpu, const Insn& insn);
Step rdfsbase(Cpu& cpu, const Insn& insn);  // aux: the segment, here and below
Step wrfsbase(Cpu& cpu, const Insn& insn);

// processor.cpp
Step cpuid(Cpu& cpu, const Insn& insn);
Step rdmsr(Cpu& cpu, const Insn& insn);
Step wrmsr(Cpu& cpu, const Insn& insn);
Step rdtsc(Cpu& cpu, const Insn& insn);
Step rdtscp(Cpu& cpu, const Insn& insn);
Step rdpid(Cpu& cpu, const Insn& insn);
Step xgetbv(Cpu& cpu, const Insn& insn);
Step xsetbv(Cpu& cpu, const Insn& insn);
Step rdpmc(Cpu& cpu, const Insn& insn);
Step hypercall(Cpu& cpu, const Insn& insn);

// io.cpp; aux: width in bytes
Step in_immediate(Cpu& cpu, const Insn& insn);
Step in_dx(Cpu& cpu, const Insn& insn);
Step out_immediate(Cpu& cpu, const Insn& insn);
Step out_dx(Cpu& cpu, const Insn& insn);
Step ins(Cpu& cpu, const Insn& insn);
Step outs(Cpu& cpu, const Insn& insn);

// Selector or status-word operand: 16 bits from a register or memory (aux).
bool load_word_operand(Cpu& cpu, const Insn& insn, uint8_t reg_slot, uint16_t& value);
// Stores `value` in a 16-bit memory operand, or a register in its operand size.
Step store_word_operand(Cpu& cpu, const Insn& insn, uint64_t value);
// #GP(0) for what is privileged. True: go on.
inline bool require_cpl0(Cpu& cpu) {
  if (cpu.cpl == 0) return true;
  raise(cpu, kGP, 0);
  return false;
}

}  // namespace trapeze::soft::system
