// ADD, ADC, SUB, SBB, AND, OR, XOR, CMP, TEST, INC, DEC, NEG, NOT in all their forms.
#include "accel/soft/exec/host_alu.h"
#include "accel/soft/exec/operand.h"

namespace trapeze::soft::exec {
namespace {

// Forms of a two-operand instruction; Op is one of host_alu.h.
template <typename Op>
struct Binary {
  template <typename T>
  [[gnu::always_inline]] static void to_reg(Cpu& cpu, const Insn& insn, T b) {
    ArithmeticFlags flags = cpu.arith;
    const T result = Op::run(reg<T>(cpu, insn.dst), b, flags);
    cpu.arith = flags;
    if constexpr (Op::kWrites) set_reg<T>(cpu, insn.dst, result);
  }
  template <typename T>
  struct RegReg {
    static Step run(Cpu& cpu, const Insn& insn) {
      to_reg<T>(cpu, insn, reg<T>(cpu, insn.src));
      return Step::Next;
    }
  };
  template <typename T>
  struct RegImm {
    static Step run(Cpu& cpu, const Insn& insn) {
      to_reg<T>(cpu, insn, static_cast<T>(insn.imm64));
      return Step::Next;
    }
  };
  template <typename Mem, typename T>
  struct RegMem {
    static Step run(Cpu& cpu, const Insn& insn) {
      T b;
      if (!Mem::load(cpu, insn, b)) return Step::Fault;
      to_reg<T>(cpu, insn, b);
      return Step::Next;
    }
  };

  template <typename Mem, typename T>
  [[gnu::always_inline]] static Step to_memory(Cpu& cpu, const Insn& insn, T b) {
    const ArithmeticFlags before = cpu.arith;
    if constexpr (Op::kWrites) {
      const auto op = [&](T old) {
        ArithmeticFlags flags = before;
        const T result = Op::run(old, b, flags);
        cpu.arith = flags;
        return result;
      };
      if (!Mem::template modify<T>(cpu, insn, op)) return Step::Fault;
      return Step::Next;
    } else {
      T a;
      if (!Mem::load(cpu, insn, a)) return Step::Fault;
      ArithmeticFlags flags = before;
      Op::run(a, b, flags);
      cpu.arith = flags;
      return Step::Next;
    }
  }
  template <typename Mem, typename T>
  struct MemReg {
    static Step run(Cpu& cpu, const Insn& insn) {
      return to_memory<Mem, T>(cpu, insn, reg<T>(cpu, insn.src));
    }
  };
  template <typename Mem, typename T>
  struct MemImm {
    static Step run(Cpu& cpu, const Insn& insn) {
      return to_memory<Mem, T>(cpu, insn, static_cast<T>(insn.imm));
    }
  };

  static Handler bind(const Decoded& decoded) {
    const unsigned size = decoded.size(0);
    if (decoded.is_mem(0)) {
      return decoded.is_imm(1) ? by_memory_and_size<MemImm>(decoded.insn, size)
                               : by_memory_and_size<MemReg>(decoded.insn, size);
    }
    if (decoded.is_mem(1)) return by_memory_and_size<RegMem>(decoded.insn, size);
    return decoded.is_imm(1) ? by_size<RegImm>(size) : by_size<RegReg>(size);
  }
};

template <typename Op>
struct Unary {
  template <typename T>
  struct Reg {
    static Step run(Cpu& cpu, const Insn& insn) {
      ArithmeticFlags flags = cpu.arith;
      const T result = Op::run(reg<T>(cpu, insn.dst), flags);
      cpu.arith = flags;
      set_reg<T>(cpu, insn.dst, result);
      return Step::Next;
    }
  };
  template <typename Mem, typename T>
  struct InMemory {
    static Step run(Cpu& cpu, const Insn& insn) {
      const ArithmeticFlags before = cpu.arith;
      const auto op = [&](T old) {
        ArithmeticFlags flags = before;
        const T result = Op::run(old, flags);
        cpu.arith = flags;
        return result;
      };
      if (!Mem::template modify<T>(cpu, insn, op)) return Step::Fault;
      return Step::Next;
    }
  };

  static Handler bind(const Decoded& decoded) {
    if (decoded.is_mem(0)) return by_memory_and_size<InMemory>(decoded.insn, decoded.size(0));
    return by_size<Reg>(decoded.size(0));
  }
};

struct Not {
  template <typename T>
  static T run(T a, const ArithmeticFlags&) {
    return static_cast<T>(~a);
  }
};

}  // namespace

Handler bind_alu(Decoded& decoded) {
  switch (static_cast<int>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_ADD:
      return Binary<Add>::bind(decoded);
    case ZYDIS_MNEMONIC_ADC:
      return Binary<Adc>::bind(decoded);
    case ZYDIS_MNEMONIC_SUB:
      return Binary<Sub>::bind(decoded);
    case ZYDIS_MNEMONIC_SBB:
      return Binary<Sbb>::bind(decoded);
    case ZYDIS_MNEMONIC_AND:
      return Binary<And>::bind(decoded);
    case ZYDIS_MNEMONIC_OR:
      return Binary<Or>::bind(decoded);
    case ZYDIS_MNEMONIC_XOR:
      return Binary<Xor>::bind(decoded);
    case ZYDIS_MNEMONIC_CMP:
      return Binary<Cmp>::bind(decoded);
    case ZYDIS_MNEMONIC_TEST:
      return Binary<Test>::bind(decoded);
    case ZYDIS_MNEMONIC_INC:
      return Unary<Inc>::bind(decoded);
    case ZYDIS_MNEMONIC_DEC:
      return Unary<Dec>::bind(decoded);
    case ZYDIS_MNEMONIC_NEG:
      return Unary<Neg>::bind(decoded);
    case ZYDIS_MNEMONIC_NOT:
      return Unary<Not>::bind(decoded);
    default:
      return nullptr;
  }
}

}  // namespace trapeze::soft::exec
