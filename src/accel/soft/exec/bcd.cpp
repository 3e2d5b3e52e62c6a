// Decimal adjustment: DAA, DAS, AAA, AAS, AAM, AAD (SDM 2A). Not in 64-bit mode, so the host's own
// instruction is out of reach. Flags that the manual calls undefined follow the result.
#include "accel/soft/exec/host_alu.h"
#include "accel/soft/exec/operand.h"

namespace trapeze::soft::exec {
namespace {

constexpr uint8_t kAl = kRax * 8;
constexpr uint8_t kAh = kRax * 8 + 1;

// SF, ZF and PF of `result`; AF and CF as given; OF clear.
void set_flags(Cpu& cpu, uint8_t result, bool adjust, bool carry) {
  ArithmeticFlags flags = 0;
  Test::run(result, result, flags);
  const unsigned kept = flags & unsigned{kArithSf | kArithZf | kArithPf};
  const unsigned low = adjust ? unsigned{kArithAf} : 0U;
  const unsigned high = carry ? unsigned{kArithCf} : 0U;
  cpu.arith = static_cast<ArithmeticFlags>(kept | low | high);
}
inline bool carry_of(const Cpu& cpu) { return (cpu.arith & kArithCf) != 0; }
inline bool low_digit_overflows(const Cpu& cpu, uint8_t al) {
  return (al & 0xfU) > 9 || (cpu.arith & kArithAf) != 0;
}

Step daa(Cpu& cpu, const Insn&) {
  const auto old = reg<uint8_t>(cpu, kAl);
  const bool adjust = low_digit_overflows(cpu, old);
  const bool carry = old > 0x99 || carry_of(cpu);
  const auto al = static_cast<uint8_t>(old + (adjust ? 0x06 : 0) + (carry ? 0x60 : 0));
  set_reg<uint8_t>(cpu, kAl, al);
  set_flags(cpu, al, adjust, carry);
  return Step::Next;
}

// Unlike DAA's, the borrow of the low digit's correction can set CF by itself: AL below 6.
Step das(Cpu& cpu, const Insn&) {
  const auto old = reg<uint8_t>(cpu, kAl);
  const bool adjust = low_digit_overflows(cpu, old);
  const bool high = old > 0x99 || carry_of(cpu);
  const bool carry = high || (adjust && old < 6);
  const auto al = static_cast<uint8_t>(old - (adjust ? 0x06 : 0) - (high ? 0x60 : 0));
  set_reg<uint8_t>(cpu, kAl, al);
  set_flags(cpu, al, adjust, carry);
  return Step::Next;
}

// AAA and AAS differ in the direction only; AH takes part in the carry of AL's correction.
template <int kSign>
Step ascii_adjust(Cpu& cpu, const Insn&) {
  auto ax = reg<uint16_t>(cpu, kRax * 8);
  const bool adjust = low_digit_overflows(cpu, static_cast<uint8_t>(ax));
  if (adjust) ax = static_cast<uint16_t>(ax + kSign * 0x106);
  ax &= 0xff0f;
  set_reg<uint16_t>(cpu, kRax * 8, ax);
  set_flags(cpu, static_cast<uint8_t>(ax), adjust, adjust);
  return Step::Next;
}

Step aam(Cpu& cpu, const Insn& insn) {
  const auto base = static_cast<uint8_t>(insn.imm64);
  if (base == 0) return raise(cpu, kDE);
  const auto old = reg<uint8_t>(cpu, kAl);
  const auto al = static_cast<uint8_t>(old % base);
  set_reg<uint8_t>(cpu, kAh, static_cast<uint8_t>(old / base));
  set_reg<uint8_t>(cpu, kAl, al);
  set_flags(cpu, al, false, false);
  return Step::Next;
}

// The undefined flags are those of the addition, as CPUs have it.
Step aad(Cpu& cpu, const Insn& insn) {
  const auto tens =
      static_cast<uint8_t>(reg<uint8_t>(cpu, kAh) * static_cast<unsigned>(insn.imm64));
  ArithmeticFlags flags = 0;
  const uint8_t al = Add::run(reg<uint8_t>(cpu, kAl), tens, flags);
  set_reg<uint16_t>(cpu, kRax * 8, al);
  cpu.arith = flags;
  return Step::Next;
}

}  // namespace

Handler bind_bcd(Decoded& decoded) {
  switch (static_cast<int>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_DAA:
      return &handler<daa>;
    case ZYDIS_MNEMONIC_DAS:
      return &handler<das>;
    case ZYDIS_MNEMONIC_AAA:
      return &handler<ascii_adjust<1>>;
    case ZYDIS_MNEMONIC_AAS:
      return &handler<ascii_adjust<-1>>;
    case ZYDIS_MNEMONIC_AAM:
      return &handler<aam>;
    case ZYDIS_MNEMONIC_AAD:
      return &handler<aad>;
    default:
      return nullptr;
  }
}

}  // namespace trapeze::soft::exec
