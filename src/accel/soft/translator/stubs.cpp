#include "accel/soft/translator/stubs.h"

#include "accel/soft/translator/registers.h"

namespace trapeze::soft {
namespace {

using Xbyak::Reg64;
using Xbyak::Xmm;
namespace regs = Xbyak::util;

constexpr int kSavedByCaller[] = {3, 5, 12, 13, 14, 15};  // RBX RBP R12..R15 of System V

size_t gpr_offset(unsigned guest) { return offsetof(Cpu, gpr) + guest * 8; }
size_t xmm_offset(unsigned n) { return offsetof(Cpu, fpu) + offsetof(FpuState, xmm) + n * 16; }

void save_guest(Assembler& code) {
  for (unsigned guest = 0; guest < 16; ++guest) {
    if (kHostRegister[guest] != kInMemory) {
      code.store(gpr_offset(guest), Reg64(kHostRegister[guest]));
    }
  }
  // The flags as core/flags.h keeps them.
  code.lahf();
  code.seto(regs::al);
  code.store(offsetof(Cpu, arith), regs::ax);
  Xbyak::Label done;
  code.load(regs::rax, TRAPEZE_STATE(sse_absent));
  code.test(regs::eax, regs::eax);
  code.jnz(done, Assembler::T_NEAR);
  for (int n = 0; n < 16; ++n) {
    code.db(0x65);
    code.movaps(code.at(xmm_offset(static_cast<unsigned>(n))), Xmm(n));
  }
  code.store_imm32(TRAPEZE_STATE(sse_absent), 1);
  code.L(done);
}

void load_guest(Assembler& code) {
  code.db(0x65);
  code.movzx(regs::eax, code.word[Xbyak::RegExp(offsetof(Cpu, arith))]);
  code.add(regs::al, 0x7f);  // OF as SETO gave it
  code.sahf();
  for (unsigned guest = 0; guest < 16; ++guest) {
    if (kHostRegister[guest] != kInMemory) {
      code.load(Reg64(kHostRegister[guest]), gpr_offset(guest));
    }
  }
}

void leave(Assembler& code) {
  code.load(regs::rax, TRAPEZE_STATE(site));
  code.add(regs::rsp, 8);
  for (unsigned i = 6; i-- > 0;) code.pop(Reg64(kSavedByCaller[i]));
  code.ret();
}

}  // namespace

Stubs emit_stubs(Assembler& code, const std::byte* exec_base) {
  Stubs stubs;
  const uint32_t enter = code.here();
  for (const int reg : kSavedByCaller) code.push(Reg64(reg));
  code.sub(regs::rsp, 8);  // aligned as calls want it
  code.store(TRAPEZE_STATE(target), regs::rsi);
  load_guest(code);
  code.jump_state(TRAPEZE_STATE(target));

  stubs.exit = code.here();
  save_guest(code);
  leave(code);

  stubs.slow = code.here();
  save_guest(code);
  Xbyak::Label leave_label, no_sse;
  code.load(regs::rdi, TRAPEZE_STATE(cpu));
  code.load(regs::rsi, TRAPEZE_STATE(site));
  code.db(0x65);
  code.call(code.qword[Xbyak::RegExp(TRAPEZE_STATE(slow))]);
  code.test(regs::rax, regs::rax);
  code.jz(leave_label, Assembler::T_NEAR);
  code.store(TRAPEZE_STATE(target), regs::rax);
  code.load(regs::rax, TRAPEZE_STATE(reload_sse));
  code.test(regs::eax, regs::eax);
  code.jz(no_sse, Assembler::T_NEAR);
  for (int n = 0; n < 16; ++n) {
    code.db(0x65);
    code.movaps(Xmm(n), code.at(xmm_offset(static_cast<unsigned>(n))));
  }
  code.store_imm32(TRAPEZE_STATE(sse_absent), 0);
  code.L(no_sse);
  load_guest(code);
  code.jump_state(TRAPEZE_STATE(target));
  code.L(leave_label);
  leave(code);

  const auto address = reinterpret_cast<uintptr_t>(exec_base + enter);
  stubs.enter = reinterpret_cast<uint64_t (*)(Cpu*, const void*)>(address);
  return stubs;
}

}  // namespace trapeze::soft
