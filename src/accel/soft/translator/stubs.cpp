#include "accel/soft/translator/stubs.h"

#include "accel/soft/mmu/tlb.h"
#include "accel/soft/translator/registers.h"

namespace trapeze::soft {
namespace {

using Xbyak::Reg64;
using Xbyak::Xmm;
namespace regs = Xbyak::util;

constexpr int kSavedByCaller[] = {3, 5, 12, 13, 14, 15};  // RBX RBP R12..R15 of System V

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

// R11: the linear address. Keeps everything but RCX.
uint32_t emit_fill(Assembler& code, FastTable table, bool write, uint32_t slow) {
  const uint32_t start = code.here();
  const size_t base = TRAPEZE_STATE(tlb) + static_cast<size_t>(table) * sizeof(FastTlb);
  const size_t read_tags = base + offsetof(FastTlb, minus_read);
  const size_t write_tags = base + offsetof(FastTlb, minus_write);
  const unsigned entries = fast_entries(table);
  Xbyak::Label give_up, not_writable, installed;
  const auto indexed = [&code](size_t offset) { return code.ptr[regs::rax * 8 + offset]; };
  code.store(TRAPEZE_STATE(saved[0]), regs::rax);
  code.store(TRAPEZE_STATE(saved[1]), regs::rdx);
  code.lahf();
  code.seto(regs::al);
  code.store(TRAPEZE_STATE(saved[2]), regs::rax);
  code.mov(regs::rcx, regs::r11);
  code.shr(regs::rcx, 12);
  code.mov(regs::eax, regs::ecx);
  code.and_(regs::eax, entries - 1);
  code.mov(regs::rdx, regs::rcx);
  code.shr(regs::rdx, Tlb::kIndexShift);
  code.xor_(regs::ecx, regs::edx);
  code.and_(regs::ecx, kTlbEntries - 1);
  code.mov(regs::rdx, regs::r11);
  code.and_(regs::rdx, -static_cast<int>(kPageSize));
  code.shl(regs::ecx, 5);
  static_assert(sizeof(TlbEntry) == 32);
  code.db(0x65);
  code.add(regs::rcx, code.at(offsetof(Cpu, tlb)));
  code.neg(regs::rdx);
  // There already: the access crosses pages or is not aligned.
  code.db(0x65);
  code.cmp(regs::rdx, indexed(write ? write_tags : read_tags));
  code.je(give_up);
  code.neg(regs::rdx);
  code.cmp(
      regs::rdx,
      code.ptr[regs::rcx + (write ? offsetof(TlbEntry, write_tag) : offsetof(TlbEntry, read_tag))]);
  code.jne(give_up);
  code.neg(regs::rdx);
  code.db(0x65);
  code.mov(indexed(read_tags), regs::rdx);
  if (!write) {
    code.neg(regs::rdx);
    code.cmp(regs::rdx, code.ptr[regs::rcx + offsetof(TlbEntry, write_tag)]);
    code.jne(not_writable);
    code.neg(regs::rdx);
  }
  code.L(installed);
  code.db(0x65);
  code.mov(indexed(write_tags), regs::rdx);
  code.mov(regs::rdx, code.ptr[regs::rcx + offsetof(TlbEntry, addend)]);
  code.db(0x65);
  code.mov(indexed(base + offsetof(FastTlb, addend)), regs::rdx);
  const auto restore = [&code] {
    code.load(regs::rax, TRAPEZE_STATE(saved[2]));
    code.add(regs::al, 0x7f);
    code.sahf();
    code.load(regs::rax, TRAPEZE_STATE(saved[0]));
    code.load(regs::rdx, TRAPEZE_STATE(saved[1]));
  };
  restore();
  code.ret();
  if (!write) {
    code.L(not_writable);  // no_fast_page(): the addend is another page's from now on
    code.lea(regs::edx, code.ptr[regs::rax + 2]);
    code.and_(regs::edx, entries - 1);
    code.shl(regs::edx, 12);
    code.neg(regs::rdx);
    code.jmp(installed);
  }
  code.L(give_up);
  restore();
  code.lea(regs::rsp, code.ptr[regs::rsp + 8]);
  code.jump_to(slow);
  return start;
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
  code.store(TRAPEZE_STATE(linear), regs::r11);
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

  for (unsigned table = 0; table < kFastTables; ++table) {
    for (const bool write : {false, true}) {
      stubs.fill[table][write ? 1 : 0] =
          emit_fill(code, static_cast<FastTable>(table), write, stubs.slow);
    }
  }
  const auto address = reinterpret_cast<uintptr_t>(exec_base + enter);
  stubs.enter = reinterpret_cast<uint64_t (*)(Cpu*, const void*)>(address);
  return stubs;
}

}  // namespace trapeze::soft
