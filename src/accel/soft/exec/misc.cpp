// Sign extension of the accumulator, flag instructions, NOP and hints, fences, cache line flushes,
// BOUND, UD, RDRAND and RDSEED.
#include <sys/random.h>

#include <atomic>

#include "accel/soft/exec/operand.h"
#include "base/fence.h"

namespace trapeze::soft::exec {
namespace {

// CBW, CWDE, CDQE.
template <typename To, typename From>
Step extend_accumulator(Cpu& cpu, const Insn&) {
  set_reg<To>(cpu, kRax * 8, static_cast<To>(reg<From>(cpu, kRax * 8)));
  return Step::Next;
}
// CWD, CDQ, CQO.
template <typename To, typename From>
Step extend_to_rdx(Cpu& cpu, const Insn&) {
  const bool negative = reg<From>(cpu, kRax * 8) < 0;
  set_reg<To>(cpu, kRdx * 8, static_cast<To>(negative ? -1 : 0));
  return Step::Next;
}

// --- flags

Step lahf(Cpu& cpu, const Insn&) {
  const auto flags = static_cast<uint8_t>((to_rflags(cpu.arith) & 0xffU) | 2U);
  set_reg<uint8_t>(cpu, kRax * 8 + 1, flags);
  return Step::Next;
}
Step sahf(Cpu& cpu, const Insn&) {
  const uint64_t overflow = to_rflags(cpu.arith) & kOf;
  cpu.arith = to_arithmetic(overflow | reg<uint8_t>(cpu, kRax * 8 + 1));
  return Step::Next;
}
// D6, in no manual but in every processor: AL as SBB AL, AL would leave it, flags unchanged.
Step salc(Cpu& cpu, const Insn&) {
  set_reg<uint8_t>(cpu, kRax * 8, (cpu.arith & kArithCf) != 0 ? uint8_t{0xff} : uint8_t{0});
  return Step::Next;
}
Step clc(Cpu& cpu, const Insn&) {
  cpu.arith = static_cast<ArithmeticFlags>(cpu.arith & ~unsigned{kArithCf});
  return Step::Next;
}
Step stc(Cpu& cpu, const Insn&) {
  cpu.arith |= kArithCf;
  return Step::Next;
}
Step cmc(Cpu& cpu, const Insn&) {
  cpu.arith ^= kArithCf;
  return Step::Next;
}
Step cld(Cpu& cpu, const Insn&) {
  cpu.df = false;
  cpu.rflags_system &= ~kDf;
  return Step::Next;
}
Step std_(Cpu& cpu, const Insn&) {
  cpu.df = true;
  cpu.rflags_system |= kDf;
  return Step::Next;
}

// --- hints and fences

Step nop(Cpu&, const Insn&) { return Step::Next; }
Step pause(Cpu&, const Insn&) {
  asm volatile("pause");
  return Step::Next;
}
// The interpreter's own accesses are as ordered as the guest's: only a store followed by a load
// needs the host's fence.
Step mfence(Cpu&, const Insn&) {
  full_fence();
  return Step::Next;
}
Step compiler_fence(Cpu&, const Insn&) {
  std::atomic_signal_fence(std::memory_order_seq_cst);
  return Step::Next;
}
// Caches are the host's business; the address is checked as for a load (SDM 2A "CLFLUSH").
Step flush_line(Cpu& cpu, const Insn& insn) {
  uint64_t linear = 0;
  if (!linear_address(cpu, insn, 1, Access::Read, linear)) return Step::Fault;
  if (host_for_read(cpu, linear) != nullptr) return Step::Next;
  uint8_t ignored = 0;
  return read_linear<uint8_t>(cpu, linear, ignored, insn.seg) ? Step::Next : Step::Fault;
}

// --- BOUND: a pair of signed bounds in memory

template <typename T>
struct Bound {
  static Step run(Cpu& cpu, const Insn& insn) {
    using Signed = std::make_signed_t<T>;
    uint64_t linear = 0;
    T lower;
    T upper;
    if (!linear_address(cpu, insn, 2 * sizeof(T), Access::Read, linear) ||
        !read_linear<T>(cpu, linear, lower, insn.seg) ||
        !read_linear<T>(cpu, linear + sizeof(T), upper, insn.seg))
      return Step::Fault;
    const auto index = static_cast<Signed>(reg<T>(cpu, insn.dst));
    if (index < static_cast<Signed>(lower) || index > static_cast<Signed>(upper)) {
      return raise(cpu, kBR);
    }
    return Step::Next;
  }
};

// --- random numbers; CF tells success, the other flags are cleared

template <typename T>
struct Random {
  static Step run(Cpu& cpu, const Insn& insn) {
    T value = 0;
    const bool good = getrandom(&value, sizeof(value), GRND_NONBLOCK) == sizeof(value);
    set_reg<T>(cpu, insn.dst, good ? value : T{0});
    cpu.arith = good ? kArithCf : ArithmeticFlags{0};
    return Step::Next;
  }
};

Handler bind_accumulator(const Decoded& decoded) {
  switch (static_cast<int>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_CBW:
      return &handler<extend_accumulator<uint16_t, int8_t>>;
    case ZYDIS_MNEMONIC_CWDE:
      return &handler<extend_accumulator<uint32_t, int16_t>>;
    case ZYDIS_MNEMONIC_CDQE:
      return &handler<extend_accumulator<uint64_t, int32_t>>;
    case ZYDIS_MNEMONIC_CWD:
      return &handler<extend_to_rdx<uint16_t, int16_t>>;
    case ZYDIS_MNEMONIC_CDQ:
      return &handler<extend_to_rdx<uint32_t, int32_t>>;
    case ZYDIS_MNEMONIC_CQO:
      return &handler<extend_to_rdx<uint64_t, int64_t>>;
    default:
      return nullptr;
  }
}

Handler bind_flags(const Decoded& decoded) {
  switch (static_cast<int>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_LAHF:
      return &handler<lahf>;
    case ZYDIS_MNEMONIC_SAHF:
      return &handler<sahf>;
    case ZYDIS_MNEMONIC_SALC:
      return &handler<salc>;
    case ZYDIS_MNEMONIC_CLC:
      return &handler<clc>;
    case ZYDIS_MNEMONIC_STC:
      return &handler<stc>;
    case ZYDIS_MNEMONIC_CMC:
      return &handler<cmc>;
    case ZYDIS_MNEMONIC_CLD:
      return &handler<cld>;
    case ZYDIS_MNEMONIC_STD:
      return &handler<std_>;
    default:
      return nullptr;
  }
}

}  // namespace

Handler bind_misc(Decoded& decoded) {
  switch (static_cast<int>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_NOP:
    case ZYDIS_MNEMONIC_ENDBR32:
    case ZYDIS_MNEMONIC_ENDBR64:
    case ZYDIS_MNEMONIC_PREFETCH:
    case ZYDIS_MNEMONIC_PREFETCHNTA:
    case ZYDIS_MNEMONIC_PREFETCHT0:
    case ZYDIS_MNEMONIC_PREFETCHT1:
    case ZYDIS_MNEMONIC_PREFETCHT2:
    case ZYDIS_MNEMONIC_PREFETCHW:
    case ZYDIS_MNEMONIC_PREFETCHWT1:
    case ZYDIS_MNEMONIC_CLDEMOTE:
      return &handler<nop>;
    case ZYDIS_MNEMONIC_PAUSE:
      return &handler<pause>;
    case ZYDIS_MNEMONIC_MFENCE:
      return &handler<mfence>;
    case ZYDIS_MNEMONIC_LFENCE:
    case ZYDIS_MNEMONIC_SFENCE:
      return &handler<compiler_fence>;
    case ZYDIS_MNEMONIC_CLFLUSH:
    case ZYDIS_MNEMONIC_CLFLUSHOPT:
    case ZYDIS_MNEMONIC_CLWB:
      return &handler<flush_line>;
    case ZYDIS_MNEMONIC_BOUND:
      return decoded.insn.width == 2 ? &handler<Bound<uint16_t>::run>
                                     : &handler<Bound<uint32_t>::run>;
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2:
      return undefined_opcode();
    case ZYDIS_MNEMONIC_RDRAND:
    case ZYDIS_MNEMONIC_RDSEED:
      return by_wide_size<Random>(decoded.size(0));
    default: {
      const Handler accumulator = bind_accumulator(decoded);
      return accumulator != nullptr ? accumulator : bind_flags(decoded);
    }
  }
}

}  // namespace trapeze::soft::exec
