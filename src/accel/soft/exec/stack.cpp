// PUSH and POP of general registers, memory and immediates; PUSHA, POPA, ENTER, LEAVE.
#include "accel/soft/exec/operand.h"

namespace trapeze::soft::exec {
namespace {

template <typename Mem, typename T>
struct PushReg {
  static Step run(Cpu& cpu, const Insn& insn) {
    if (!Mem::push(cpu, reg<T>(cpu, insn.dst))) return Step::Fault;
    return Step::Next;
  }
};
template <typename Mem, typename T>
struct PushImm {
  static Step run(Cpu& cpu, const Insn& insn) {
    if (!Mem::push(cpu, static_cast<T>(insn.imm64))) return Step::Fault;
    return Step::Next;
  }
};
template <typename Mem, typename T>
struct PushMem {
  static Step run(Cpu& cpu, const Insn& insn) {
    T value;
    if (!Mem::load(cpu, insn, value) || !Mem::push(cpu, value)) return Step::Fault;
    return Step::Next;
  }
};

template <typename Mem, typename T>
struct PopReg {
  static Step run(Cpu& cpu, const Insn& insn) {
    T value;
    if (!Mem::peek(cpu, value)) return Step::Fault;
    Mem::drop(cpu, sizeof(T));  // before the write: POP RSP leaves what it popped
    set_reg<T>(cpu, insn.dst, value);
    return Step::Next;
  }
};
// An address based on the stack pointer uses its value after the POP.
template <typename Mem, typename T>
struct PopMem {
  static Step run(Cpu& cpu, const Insn& insn) {
    T value;
    if (!Mem::peek(cpu, value)) return Step::Fault;
    const uint64_t rsp = cpu.gpr[kRsp];
    Mem::drop(cpu, sizeof(T));
    if (!Mem::store(cpu, insn, value)) {
      cpu.gpr[kRsp] = rsp;
      return Step::Fault;
    }
    return Step::Next;
  }
};

// --- the stack by explicit offsets, in every mode

uint64_t stack_mask(const Cpu& cpu) {
  if (is_code64(cpu)) return ~uint64_t{0};
  return cpu.stack32 ? 0xffff'ffffU : 0xffffU;
}
void set_stack_reg(Cpu& cpu, unsigned index, uint64_t value) {
  const uint64_t mask = stack_mask(cpu);
  cpu.gpr[index] = (cpu.gpr[index] & ~mask) | (value & mask);
}
template <typename T>
bool stack_read(Cpu& cpu, uint64_t offset, T& value) {
  uint64_t linear = 0;
  return segment_to_linear(cpu, kSs, offset & stack_mask(cpu), sizeof(T), Access::Read, linear) &&
         read_linear<T>(cpu, linear, value, kSs);
}
template <typename T>
bool stack_probe(Cpu& cpu, uint64_t offset) {
  uint64_t linear = 0;
  return segment_to_linear(cpu, kSs, offset & stack_mask(cpu), sizeof(T), Access::Write, linear) &&
         probe_write(cpu, linear, sizeof(T), kSs);
}
template <typename T>
bool stack_write(Cpu& cpu, uint64_t offset, T value) {
  uint64_t linear = 0;
  return segment_to_linear(cpu, kSs, offset & stack_mask(cpu), sizeof(T), Access::Write, linear) &&
         write_linear<T>(cpu, linear, value, kSs);
}

// PUSHA: AX, CX, DX, BX, SP as it was, BP, SI, DI.
template <typename T>
struct Pusha {
  static Step run(Cpu& cpu, const Insn&) {
    const uint64_t sp = cpu.gpr[kRsp];
    for (unsigned i = 1; i <= 8; ++i) {
      if (!stack_probe<T>(cpu, sp - i * sizeof(T))) return Step::Fault;
    }
    for (unsigned i = 0; i < 8; ++i) {
      const T value = static_cast<T>(cpu.gpr[i]);
      if (!stack_write<T>(cpu, sp - (i + 1) * sizeof(T), value)) return Step::Fault;
    }
    set_stack_reg(cpu, kRsp, sp - 8 * sizeof(T));
    return Step::Next;
  }
};
// POPA: the same backwards; the image of SP is dropped.
template <typename T>
struct Popa {
  static Step run(Cpu& cpu, const Insn&) {
    const uint64_t sp = cpu.gpr[kRsp];
    T values[8];
    for (unsigned i = 0; i < 8; ++i) {
      if (!stack_read<T>(cpu, sp + i * sizeof(T), values[7 - i])) return Step::Fault;
    }
    for (uint8_t i = 0; i < 8; ++i) {
      if (i != kRsp) set_reg<T>(cpu, static_cast<uint8_t>(i * 8), values[i]);
    }
    set_stack_reg(cpu, kRsp, sp + 8 * sizeof(T));
    return Step::Next;
  }
};

// ENTER (SDM 2A). imm64: bytes of locals; aux: nesting level.
template <typename T>
struct Enter {
  static Step run(Cpu& cpu, const Insn& insn) {
    const unsigned level = insn.aux % 32U;
    uint64_t sp = cpu.gpr[kRsp] - sizeof(T);
    uint64_t bp = cpu.gpr[kRbp];
    if (!stack_write<T>(cpu, sp, static_cast<T>(bp))) return Step::Fault;
    const uint64_t frame = sp;
    for (unsigned i = 1; i < level; ++i) {
      T link;
      bp -= sizeof(T);
      sp -= sizeof(T);
      if (!stack_read<T>(cpu, bp, link) || !stack_write<T>(cpu, sp, link)) return Step::Fault;
    }
    const uint64_t mask = stack_mask(cpu);
    const uint64_t new_bp = (cpu.gpr[kRsp] & ~mask) | (frame & mask);
    if (level != 0) {
      sp -= sizeof(T);
      if (!stack_write<T>(cpu, sp, static_cast<T>(new_bp))) return Step::Fault;
    }
    sp -= static_cast<uint16_t>(insn.imm64);
    // The new top of the stack must be writable, though nothing is written.
    if (!stack_probe<T>(cpu, sp)) return Step::Fault;
    set_reg<T>(cpu, kRbp * 8, static_cast<T>(new_bp));
    set_stack_reg(cpu, kRsp, sp);
    return Step::Next;
  }
};

template <typename T>
struct Leave {
  static Step run(Cpu& cpu, const Insn&) {
    const uint64_t bp = cpu.gpr[kRbp];
    T value;
    if (!stack_read<T>(cpu, bp, value)) return Step::Fault;
    set_stack_reg(cpu, kRsp, bp + sizeof(T));
    set_reg<T>(cpu, kRbp * 8, value);
    return Step::Next;
  }
};
Step leave_fast(Cpu& cpu, const Insn&) {
  const uint64_t bp = cpu.gpr[kRbp];
  uint64_t value;
  if (!FastMem<BaseDisp>::read(cpu, bp, value)) return Step::Fault;
  cpu.gpr[kRsp] = bp + sizeof(value);
  cpu.gpr[kRbp] = value;
  return Step::Next;
}

Handler bind_push(const Decoded& decoded) {
  const Insn& insn = decoded.insn;
  if (decoded.is_mem(0)) return by_memory_and_wide_size<PushMem>(insn, insn.width);
  if (decoded.is_imm(0)) return by_memory_and_wide_size<PushImm>(insn, insn.width);
  return is_gpr(decoded, 0) ? by_memory_and_wide_size<PushReg>(insn, insn.width) : nullptr;
}
Handler bind_pop(const Decoded& decoded) {
  const Insn& insn = decoded.insn;
  if (decoded.is_mem(0)) return by_wide_size_any_memory<PopMem>(insn.width);
  return is_gpr(decoded, 0) ? by_memory_and_wide_size<PopReg>(insn, insn.width) : nullptr;
}
Handler bind_enter(Decoded& decoded) {
  decoded.insn.imm64 = decoded.operands[0].imm.value.s & 0xffff;
  decoded.insn.aux = static_cast<uint8_t>(decoded.operands[1].imm.value.u);
  return by_wide_size<Enter>(decoded.insn.width);
}
Handler bind_leave(const Decoded& decoded) {
  if (decoded.code_size == CodeSize::Code64 && decoded.insn.width == 8) {
    return &fast_handler<leave_fast, Leave<uint64_t>::run>;
  }
  return by_wide_size<Leave>(decoded.insn.width);
}

}  // namespace

Handler bind_stack(Decoded& decoded) {
  switch (static_cast<int>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_PUSH:
      return bind_push(decoded);
    case ZYDIS_MNEMONIC_POP:
      return bind_pop(decoded);
    case ZYDIS_MNEMONIC_PUSHA:
      return &handler<Pusha<uint16_t>::run>;
    case ZYDIS_MNEMONIC_PUSHAD:
      return &handler<Pusha<uint32_t>::run>;
    case ZYDIS_MNEMONIC_POPA:
      return &handler<Popa<uint16_t>::run>;
    case ZYDIS_MNEMONIC_POPAD:
      return &handler<Popa<uint32_t>::run>;
    case ZYDIS_MNEMONIC_ENTER:
      return bind_enter(decoded);
    case ZYDIS_MNEMONIC_LEAVE:
      return bind_leave(decoded);
    default:
      return nullptr;
  }
}

}  // namespace trapeze::soft::exec
