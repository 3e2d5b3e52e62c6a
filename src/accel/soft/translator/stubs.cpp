#include "accel/soft/translator/stubs.h"

#include "accel/soft/mmu/tlb.h"
#include "accel/soft/translator/registers.h"

namespace trapeze::soft {
namespace {

using Xbyak::Reg64;
using Xbyak::Xmm;
using Xbyak::Ymm;
namespace regs = Xbyak::util;

constexpr int kSavedByCaller[] = {3, 5, 12, 13, 14, 15};  // RBX RBP R12..R15 of System V

static_assert(kLeftByStub <= 0xffff'ffff);  // a 32-bit store makes it

size_t xmm_offset(unsigned n) { return offsetof(Cpu, fpu) + offsetof(FpuState, xmm) + n * 16; }

size_t ymm_high_offset(unsigned n) { return offsetof(Cpu, ymm_high) + n * 16; }

void save_vectors(Assembler& code, bool has_avx) {
  for (unsigned n = 0; n < 16; ++n) {
    code.db(0x65);
    if (!has_avx) {
      code.movaps(code.at(xmm_offset(n)), Xmm(static_cast<int>(n)));
      continue;
    }
    code.vmovaps(code.at(xmm_offset(n)), Xmm(static_cast<int>(n)));
    code.db(0x65);
    code.vextractf128(code.at(ymm_high_offset(n)), Ymm(static_cast<int>(n)), 1);
  }
  code.store_imm32(TRAPEZE_STATE(sse_absent), 1);
  if (!has_avx) return;
  code.store_imm32(TRAPEZE_STATE(avx_absent), 1);
  code.vzeroupper();  // C++ code is SSE
}

// RAX: a Reload, not None. The caller has set avx_absent.
void load_vectors(Assembler& code, bool has_avx) {
  Xbyak::Label all, done;
  if (has_avx) {
    code.cmp(regs::eax, static_cast<uint32_t>(Reload::All));
    code.je(all, Assembler::T_NEAR);
  }
  for (unsigned n = 0; n < 16; ++n) {
    code.db(0x65);
    code.movaps(Xmm(static_cast<int>(n)), code.at(xmm_offset(n)));
  }
  if (has_avx) {
    code.vzeroupper();
    code.jmp(done, Assembler::T_NEAR);
    code.L(all);
    for (unsigned n = 0; n < 16; ++n) {
      const auto number = static_cast<int>(n);
      code.db(0x65);
      code.vmovaps(Xmm(number), code.at(xmm_offset(n)));
      code.db(0x65);
      code.vinsertf128(Ymm(number), Ymm(number), code.at(ymm_high_offset(n)), 1);
    }
    code.L(done);
  }
  code.store_imm32(TRAPEZE_STATE(sse_absent), 0);
}

// XSAVE (4) or XRSTOR (5) of the x87 component; uses EAX and EDX.
void xsave_x87(Assembler& code, unsigned extension) {
  code.mov(regs::eax, 1);
  code.xor_(regs::edx, regs::edx);
  code.xsave_state(extension, TRAPEZE_STATE(x87_area));
}

void save_x87(Assembler& code) {
  Xbyak::Label done;
  code.load(regs::rax, TRAPEZE_STATE(x87_absent));
  code.test(regs::eax, regs::eax);
  code.jnz(done, Assembler::T_NEAR);
  xsave_x87(code, 4);
  code.fninit();  // C++ code wants it empty
  code.store_imm32(TRAPEZE_STATE(x87_absent), 1);
  code.store_imm32(TRAPEZE_STATE(x87_saved), 1);
  code.L(done);
}

void load_x87(Assembler& code) {
  Xbyak::Label done;
  code.load(regs::rax, TRAPEZE_STATE(reload_x87));
  code.test(regs::eax, regs::eax);
  code.jz(done, Assembler::T_NEAR);
  xsave_x87(code, 5);
  code.store_imm32(TRAPEZE_STATE(x87_absent), 0);
  code.L(done);
}

void save_guest(Assembler& code, bool has_avx) {
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
  save_vectors(code, has_avx);
  code.L(done);
  save_x87(code);
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

// Copies the TLB's entry for the page of R11 to the inline TLB. Keeps everything but RCX.
class FillStub {
 public:
  FillStub(Assembler& code, const TranslatorTables& tables, FastTable table)
      : code_(code), table_(table), fast_(tables.tlb[static_cast<unsigned>(table)]) {}

  // `slow`: where to go when the TLB has no such entry.
  uint32_t emit(bool write, uint32_t slow) {
    const uint32_t start = code_.here();
    save();
    look_up(write);
    note_filled();
    install(write);
    restore();
    code_.ret();
    code_.L(give_up_);
    restore();
    code_.lea(regs::rsp, code_.ptr[regs::rsp + 8]);
    code_.jump_to(slow);
    return start;
  }

 private:
  Xbyak::Address at_index(const void* array) { return code_.element(regs::rax, array); }

  void save() {
    code_.store(TRAPEZE_STATE(saved[0]), regs::rax);
    code_.store(TRAPEZE_STATE(saved[1]), regs::rdx);
    code_.lahf();
    code_.seto(regs::al);
    code_.store(TRAPEZE_STATE(saved[2]), regs::rax);
  }

  void restore() {
    code_.load(regs::rax, TRAPEZE_STATE(saved[2]));
    code_.add(regs::al, 0x7f);
    code_.sahf();
    code_.load(regs::rax, TRAPEZE_STATE(saved[0]));
    code_.load(regs::rdx, TRAPEZE_STATE(saved[1]));
  }

  // RAX = index in the inline TLB, RCX = address of the TLB's entry, RDX = -page.
  void look_up(bool write) {
    code_.mov(regs::rcx, regs::r11);
    code_.shr(regs::rcx, 12);
    code_.movzx(regs::eax, regs::cx);
    static_assert(FastTlb::kEntries == 65536);
    code_.mov(regs::rdx, regs::rcx);
    code_.shr(regs::rdx, Tlb::kIndexShift);
    code_.add(regs::ecx, regs::edx);
    code_.and_(regs::ecx, kTlbEntries - 1);
    code_.mov(regs::rdx, regs::r11);
    code_.and_(regs::rdx, -static_cast<int>(kPageSize));
    code_.shl(regs::ecx, 5);
    static_assert(sizeof(TlbEntry) == 32);
    code_.db(0x65);
    code_.add(regs::rcx, code_.at(offsetof(Cpu, tlb)));
    code_.cmp(regs::rdx, code_.ptr[regs::rcx + (write ? offsetof(TlbEntry, write_tag)
                                                      : offsetof(TlbEntry, read_tag))]);
    code_.jne(give_up_, Assembler::T_NEAR);
    code_.neg(regs::rdx);
    // There already: the access crosses pages or is not aligned.
    code_.cmp(regs::rdx, at_index(write ? fast_.minus_write : fast_.minus_read));
    code_.je(give_up_, Assembler::T_NEAR);
  }

  void note_filled() {
    const size_t count = TRAPEZE_STATE(filled) + static_cast<size_t>(table_) * sizeof(uint32_t);
    Xbyak::Label noted;
    code_.cmp(code_.qword[regs::rax * 8 + Assembler::absolute(fast_.addend)], 0);
    code_.jne(noted);
    code_.load(regs::edx, count);
    code_.cmp(regs::edx, FastTlb::kMaxFilled);
    code_.jae(give_up_, Assembler::T_NEAR);
    code_.mov(code_.word[regs::rdx * 2 + Assembler::absolute(fast_.filled)], regs::ax);
    code_.inc(regs::edx);
    code_.store(count, regs::edx);
    code_.mov(regs::rdx, regs::r11);
    code_.and_(regs::rdx, -static_cast<int>(kPageSize));
    code_.neg(regs::rdx);
    code_.L(noted);
  }

  void install(bool write) {
    Xbyak::Label writable;
    code_.mov(at_index(fast_.minus_read), regs::rdx);
    if (!write) {
      code_.neg(regs::rdx);
      code_.cmp(regs::rdx, code_.ptr[regs::rcx + offsetof(TlbEntry, write_tag)]);
      code_.je(writable);
      code_.lea(regs::edx, code_.ptr[regs::rax + 2]);  // the page is as no_fast_page() wants it
      code_.movzx(regs::edx, regs::dx);
      code_.shl(regs::edx, 12);
      code_.L(writable);
      code_.neg(regs::rdx);
    }
    code_.mov(at_index(fast_.minus_write), regs::rdx);
    code_.mov(regs::rdx, code_.ptr[regs::rcx + offsetof(TlbEntry, addend)]);
    code_.mov(at_index(fast_.addend), regs::rdx);
  }

  Assembler& code_;
  const FastTable table_;
  const FastTlb& fast_;
  Xbyak::Label give_up_;
};

// Between the stack of C++ and the return stack.
void to_host_stack(Assembler& code) {
  code.store(TRAPEZE_STATE(return_stack), regs::rsp);
  code.load(regs::rsp, TRAPEZE_STATE(host_stack));
}

void leave(Assembler& code) {
  code.load(regs::rax, TRAPEZE_STATE(site));
  code.add(regs::rsp, 8);
  for (unsigned i = 6; i-- > 0;) code.pop(Reg64(kSavedByCaller[i]));
  code.ret();
}

}  // namespace

Stubs emit_stubs(Assembler& code, const std::byte* exec_base, const TranslatorTables& tables,
                 bool has_avx) {
  Stubs stubs;
  const uint32_t enter = code.here();
  for (const int reg : kSavedByCaller) code.push(Reg64(reg));
  code.sub(regs::rsp, 8);  // aligned as calls want it
  code.store(TRAPEZE_STATE(target), regs::rsi);
  code.store(TRAPEZE_STATE(host_stack), regs::rsp);
  code.load(regs::rsp, TRAPEZE_STATE(return_stack));
  load_guest(code);
  code.jump_state(TRAPEZE_STATE(target));

  stubs.bottom = code.here();
  code.store(offsetof(Cpu, rip), regs::r11);
  code.load(regs::rsp, TRAPEZE_STATE(return_top));
  code.store_imm32(TRAPEZE_STATE(site), kLeftByStub);
  stubs.exit = code.here();
  save_guest(code, has_avx);
  to_host_stack(code);
  leave(code);

  stubs.slow = code.here();
  code.store(TRAPEZE_STATE(linear), regs::r11);
  save_guest(code, has_avx);
  to_host_stack(code);
  Xbyak::Label leave_label, no_sse;
  code.load(regs::rdi, TRAPEZE_STATE(cpu));
  code.load(regs::rsi, TRAPEZE_STATE(site));
  code.call_state(TRAPEZE_STATE(slow));
  code.test(regs::rax, regs::rax);
  code.jz(leave_label, Assembler::T_NEAR);
  code.store(TRAPEZE_STATE(target), regs::rax);
  code.load(regs::rax, TRAPEZE_STATE(reload_sse));
  code.test(regs::eax, regs::eax);
  code.jz(no_sse, Assembler::T_NEAR);
  load_vectors(code, has_avx);
  code.L(no_sse);
  load_x87(code);
  code.load(regs::rsp, TRAPEZE_STATE(return_stack));
  load_guest(code);
  code.load(Reg64(kScratch), TRAPEZE_STATE(cached));
  code.jump_state(TRAPEZE_STATE(target));
  code.L(leave_label);
  leave(code);

  for (unsigned table = 0; table < kFastTables; ++table) {
    for (const bool write : {false, true}) {
      FillStub stub(code, tables, static_cast<FastTable>(table));
      stubs.fill[table][write ? 1 : 0] = stub.emit(write, stubs.slow);
    }
  }
  const auto address = reinterpret_cast<uintptr_t>(exec_base + enter);
  stubs.enter = reinterpret_cast<uint64_t (*)(Cpu*, const void*)>(address);
  return stubs;
}

}  // namespace trapeze::soft
