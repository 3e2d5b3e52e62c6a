// MUL, IMUL (one, two and three operands), DIV, IDIV.
#include <type_traits>

#include "accel/soft/exec/host_alu.h"
#include "accel/soft/exec/operand.h"

namespace trapeze::soft::exec {
namespace {

// The accumulator pair rDX:rAX; AX for 8 bits.
template <typename T>
struct Pair {
  T low, high;
};
template <typename T>
Pair<T> accumulator_pair(const Cpu& cpu) {
  if constexpr (sizeof(T) == 1) {
    return {reg<T>(cpu, kRax * 8), reg<T>(cpu, kRax * 8 + 1)};
  } else {
    return {reg<T>(cpu, kRax * 8), reg<T>(cpu, kRdx * 8)};
  }
}
template <typename T>
void set_accumulator_pair(Cpu& cpu, Pair<T> value) {
  set_reg<T>(cpu, kRax * 8, value.low);
  set_reg<T>(cpu, sizeof(T) == 1 ? kRax * 8 + 1 : kRdx * 8, value.high);
}

// --- widening multiplication by the host's instruction; MOV keeps the flags for LAHF

#define TRAPEZE_MULTIPLY(Name, mnemonic)                                  \
  struct Name {                                                           \
    template <typename T>                                                 \
    static Pair<T> multiply(T a, T b, ArithmeticFlags& flags) {           \
      if constexpr (sizeof(T) == 1) {                                     \
        uint16_t ax = a;                                                  \
        uint16_t product;                                                 \
        asm(mnemonic " %[b]\n\tmov %%ax, %[product]\n\tlahf\n\tseto %%al" \
            : "+a"(ax), [product] "=r"(product)                           \
            : [b] "r"(b)                                                  \
            : "cc");                                                      \
        flags = ax;                                                       \
        return {static_cast<T>(product), static_cast<T>(product >> 8)};   \
      } else {                                                            \
        T low;                                                            \
        T high;                                                           \
        asm(mnemonic " %[b]\n\tmov %[a], %[low]\n\tlahf\n\tseto %%al"     \
            : [a] "+a"(a), [low] "=r"(low), "=d"(high)                    \
            : [b] "r"(b)                                                  \
            : "cc");                                                      \
        flags = static_cast<ArithmeticFlags>(a);                          \
        return {low, high};                                               \
      }                                                                   \
    }                                                                     \
    template <typename T>                                                 \
    static Step run(Cpu& cpu, T source) {                                 \
      ArithmeticFlags flags = 0;                                          \
      const T accumulator = reg<T>(cpu, kRax * 8);                        \
      set_accumulator_pair(cpu, multiply<T>(accumulator, source, flags)); \
      cpu.arith = flags;                                                  \
      return Step::Next;                                                  \
    }                                                                     \
  };
TRAPEZE_MULTIPLY(WidenUnsigned, "mul")
TRAPEZE_MULTIPLY(WidenSigned, "imul")
#undef TRAPEZE_MULTIPLY

// --- division: #DE is decided first, so that the host never meets it. Flags are undefined after
// DIV and IDIV; they stay.

struct DivideUnsigned {
  template <typename T>
  static Step run(Cpu& cpu, T divisor) {
    Pair<T> value = accumulator_pair<T>(cpu);
    // The quotient fits when it is less than 2^bits: high < divisor, which excludes 0 too.
    if (value.high >= divisor) return raise(cpu, kDE);
    if constexpr (sizeof(T) == 8) {
      asm("div %[divisor]" : "+a"(value.low), "+d"(value.high) : [divisor] "r"(divisor) : "cc");
    } else {
      constexpr unsigned kBits = 8 * sizeof(T);
      const uint64_t dividend = (uint64_t{value.high} << kBits) | value.low;
      value = {static_cast<T>(dividend / divisor), static_cast<T>(dividend % divisor)};
    }
    set_accumulator_pair(cpu, value);
    return Step::Next;
  }
};

struct DivideSigned {
  template <typename T>
  static Step run(Cpu& cpu, T divisor) {
    constexpr unsigned kBits = 8 * sizeof(T);
    // Wide enough for the dividend and for every product below.
    using Wide = std::conditional_t<sizeof(T) == 8, unsigned __int128, uint64_t>;
    using SignedWide = std::conditional_t<sizeof(T) == 8, __int128, int64_t>;
    Pair<T> value = accumulator_pair<T>(cpu);
    const Wide raw = (Wide{value.high} << kBits) | value.low;
    // Sign-extended from 2 * kBits to the width of Wide.
    constexpr unsigned kSpare = 8 * sizeof(Wide) - 2 * kBits;
    const auto dividend = static_cast<SignedWide>(raw << kSpare) >> kSpare;
    const auto signed_divisor = static_cast<std::make_signed_t<T>>(divisor);
    const Wide dividend_size =
        dividend < 0 ? Wide{0} - static_cast<Wide>(dividend) : static_cast<Wide>(dividend);
    const Wide divisor_size = signed_divisor < 0 ? static_cast<T>(T{0} - divisor) : divisor;
    // A positive quotient fits below 2^(bits-1), a negative one has room for one more.
    const bool negative = (dividend < 0) != (signed_divisor < 0);
    const Wide bound = (Wide{1} << (kBits - 1)) + (negative ? 1 : 0);
    if (divisor == 0 || dividend_size >= divisor_size * bound) return raise(cpu, kDE);
    if constexpr (sizeof(T) == 8) {
      asm("idiv %[divisor]" : "+a"(value.low), "+d"(value.high) : [divisor] "r"(divisor) : "cc");
    } else {
      value = {static_cast<T>(dividend / signed_divisor),
               static_cast<T>(dividend % signed_divisor)};
    }
    set_accumulator_pair(cpu, value);
    return Step::Next;
  }
};

// One-operand forms: the operand is explicit operand 0.
template <typename Op>
struct OneOperand {
  template <typename T>
  struct Reg {
    static Step run(Cpu& cpu, const Insn& insn) { return Op::run(cpu, reg<T>(cpu, insn.dst)); }
  };
  template <typename Mem, typename T>
  struct Memory {
    static Step run(Cpu& cpu, const Insn& insn) {
      T source;
      if (!Mem::load(cpu, insn, source)) return Step::Fault;
      return Op::run(cpu, source);
    }
  };
  static Handler bind(const Decoded& decoded) {
    if (decoded.is_mem(0)) return by_memory_and_size<Memory>(decoded.insn, decoded.size(0));
    return by_size<Reg>(decoded.size(0));
  }
};

// --- IMUL with a destination

template <typename T>
Step imul_to(Cpu& cpu, const Insn& insn, T a, T b) {
  ArithmeticFlags flags = 0;
  const T product = Imul::run(a, b, flags);
  set_reg<T>(cpu, insn.dst, product);
  cpu.arith = flags;
  return Step::Next;
}
template <typename T>
struct ImulReg {
  static Step run(Cpu& cpu, const Insn& insn) {
    return imul_to<T>(cpu, insn, reg<T>(cpu, insn.dst), reg<T>(cpu, insn.src));
  }
};
template <typename Mem, typename T>
struct ImulMem {
  static Step run(Cpu& cpu, const Insn& insn) {
    T source;
    if (!Mem::load(cpu, insn, source)) return Step::Fault;
    return imul_to<T>(cpu, insn, reg<T>(cpu, insn.dst), source);
  }
};
template <typename T>
struct ImulRegImm {
  static Step run(Cpu& cpu, const Insn& insn) {
    return imul_to<T>(cpu, insn, reg<T>(cpu, insn.src), static_cast<T>(insn.imm64));
  }
};
template <typename Mem, typename T>
struct ImulMemImm {
  static Step run(Cpu& cpu, const Insn& insn) {
    T source;
    if (!Mem::load(cpu, insn, source)) return Step::Fault;
    return imul_to<T>(cpu, insn, source, static_cast<T>(insn.imm));
  }
};

Handler bind_imul(const Decoded& decoded) {
  if (decoded.zy.operand_count_visible == 1) return OneOperand<WidenSigned>::bind(decoded);
  const Insn& insn = decoded.insn;
  const unsigned size = decoded.size(0);
  if (decoded.is_imm(2)) {
    return decoded.is_mem(1) ? by_memory_and_wide_size<ImulMemImm>(insn, size)
                             : by_wide_size<ImulRegImm>(size);
  }
  return decoded.is_mem(1) ? by_memory_and_wide_size<ImulMem>(insn, size)
                           : by_wide_size<ImulReg>(size);
}

}  // namespace

Handler bind_muldiv(Decoded& decoded) {
  switch (static_cast<int>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_MUL:
      return OneOperand<WidenUnsigned>::bind(decoded);
    case ZYDIS_MNEMONIC_IMUL:
      return bind_imul(decoded);
    case ZYDIS_MNEMONIC_DIV:
      return OneOperand<DivideUnsigned>::bind(decoded);
    case ZYDIS_MNEMONIC_IDIV:
      return OneOperand<DivideSigned>::bind(decoded);
    default:
      return nullptr;
  }
}

}  // namespace trapeze::soft::exec
