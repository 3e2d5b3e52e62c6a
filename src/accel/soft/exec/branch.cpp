// Near branches: Jcc, JMP, CALL, RET, LOOPcc, JCXZ. Far ones change segments: system/.
//
// A target outside the code segment or not canonical raises #GP(0) on the branch, before anything
// has changed (SDM 2A "JMP", "CALL", "RET").
#include <array>
#include <utility>

#include "accel/soft/exec/operand.h"
#include "accel/soft/mmu/mmu.h"

namespace trapeze::soft::exec {
namespace {

// What a near branch is in each code size. `Fast` is the same for fast handlers.

// 48 bits are canonical in every paging mode; what is wider goes the full way.
struct FastNear64 {
  using Pointer = uint64_t;
  static bool target_ok(const Cpu&, const Insn&, uint64_t& target) {
    return static_cast<uint64_t>(static_cast<int64_t>(target << 16) >> 16) == target;
  }
};
// 64-bit code: the operand size is 64 bits whatever the prefixes.
struct Near64 {
  using Pointer = uint64_t;
  using Fast = FastNear64;
  static bool target_ok(Cpu& cpu, const Insn&, uint64_t& target) {
    if (is_canonical(cpu, target)) [[likely]]
      return true;
    raise(cpu, kGP, 0);
    return false;
  }
};
// 16- and 32-bit code; T is the operand size, to which EIP is cut.
template <typename T>
struct NearLegacy {
  using Pointer = T;
  using Fast = NearLegacy;
  static bool target_ok(Cpu& cpu, const Insn&, uint64_t& target) {
    target = static_cast<T>(target);
    if (target <= cpu.seg[kCs].limit) [[likely]]
      return true;
    raise(cpu, kGP, 0);
    return false;
  }
};

template <typename Near, typename Mem>
using NearFor = std::conditional_t<std::is_same_v<Mem, AnyMem>, Near, typename Near::Fast>;

template <typename Near>
Step jump_to(Cpu& cpu, const Insn& insn, uint64_t target) {
  if (!Near::target_ok(cpu, insn, target)) return Step::Fault;
  cpu.rip = target;
  return Step::Branch;
}
inline uint64_t relative_target(const Cpu& cpu, const Insn& insn) {
  return cpu.gpr[kRipReg] + static_cast<uint64_t>(insn.imm64);
}
inline Step fall_through(Cpu& cpu, const Insn& insn) {
  cpu.rip = next_rip(cpu, insn);
  return Step::Branch;
}

template <typename Near, unsigned cc>
Step jcc(Cpu& cpu, const Insn& insn) {
  if (!condition_holds(cc, cpu.arith)) return fall_through(cpu, insn);
  return jump_to<Near>(cpu, insn, relative_target(cpu, insn));
}
template <typename Near, unsigned... cc>
constexpr std::array<Handler, 16> jcc_table(std::integer_sequence<unsigned, cc...>) {
  return {&fast_handler<jcc<typename Near::Fast, cc>, jcc<Near, cc>>...};
}
template <typename Near>
constexpr auto kJcc = jcc_table<Near>(std::make_integer_sequence<unsigned, 16>());

template <typename Near>
Step jmp_relative(Cpu& cpu, const Insn& insn) {
  return jump_to<Near>(cpu, insn, relative_target(cpu, insn));
}
template <typename Near>
Step jmp_reg(Cpu& cpu, const Insn& insn) {
  return jump_to<Near>(cpu, insn, reg<typename Near::Pointer>(cpu, insn.dst));
}
template <typename Near>
struct JmpMem {
  template <typename Mem, typename T>
  struct Form {
    static Step run(Cpu& cpu, const Insn& insn) {
      T target;
      if (!Mem::load(cpu, insn, target)) return Step::Fault;
      return jump_to<NearFor<Near, Mem>>(cpu, insn, target);
    }
  };
};

template <typename Near, typename Mem>
Step call_to(Cpu& cpu, const Insn& insn, uint64_t target) {
  if (!Near::target_ok(cpu, insn, target)) return Step::Fault;
  using T = typename Near::Pointer;
  if (!Mem::template push<T>(cpu, static_cast<T>(next_rip(cpu, insn)))) return Step::Fault;
  cpu.rip = target;
  return Step::Branch;
}
template <typename Near>
struct Call {
  template <typename Mem, typename T>
  struct Relative {
    static Step run(Cpu& cpu, const Insn& insn) {
      return call_to<NearFor<Near, Mem>, Mem>(cpu, insn, relative_target(cpu, insn));
    }
  };
  template <typename Mem, typename T>
  struct Register {
    static Step run(Cpu& cpu, const Insn& insn) {
      return call_to<NearFor<Near, Mem>, Mem>(cpu, insn, reg<T>(cpu, insn.dst));
    }
  };
  template <typename Mem, typename T>
  struct Memory {
    static Step run(Cpu& cpu, const Insn& insn) {
      T target;
      if (!Mem::load(cpu, insn, target)) return Step::Fault;
      return call_to<NearFor<Near, Mem>, Mem>(cpu, insn, target);
    }
  };
};

// imm64: bytes to drop beyond the return address.
template <typename Near>
struct Ret {
  template <typename Mem, typename T>
  struct Form {
    static Step run(Cpu& cpu, const Insn& insn) {
      T popped;
      if (!Mem::peek(cpu, popped)) return Step::Fault;
      uint64_t target = popped;
      if (!NearFor<Near, Mem>::target_ok(cpu, insn, target)) return Step::Fault;
      Mem::drop(cpu, sizeof(T) + static_cast<uint16_t>(insn.imm64));
      cpu.rip = target;
      return Step::Branch;
    }
  };
};

// LOOP counts in CX, ECX or RCX by the address size, and keeps the flags.
enum class LoopWhile : uint8_t { Always, Zero, NotZero };

template <typename Near, LoopWhile kWhile>
Step loop(Cpu& cpu, const Insn& insn) {
  const uint64_t mask = address_mask(insn);
  const uint64_t count = (cpu.gpr[kRcx] - 1) & mask;
  const bool zero = (cpu.arith & kArithZf) != 0;
  bool taken = count != 0;
  if constexpr (kWhile == LoopWhile::Zero) taken = taken && zero;
  if constexpr (kWhile == LoopWhile::NotZero) taken = taken && !zero;
  uint64_t target = taken ? relative_target(cpu, insn) : next_rip(cpu, insn);
  if (taken && !Near::target_ok(cpu, insn, target)) return Step::Fault;
  if ((insn.flags & kAddress16) != 0) {
    set_reg<uint16_t>(cpu, kRcx * 8, static_cast<uint16_t>(count));
  } else {
    cpu.gpr[kRcx] = count;  // ECX clears the upper half
  }
  cpu.rip = target;
  return Step::Branch;
}

template <typename Near>
Step jcxz(Cpu& cpu, const Insn& insn) {
  if ((cpu.gpr[kRcx] & address_mask(insn)) != 0) return fall_through(cpu, insn);
  return jump_to<Near>(cpu, insn, relative_target(cpu, insn));
}

template <typename Near>
Handler bind_jmp(const Decoded& decoded) {
  if (decoded.is_mem(0)) {
    return by_memory<JmpMem<Near>::template Form, typename Near::Pointer>(decoded.insn);
  }
  using Fast = typename Near::Fast;
  return decoded.is_imm(0) ? &fast_handler<jmp_relative<Fast>, jmp_relative<Near>>
                           : &fast_handler<jmp_reg<Fast>, jmp_reg<Near>>;
}
template <typename Near>
Handler bind_call(const Decoded& decoded) {
  using T = typename Near::Pointer;
  if (decoded.is_mem(0)) return by_memory<Call<Near>::template Memory, T>(decoded.insn);
  return decoded.is_imm(0) ? by_memory<Call<Near>::template Relative, T>(decoded.insn)
                           : by_memory<Call<Near>::template Register, T>(decoded.insn);
}

template <typename Near>
Handler bind_near(const Decoded& decoded) {
  switch (static_cast<int>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_JB:
    case ZYDIS_MNEMONIC_JBE:
    case ZYDIS_MNEMONIC_JL:
    case ZYDIS_MNEMONIC_JLE:
    case ZYDIS_MNEMONIC_JNB:
    case ZYDIS_MNEMONIC_JNBE:
    case ZYDIS_MNEMONIC_JNL:
    case ZYDIS_MNEMONIC_JNLE:
    case ZYDIS_MNEMONIC_JNO:
    case ZYDIS_MNEMONIC_JNP:
    case ZYDIS_MNEMONIC_JNS:
    case ZYDIS_MNEMONIC_JNZ:
    case ZYDIS_MNEMONIC_JO:
    case ZYDIS_MNEMONIC_JP:
    case ZYDIS_MNEMONIC_JS:
    case ZYDIS_MNEMONIC_JZ:
      return kJcc<Near>[decoded.zy.opcode & 15U];
    case ZYDIS_MNEMONIC_JMP:
      return bind_jmp<Near>(decoded);
    case ZYDIS_MNEMONIC_CALL:
      return bind_call<Near>(decoded);
    case ZYDIS_MNEMONIC_RET:
      return by_memory<Ret<Near>::template Form, typename Near::Pointer>(decoded.insn);
    case ZYDIS_MNEMONIC_LOOP:
      return &handler<loop<Near, LoopWhile::Always>>;
    case ZYDIS_MNEMONIC_LOOPE:
      return &handler<loop<Near, LoopWhile::Zero>>;
    case ZYDIS_MNEMONIC_LOOPNE:
      return &handler<loop<Near, LoopWhile::NotZero>>;
    case ZYDIS_MNEMONIC_JCXZ:
    case ZYDIS_MNEMONIC_JECXZ:
    case ZYDIS_MNEMONIC_JRCXZ:
      return &handler<jcxz<Near>>;
    default:
      return nullptr;
  }
}

}  // namespace

Handler bind_branch(Decoded& decoded) {
  if (decoded.zy.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) return nullptr;
  if (decoded.code_size == CodeSize::Code64) return bind_near<Near64>(decoded);
  return decoded.zy.operand_width == 16 ? bind_near<NearLegacy<uint16_t>>(decoded)
                                        : bind_near<NearLegacy<uint32_t>>(decoded);
}

}  // namespace trapeze::soft::exec
