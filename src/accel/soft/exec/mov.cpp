// MOV between general registers, memory and immediates; MOVZX, MOVSX, MOVSXD, MOVBE, MOVNTI, LEA,
// XCHG, BSWAP, XLAT.
#include "accel/soft/exec/operand.h"

namespace trapeze::soft::exec {
namespace {

template <typename T>
struct MovRegReg {
  static Step run(Cpu& cpu, const Insn& insn) {
    set_reg<T>(cpu, insn.dst, reg<T>(cpu, insn.src));
    return Step::Next;
  }
};

template <typename T>
struct MovRegImm {
  static Step run(Cpu& cpu, const Insn& insn) {
    set_reg<T>(cpu, insn.dst, static_cast<T>(insn.imm64));
    return Step::Next;
  }
};

template <typename Mem, typename T>
struct MovRegMem {
  static Step run(Cpu& cpu, const Insn& insn) {
    T value;
    if (!Mem::load(cpu, insn, value)) return Step::Fault;
    set_reg<T>(cpu, insn.dst, value);
    return Step::Next;
  }
};

template <typename Mem, typename T>
struct MovMemReg {
  static Step run(Cpu& cpu, const Insn& insn) {
    if (!Mem::store(cpu, insn, reg<T>(cpu, insn.src))) return Step::Fault;
    return Step::Next;
  }
};

template <typename Mem, typename T>
struct MovMemImm {
  static Step run(Cpu& cpu, const Insn& insn) {
    if (!Mem::store(cpu, insn, static_cast<T>(insn.imm))) return Step::Fault;
    return Step::Next;
  }
};

// MOV AL/AX/EAX/RAX with an absolute 64-bit offset, which is in imm64.
template <typename T>
struct MovFromOffset {
  static Step run(Cpu& cpu, const Insn& insn) {
    uint64_t linear = 0;
    T value;
    const auto offset = static_cast<uint64_t>(insn.imm64);
    if (!segment_to_linear(cpu, insn.seg, offset, sizeof(T), Access::Read, linear) ||
        !read_linear<T>(cpu, linear, value, insn.seg))
      return Step::Fault;
    set_reg<T>(cpu, insn.dst, value);
    return Step::Next;
  }
};
template <typename T>
struct MovToOffset {
  static Step run(Cpu& cpu, const Insn& insn) {
    uint64_t linear = 0;
    const auto offset = static_cast<uint64_t>(insn.imm64);
    if (!segment_to_linear(cpu, insn.seg, offset, sizeof(T), Access::Write, linear) ||
        !write_linear<T>(cpu, linear, reg<T>(cpu, insn.src), insn.seg))
      return Step::Fault;
    return Step::Next;
  }
};

// MOVZX and MOVSX: To is the destination, From the source with the signedness of the extension.
template <typename To, typename From>
struct ExtendReg {
  static Step run(Cpu& cpu, const Insn& insn) {
    set_reg<To>(cpu, insn.dst, static_cast<To>(reg<From>(cpu, insn.src)));
    return Step::Next;
  }
};
template <typename To>
struct ExtendTo {
  template <typename Mem, typename From>
  struct Load {
    static Step run(Cpu& cpu, const Insn& insn) {
      From value;
      if (!Mem::load(cpu, insn, value)) return Step::Fault;
      set_reg<To>(cpu, insn.dst, static_cast<To>(value));
      return Step::Next;
    }
  };
};

template <typename T>
struct Lea {
  static Step run(Cpu& cpu, const Insn& insn) {
    set_reg<T>(cpu, insn.dst, static_cast<T>(effective_address(cpu, insn)));
    return Step::Next;
  }
};
// LEA in 64-bit code with 64-bit addresses, without and with an index.
template <typename T, typename Address>
struct FastLea {
  static Step run(Cpu& cpu, const Insn& insn) {
    set_reg<T>(cpu, insn.dst, static_cast<T>(Address::linear(cpu, insn)));
    return Step::Next;
  }
};

template <typename T>
struct XchgRegReg {
  static Step run(Cpu& cpu, const Insn& insn) {
    const T a = reg<T>(cpu, insn.dst);
    const T b = reg<T>(cpu, insn.src);
    set_reg<T>(cpu, insn.dst, b);
    set_reg<T>(cpu, insn.src, a);
    return Step::Next;
  }
};

// Locked with or without the prefix (SDM 3A 9.1.2.1). The register operand is in `aux`.
template <typename T>
struct XchgMemReg {
  static Step run(Cpu& cpu, const Insn& insn) {
    uint64_t linear = 0;
    if (!linear_address(cpu, insn, sizeof(T), Access::ReadWrite, linear)) return Step::Fault;
    const T ours = reg<T>(cpu, insn.aux);
    T theirs{};
    const auto swap = [&](T old) {
      theirs = old;
      return ours;
    };
    if (!modify_linear<T>(cpu, linear, true, insn.seg, swap)) return Step::Fault;
    set_reg<T>(cpu, insn.aux, theirs);
    return Step::Next;
  }
};

template <typename T>
T swap_bytes(T value) {
  if constexpr (sizeof(T) == 2) {
    return __builtin_bswap16(value);
  } else if constexpr (sizeof(T) == 4) {
    return __builtin_bswap32(value);
  } else {
    return __builtin_bswap64(value);
  }
}
template <typename T>
struct Bswap {
  static Step run(Cpu& cpu, const Insn& insn) {
    // 16 bits are undefined; CPUs clear them.
    const T value = reg<T>(cpu, insn.dst);
    set_reg<T>(cpu, insn.dst, sizeof(T) == 2 ? T{0} : swap_bytes(value));
    return Step::Next;
  }
};
template <typename Mem, typename T>
struct MovbeLoad {
  static Step run(Cpu& cpu, const Insn& insn) {
    T value;
    if (!Mem::load(cpu, insn, value)) return Step::Fault;
    set_reg<T>(cpu, insn.dst, swap_bytes(value));
    return Step::Next;
  }
};
template <typename Mem, typename T>
struct MovbeStore {
  static Step run(Cpu& cpu, const Insn& insn) {
    if (!Mem::store(cpu, insn, swap_bytes(reg<T>(cpu, insn.src)))) return Step::Fault;
    return Step::Next;
  }
};

Step xlat(Cpu& cpu, const Insn& insn) {
  const uint64_t offset = (cpu.gpr[kRbx] + reg<uint8_t>(cpu, kRax * 8)) & address_mask(insn);
  uint64_t linear = 0;
  uint8_t value = 0;
  if (!segment_to_linear(cpu, insn.seg, offset, 1, Access::Read, linear) ||
      !read_linear<uint8_t>(cpu, linear, value, insn.seg))
    return Step::Fault;
  set_reg<uint8_t>(cpu, kRax * 8, value);
  return Step::Next;
}

Handler bind_plain_mov(Decoded& decoded) {
  const Insn& insn = decoded.insn;
  const unsigned size = decoded.size(0);
  const bool absolute = decoded.zy.raw.disp.size == 64;
  if (decoded.is_mem(0)) {
    if (decoded.is_imm(1)) return by_memory_and_size<MovMemImm>(insn, size);
    if (!is_gpr(decoded, 1)) return nullptr;
    return absolute ? by_size<MovToOffset>(size) : by_memory_and_size<MovMemReg>(insn, size);
  }
  if (!is_gpr(decoded, 0)) return nullptr;
  if (decoded.is_imm(1)) return by_size<MovRegImm>(size);
  if (decoded.is_mem(1)) {
    return absolute ? by_size<MovFromOffset>(size) : by_memory_and_size<MovRegMem>(insn, size);
  }
  return is_gpr(decoded, 1) ? by_size<MovRegReg>(size) : nullptr;
}

// `From` of the signedness of the extension.
template <typename To, typename From>
Handler bind_extend_from(const Decoded& decoded) {
  if (decoded.is_mem(1)) return by_memory<ExtendTo<To>::template Load, From>(decoded.insn);
  return &handler<ExtendReg<To, From>::run>;
}
template <typename To, bool kSigned>
Handler bind_extend_to(const Decoded& decoded) {
  switch (decoded.size(1)) {
    case 1:
      return bind_extend_from<To, std::conditional_t<kSigned, int8_t, uint8_t>>(decoded);
    case 2:
      return bind_extend_from<To, std::conditional_t<kSigned, int16_t, uint16_t>>(decoded);
    case 4:
      return bind_extend_from<To, std::conditional_t<kSigned, int32_t, uint32_t>>(decoded);
    default:
      return nullptr;
  }
}
template <bool kSigned>
Handler bind_extend(const Decoded& decoded) {
  switch (decoded.size(0)) {
    case 2:
      // MOVSXD to 16 bits takes as many from memory, too.
      if (decoded.size(1) == 4) return bind_extend_from<uint16_t, uint16_t>(decoded);
      return bind_extend_to<uint16_t, kSigned>(decoded);
    case 4:
      return bind_extend_to<uint32_t, kSigned>(decoded);
    case 8:
      return bind_extend_to<uint64_t, kSigned>(decoded);
    default:
      return nullptr;
  }
}

template <typename T>
using LeaBase = FastLea<T, BaseDisp>;
template <typename T>
using LeaBaseIndex = FastLea<T, BaseIndexDisp>;

Handler bind_lea(const Decoded& decoded) {
  const Insn& insn = decoded.insn;
  const unsigned size = decoded.size(0);
  if ((insn.flags & (kAddress32 | kAddress16)) != 0) return by_wide_size<Lea>(size);
  return insn.index == kZeroReg * 8 ? by_wide_size<LeaBase>(size)
                                    : by_wide_size<LeaBaseIndex>(size);
}

Handler bind_xchg(Decoded& decoded) {
  const unsigned size = decoded.size(0);
  if (!has_memory(decoded)) return by_size<XchgRegReg>(size);
  decoded.insn.aux = decoded.is_mem(0) ? decoded.insn.src : decoded.insn.dst;
  return by_size<XchgMemReg>(size);
}

}  // namespace

Handler bind_mov(Decoded& decoded) {
  const Insn& insn = decoded.insn;
  switch (static_cast<int>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_MOV:
      return bind_plain_mov(decoded);
    case ZYDIS_MNEMONIC_MOVZX:
      return bind_extend<false>(decoded);
    case ZYDIS_MNEMONIC_MOVSX:
    case ZYDIS_MNEMONIC_MOVSXD:
      return bind_extend<true>(decoded);
    case ZYDIS_MNEMONIC_LEA:
      return bind_lea(decoded);
    case ZYDIS_MNEMONIC_XCHG:
      return bind_xchg(decoded);
    case ZYDIS_MNEMONIC_BSWAP:
      return by_wide_size<Bswap>(decoded.size(0));
    case ZYDIS_MNEMONIC_MOVBE:
      return decoded.is_mem(1) ? by_memory_and_wide_size<MovbeLoad>(insn, decoded.size(0))
                               : by_memory_and_wide_size<MovbeStore>(insn, decoded.size(0));
    case ZYDIS_MNEMONIC_MOVNTI:
      return by_memory_and_wide_size<MovMemReg>(insn, decoded.size(0));
    case ZYDIS_MNEMONIC_XLAT:
      decoded.insn.seg = hidden_segment(decoded, 0);
      return &handler<xlat>;
    default:
      return nullptr;
  }
}

}  // namespace trapeze::soft::exec
