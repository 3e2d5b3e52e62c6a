// CMOVcc and SETcc: one handler for each condition, so that it tests cpu.arith directly.
#include <array>
#include <utility>

#include "accel/soft/exec/operand.h"

namespace trapeze::soft::exec {
namespace {

template <unsigned cc>
struct If {
  // A 32-bit CMOV clears the upper half of its destination also when it does not move.
  template <typename T>
  struct CmovReg {
    static Step run(Cpu& cpu, const Insn& insn) {
      const T moved = reg<T>(cpu, insn.src);
      const T kept = reg<T>(cpu, insn.dst);
      set_reg<T>(cpu, insn.dst, condition_holds(cc, cpu.arith) ? moved : kept);
      return Step::Next;
    }
  };
  // The load is done, and may fault, whatever the condition.
  template <typename Mem, typename T>
  struct CmovMem {
    static Step run(Cpu& cpu, const Insn& insn) {
      T moved;
      if (!Mem::load(cpu, insn, moved)) return Step::Fault;
      const T kept = reg<T>(cpu, insn.dst);
      set_reg<T>(cpu, insn.dst, condition_holds(cc, cpu.arith) ? moved : kept);
      return Step::Next;
    }
  };
  static Step set_reg_cc(Cpu& cpu, const Insn& insn) {
    set_reg<uint8_t>(cpu, insn.dst, condition_holds(cc, cpu.arith) ? 1 : 0);
    return Step::Next;
  }
  template <typename Mem, typename T>
  struct SetMem {
    static Step run(Cpu& cpu, const Insn& insn) {
      const T value = condition_holds(cc, cpu.arith) ? 1 : 0;
      if (!Mem::store(cpu, insn, value)) return Step::Fault;
      return Step::Next;
    }
  };

  static Handler bind_cmov(const Decoded& decoded) {
    if (!decoded.is_mem(1)) return by_wide_size<CmovReg>(decoded.size(0));
    return by_memory_and_wide_size<CmovMem>(decoded.insn, decoded.size(0));
  }
  static Handler bind_setcc(const Decoded& decoded) {
    if (!decoded.is_mem(0)) return &handler<set_reg_cc>;
    return by_memory<SetMem, uint8_t>(decoded.insn);
  }
};

using Bind = Handler (*)(const Decoded&);
template <unsigned... cc>
constexpr std::array<Bind, 16> cmov_table(std::integer_sequence<unsigned, cc...>) {
  return {&If<cc>::bind_cmov...};
}
template <unsigned... cc>
constexpr std::array<Bind, 16> setcc_table(std::integer_sequence<unsigned, cc...>) {
  return {&If<cc>::bind_setcc...};
}
constexpr auto kCmov = cmov_table(std::make_integer_sequence<unsigned, 16>());
constexpr auto kSetcc = setcc_table(std::make_integer_sequence<unsigned, 16>());

}  // namespace

Handler bind_condition(Decoded& decoded) {
  const unsigned cc = decoded.zy.opcode & 15U;  // SDM 1 appendix B
  switch (static_cast<int>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_CMOVB:
    case ZYDIS_MNEMONIC_CMOVBE:
    case ZYDIS_MNEMONIC_CMOVL:
    case ZYDIS_MNEMONIC_CMOVLE:
    case ZYDIS_MNEMONIC_CMOVNB:
    case ZYDIS_MNEMONIC_CMOVNBE:
    case ZYDIS_MNEMONIC_CMOVNL:
    case ZYDIS_MNEMONIC_CMOVNLE:
    case ZYDIS_MNEMONIC_CMOVNO:
    case ZYDIS_MNEMONIC_CMOVNP:
    case ZYDIS_MNEMONIC_CMOVNS:
    case ZYDIS_MNEMONIC_CMOVNZ:
    case ZYDIS_MNEMONIC_CMOVO:
    case ZYDIS_MNEMONIC_CMOVP:
    case ZYDIS_MNEMONIC_CMOVS:
    case ZYDIS_MNEMONIC_CMOVZ:
      return kCmov[cc](decoded);
    case ZYDIS_MNEMONIC_SETB:
    case ZYDIS_MNEMONIC_SETBE:
    case ZYDIS_MNEMONIC_SETL:
    case ZYDIS_MNEMONIC_SETLE:
    case ZYDIS_MNEMONIC_SETNB:
    case ZYDIS_MNEMONIC_SETNBE:
    case ZYDIS_MNEMONIC_SETNL:
    case ZYDIS_MNEMONIC_SETNLE:
    case ZYDIS_MNEMONIC_SETNO:
    case ZYDIS_MNEMONIC_SETNP:
    case ZYDIS_MNEMONIC_SETNS:
    case ZYDIS_MNEMONIC_SETNZ:
    case ZYDIS_MNEMONIC_SETO:
    case ZYDIS_MNEMONIC_SETP:
    case ZYDIS_MNEMONIC_SETS:
    case ZYDIS_MNEMONIC_SETZ:
      return kSetcc[cc](decoded);
    default:
      return nullptr;
  }
}

}  // namespace trapeze::soft::exec
