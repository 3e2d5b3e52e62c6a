// BT, BTS, BTR, BTC, BSF, BSR, TZCNT, LZCNT, POPCNT, CRC32.
#include "accel/soft/exec/operand.h"

namespace trapeze::soft::exec {
namespace {

// --- bit test: only CF changes

struct Keep {
  static constexpr bool kWrites = false;
  template <typename T>
  static T run(T value, T) {
    return value;
  }
};
struct SetBit {
  static constexpr bool kWrites = true;
  template <typename T>
  static T run(T value, T mask) {
    return static_cast<T>(value | mask);
  }
};
struct ResetBit {
  static constexpr bool kWrites = true;
  template <typename T>
  static T run(T value, T mask) {
    return static_cast<T>(value & ~mask);
  }
};
struct ComplementBit {
  static constexpr bool kWrites = true;
  template <typename T>
  static T run(T value, T mask) {
    return static_cast<T>(value ^ mask);
  }
};

inline void set_carry(Cpu& cpu, bool carry) {
  const unsigned others = cpu.arith & ~unsigned{kArithCf};
  cpu.arith = static_cast<ArithmeticFlags>(others | (carry ? unsigned{kArithCf} : 0U));
}

template <typename Op>
struct BitTest {
  // `index` counts within the register; the upper bits are ignored.
  template <typename T>
  [[gnu::always_inline]] static void in_reg(Cpu& cpu, const Insn& insn, uint64_t index) {
    const T value = reg<T>(cpu, insn.dst);
    const unsigned bit = index % (8 * sizeof(T));
    set_carry(cpu, ((value >> bit) & 1U) != 0);
    if constexpr (Op::kWrites) {
      set_reg<T>(cpu, insn.dst, Op::run(value, static_cast<T>(T{1} << bit)));
    }
  }
  template <typename T>
  struct RegReg {
    static Step run(Cpu& cpu, const Insn& insn) {
      in_reg<T>(cpu, insn, reg<T>(cpu, insn.src));
      return Step::Next;
    }
  };
  template <typename T>
  struct RegImm {
    static Step run(Cpu& cpu, const Insn& insn) {
      in_reg<T>(cpu, insn, static_cast<uint64_t>(insn.imm64));
      return Step::Next;
    }
  };

  template <typename T>
  static Step in_memory(Cpu& cpu, const Insn& insn, uint64_t linear, unsigned bit) {
    const T mask = static_cast<T>(T{1} << bit);
    if constexpr (Op::kWrites) {
      const auto op = [&](T old) {
        set_carry(cpu, (old & mask) != 0);
        return Op::run(old, mask);
      };
      const bool locked = (insn.flags & kLock) != 0;
      if (!modify_linear<T>(cpu, linear, locked, insn.seg, op)) return Step::Fault;
      return Step::Next;
    } else {
      T value;
      if (!read_linear<T>(cpu, linear, value, insn.seg)) return Step::Fault;
      set_carry(cpu, (value & mask) != 0);
      return Step::Next;
    }
  }
  static constexpr Access kAccess = Op::kWrites ? Access::ReadWrite : Access::Read;

  // With a register the operand is a bit string: the signed index reaches beyond the operand.
  template <typename T>
  struct MemReg {
    static Step run(Cpu& cpu, const Insn& insn) {
      const auto index = static_cast<std::make_signed_t<T>>(reg<T>(cpu, insn.src));
      constexpr int kBits = 8 * sizeof(T);
      const int64_t element = static_cast<int64_t>(index) >> __builtin_ctz(kBits);
      const uint64_t offset =
          (effective_address(cpu, insn) + static_cast<uint64_t>(element) * sizeof(T)) &
          address_mask(insn);
      uint64_t linear = offset;
      if ((insn.flags & kSlowAddress) != 0 &&
          !segment_to_linear(cpu, insn.seg, offset, sizeof(T), kAccess, linear))
        return Step::Fault;
      return in_memory<T>(cpu, insn, linear, static_cast<unsigned>(index & (kBits - 1)));
    }
  };
  template <typename T>
  struct MemImm {
    static Step run(Cpu& cpu, const Insn& insn) {
      uint64_t linear = 0;
      if (!linear_address(cpu, insn, sizeof(T), kAccess, linear)) return Step::Fault;
      const unsigned bit = static_cast<unsigned>(insn.imm) % (8 * sizeof(T));
      return in_memory<T>(cpu, insn, linear, bit);
    }
  };

  static Handler bind(const Decoded& decoded) {
    const unsigned size = decoded.size(0);
    if (decoded.is_mem(0)) {
      return decoded.is_imm(1) ? by_wide_size<MemImm>(size) : by_wide_size<MemReg>(size);
    }
    return decoded.is_imm(1) ? by_wide_size<RegImm>(size) : by_wide_size<RegReg>(size);
  }
};

// --- operations with a register or memory source and a register destination

template <typename Op>
struct Unary {
  template <typename T>
  struct Reg {
    static Step run(Cpu& cpu, const Insn& insn) {
      Op::run(cpu, insn, reg<T>(cpu, insn.src));
      return Step::Next;
    }
  };
  template <typename Mem, typename T>
  struct Memory {
    static Step run(Cpu& cpu, const Insn& insn) {
      T value;
      if (!Mem::load(cpu, insn, value)) return Step::Fault;
      Op::run(cpu, insn, value);
      return Step::Next;
    }
  };
  static Handler bind(const Decoded& decoded) {
    if (decoded.is_mem(1)) return by_memory_and_wide_size<Memory>(decoded.insn, decoded.size(1));
    return by_wide_size<Reg>(decoded.size(1));
  }
};

// A source of 0 leaves the destination alone, for 32 bits its upper half too: so the host's
// instruction gets the whole old register, and all of what it left is stored.
#define TRAPEZE_BIT_SCAN(Name, mnemonic)                            \
  struct Name {                                                     \
    template <typename T>                                           \
    static void run(Cpu& cpu, const Insn& insn, T source) {         \
      uint64_t result = reg<uint64_t>(cpu, insn.dst);               \
      ArithmeticFlags flags;                                        \
      if constexpr (sizeof(T) == 2) {                               \
        asm(mnemonic " %w[source], %w[result]\n\tlahf\n\tseto %%al" \
            : [result] "+r"(result), "=a"(flags)                    \
            : [source] "r"(source)                                  \
            : "cc");                                                \
      } else if constexpr (sizeof(T) == 4) {                        \
        asm(mnemonic " %k[source], %k[result]\n\tlahf\n\tseto %%al" \
            : [result] "+r"(result), "=a"(flags)                    \
            : [source] "r"(source)                                  \
            : "cc");                                                \
      } else {                                                      \
        asm(mnemonic " %q[source], %q[result]\n\tlahf\n\tseto %%al" \
            : [result] "+r"(result), "=a"(flags)                    \
            : [source] "r"(source)                                  \
            : "cc");                                                \
      }                                                             \
      set_reg<uint64_t>(cpu, insn.dst, result);                     \
      cpu.arith = flags;                                            \
    }                                                               \
  };
TRAPEZE_BIT_SCAN(Bsf, "bsf")
TRAPEZE_BIT_SCAN(Bsr, "bsr")
#undef TRAPEZE_BIT_SCAN

// A CPU model has TZCNT and LZCNT only where the host has them.
#define TRAPEZE_BIT_COUNT(Name, mnemonic)                       \
  struct Name {                                                 \
    template <typename T>                                       \
    static void run(Cpu& cpu, const Insn& insn, T source) {     \
      T result;                                                 \
      ArithmeticFlags flags;                                    \
      asm(mnemonic " %[source], %[result]\n\tlahf\n\tseto %%al" \
          : [result] "=r"(result), "=a"(flags)                  \
          : [source] "r"(source)                                \
          : "cc");                                              \
      set_reg<T>(cpu, insn.dst, result);                        \
      cpu.arith = flags;                                        \
    }                                                           \
  };
TRAPEZE_BIT_COUNT(Popcnt, "popcnt")
TRAPEZE_BIT_COUNT(Tzcnt, "tzcnt")
TRAPEZE_BIT_COUNT(Lzcnt, "lzcnt")
#undef TRAPEZE_BIT_COUNT

// --- CRC32 (polynomial 0x11edc6f41); no flags

template <typename T>
uint32_t crc32(uint32_t crc, T source) {
  if constexpr (sizeof(T) == 1) {
    asm("crc32b %[source], %[crc]" : [crc] "+r"(crc) : [source] "r"(source));
    return crc;
  } else if constexpr (sizeof(T) == 2) {
    asm("crc32w %[source], %[crc]" : [crc] "+r"(crc) : [source] "r"(source));
    return crc;
  } else if constexpr (sizeof(T) == 4) {
    asm("crc32l %[source], %[crc]" : [crc] "+r"(crc) : [source] "r"(source));
    return crc;
  } else {
    uint64_t wide = crc;
    asm("crc32q %[source], %[crc]" : [crc] "+r"(wide) : [source] "r"(source));
    return static_cast<uint32_t>(wide);
  }
}
// The result has 32 bits also where the destination is a 64-bit register.
template <typename T>
struct Crc32Reg {
  static Step run(Cpu& cpu, const Insn& insn) {
    const auto crc = reg<uint32_t>(cpu, insn.dst);
    set_reg<uint32_t>(cpu, insn.dst, crc32<T>(crc, reg<T>(cpu, insn.src)));
    return Step::Next;
  }
};
template <typename Mem, typename T>
struct Crc32Mem {
  static Step run(Cpu& cpu, const Insn& insn) {
    T source;
    if (!Mem::load(cpu, insn, source)) return Step::Fault;
    set_reg<uint32_t>(cpu, insn.dst, crc32<T>(reg<uint32_t>(cpu, insn.dst), source));
    return Step::Next;
  }
};

}  // namespace

Handler bind_bit(Decoded& decoded) {
  switch (static_cast<int>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_BT:
      return BitTest<Keep>::bind(decoded);
    case ZYDIS_MNEMONIC_BTS:
      return BitTest<SetBit>::bind(decoded);
    case ZYDIS_MNEMONIC_BTR:
      return BitTest<ResetBit>::bind(decoded);
    case ZYDIS_MNEMONIC_BTC:
      return BitTest<ComplementBit>::bind(decoded);
    case ZYDIS_MNEMONIC_BSF:
      return Unary<Bsf>::bind(decoded);
    case ZYDIS_MNEMONIC_BSR:
      return Unary<Bsr>::bind(decoded);
    case ZYDIS_MNEMONIC_TZCNT:
      return Unary<Tzcnt>::bind(decoded);
    case ZYDIS_MNEMONIC_LZCNT:
      return Unary<Lzcnt>::bind(decoded);
    case ZYDIS_MNEMONIC_POPCNT:
      return Unary<Popcnt>::bind(decoded);
    case ZYDIS_MNEMONIC_CRC32:
      return decoded.is_mem(1) ? by_memory_and_size<Crc32Mem>(decoded.insn, decoded.size(1))
                               : by_size<Crc32Reg>(decoded.size(1));
    default:
      return nullptr;
  }
}

}  // namespace trapeze::soft::exec
