// SHL, SHR, SAR, ROL, ROR, RCL, RCR, SHLD, SHRD.
#include "accel/soft/exec/host_alu.h"
#include "accel/soft/exec/operand.h"

namespace trapeze::soft::exec {
namespace {

inline uint8_t cl(const Cpu& cpu) { return reg<uint8_t>(cpu, kRcx * 8); }

template <typename Op>
struct Shift {
  template <typename T>
  [[gnu::always_inline]] static void in_reg(Cpu& cpu, const Insn& insn, uint8_t count) {
    ArithmeticFlags flags = cpu.arith;
    const T result = Op::run(reg<T>(cpu, insn.dst), count, flags);
    cpu.arith = flags;
    set_reg<T>(cpu, insn.dst, result);
  }
  template <typename T>
  struct RegCl {
    static Step run(Cpu& cpu, const Insn& insn) {
      in_reg<T>(cpu, insn, cl(cpu));
      return Step::Next;
    }
  };
  template <typename T>
  struct RegImm {
    static Step run(Cpu& cpu, const Insn& insn) {
      in_reg<T>(cpu, insn, static_cast<uint8_t>(insn.imm64));
      return Step::Next;
    }
  };

  template <typename Mem, typename T>
  [[gnu::always_inline]] static Step in_memory(Cpu& cpu, const Insn& insn, uint8_t count) {
    const ArithmeticFlags before = cpu.arith;
    const auto op = [&](T old) {
      ArithmeticFlags flags = before;
      const T result = Op::run(old, count, flags);
      cpu.arith = flags;
      return result;
    };
    if (!Mem::template modify<T>(cpu, insn, op)) return Step::Fault;
    return Step::Next;
  }
  template <typename Mem, typename T>
  struct MemCl {
    static Step run(Cpu& cpu, const Insn& insn) { return in_memory<Mem, T>(cpu, insn, cl(cpu)); }
  };
  template <typename Mem, typename T>
  struct MemImm {
    static Step run(Cpu& cpu, const Insn& insn) {
      return in_memory<Mem, T>(cpu, insn, static_cast<uint8_t>(insn.imm));
    }
  };

  static Handler bind_imm_reg(const Decoded& decoded) { return by_size<RegImm>(decoded.size(0)); }
  static Handler bind(const Decoded& decoded) {
    const unsigned size = decoded.size(0);
    if (decoded.is_mem(0)) {
      return decoded.is_imm(1) ? by_memory_and_size<MemImm>(decoded.insn, size)
                               : by_memory_and_size<MemCl>(decoded.insn, size);
    }
    return decoded.is_imm(1) ? bind_imm_reg(decoded) : by_size<RegCl>(size);
  }
};

// The hot form, SHL/SHR/SAR of a register by a constant, without loading the flags.
template <typename Op, typename Nonzero>
Handler bind_shift_op(const Decoded& decoded) {
  const int64_t mask = decoded.size(0) == 8 ? 63 : 31;
  const bool constant = !decoded.is_mem(0) && decoded.is_imm(1);
  if (constant && (decoded.insn.imm64 & mask) != 0) return Shift<Nonzero>::bind_imm_reg(decoded);
  return Shift<Op>::bind(decoded);
}

// Double shifts: `src` shifts in; a constant count is in aux.
template <typename Op>
struct DoubleShift {
  template <typename T, bool kByCl>
  static Step in_reg(Cpu& cpu, const Insn& insn) {
    const uint8_t count = kByCl ? cl(cpu) : insn.aux;
    ArithmeticFlags flags = cpu.arith;
    const T result = Op::run(reg<T>(cpu, insn.dst), reg<T>(cpu, insn.src), count, flags);
    cpu.arith = flags;
    set_reg<T>(cpu, insn.dst, result);
    return Step::Next;
  }
  template <typename T, bool kByCl>
  static Step in_memory(Cpu& cpu, const Insn& insn) {
    const uint8_t count = kByCl ? cl(cpu) : insn.aux;
    const ArithmeticFlags before = cpu.arith;
    const auto op = [&](T old) {
      ArithmeticFlags flags = before;
      const T result = Op::run(old, reg<T>(cpu, insn.src), count, flags);
      cpu.arith = flags;
      return result;
    };
    if (!modify<T>(cpu, insn, op)) return Step::Fault;
    return Step::Next;
  }
  template <typename T>
  struct RegCl {
    static Step run(Cpu& cpu, const Insn& insn) { return in_reg<T, true>(cpu, insn); }
  };
  template <typename T>
  struct RegImm {
    static Step run(Cpu& cpu, const Insn& insn) { return in_reg<T, false>(cpu, insn); }
  };
  template <typename T>
  struct MemCl {
    static Step run(Cpu& cpu, const Insn& insn) { return in_memory<T, true>(cpu, insn); }
  };
  template <typename T>
  struct MemImm {
    static Step run(Cpu& cpu, const Insn& insn) { return in_memory<T, false>(cpu, insn); }
  };

  static Handler bind(Decoded& decoded) {
    const unsigned size = decoded.size(0);
    const bool constant = decoded.is_imm(2);
    if (constant) decoded.insn.aux = static_cast<uint8_t>(immediate(decoded));
    if (decoded.is_mem(0)) return constant ? by_wide_size<MemImm>(size) : by_wide_size<MemCl>(size);
    return constant ? by_wide_size<RegImm>(size) : by_wide_size<RegCl>(size);
  }
};

}  // namespace

Handler bind_shift(Decoded& decoded) {
  switch (static_cast<int>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_SHL:
      return bind_shift_op<Shl, ShlNonzero>(decoded);
    case ZYDIS_MNEMONIC_SHR:
      return bind_shift_op<Shr, ShrNonzero>(decoded);
    case ZYDIS_MNEMONIC_SAR:
      return bind_shift_op<Sar, SarNonzero>(decoded);
    case ZYDIS_MNEMONIC_ROL:
      return Shift<Rol>::bind(decoded);
    case ZYDIS_MNEMONIC_ROR:
      return Shift<Ror>::bind(decoded);
    case ZYDIS_MNEMONIC_RCL:
      return Shift<Rcl>::bind(decoded);
    case ZYDIS_MNEMONIC_RCR:
      return Shift<Rcr>::bind(decoded);
    case ZYDIS_MNEMONIC_SHLD:
      return DoubleShift<Shld>::bind(decoded);
    case ZYDIS_MNEMONIC_SHRD:
      return DoubleShift<Shrd>::bind(decoded);
    default:
      return nullptr;
  }
}

}  // namespace trapeze::soft::exec
