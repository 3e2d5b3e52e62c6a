// How handlers reach their operands, and how one is chosen for a decoded instruction.
//
// Instructions with a memory operand are written once, over a memory policy `Mem`. For the usual
// case (64-bit code, flat segment) the fast policies only know the TLB: on a miss the handler jumps
// to its twin over AnyMem, which does everything again and in full. So the fast handler makes no
// call, needs no stack frame, and ends in one jump to the next instruction. What holds for faults
// holds for the retry too: up to it, the semantic has changed nothing.
#pragma once

#include "accel/soft/exec/dispatch.h"
#include "accel/soft/mmu/access.h"

namespace trapeze::soft::exec {

// --- memory policies

struct BaseDisp {
  static uint64_t linear(const Cpu& cpu, const Insn& insn) {
    return reg<uint64_t>(cpu, insn.base) + static_cast<uint64_t>(static_cast<int64_t>(insn.disp));
  }
};
struct BaseIndexDisp {
  static uint64_t linear(const Cpu& cpu, const Insn& insn) {
    return reg<uint64_t>(cpu, insn.base) + (reg<uint64_t>(cpu, insn.index) << insn.scale) +
           static_cast<uint64_t>(static_cast<int64_t>(insn.disp));
  }
};

// False means: a TLB miss, nothing happened, no fault is pending.
template <typename Address>
struct FastMem {
  template <typename T>
  [[gnu::always_inline]] static bool read(Cpu& cpu, uint64_t linear, T& value) {
    const TlbEntry& entry = cpu.tlb->entry(linear);
    if (entry.read_tag != tag_of(linear, sizeof(T))) [[unlikely]]
      return false;
    value = load_host<T>(entry.host(linear));
    return true;
  }
  template <typename T>
  [[gnu::always_inline]] static bool write(Cpu& cpu, uint64_t linear, T value) {
    const TlbEntry& entry = cpu.tlb->entry(linear);
    if (entry.write_tag != tag_of(linear, sizeof(T))) [[unlikely]]
      return false;
    store_host<T>(entry.host(linear), value);
    return true;
  }
  template <typename T>
  [[gnu::always_inline]] static bool load(Cpu& cpu, const Insn& insn, T& value) {
    return read<T>(cpu, Address::linear(cpu, insn), value);
  }
  template <typename T>
  [[gnu::always_inline]] static bool store(Cpu& cpu, const Insn& insn, T value) {
    return write<T>(cpu, Address::linear(cpu, insn), value);
  }
  template <typename T, typename Op>
  [[gnu::always_inline]] static bool modify(Cpu& cpu, const Insn& insn, Op&& op) {
    const uint64_t linear = Address::linear(cpu, insn);
    const TlbEntry& entry = cpu.tlb->entry(linear);
    // What may be written may be read (SDM 3A 4.6), so the one tag is enough.
    if (entry.write_tag != tag_of(linear, sizeof(T))) [[unlikely]]
      return false;
    void* host = entry.host(linear);
    store_host<T>(host, op(load_host<T>(host)));
    return true;
  }
  template <typename T>
  [[gnu::always_inline]] static bool push(Cpu& cpu, T value) {
    const uint64_t rsp = cpu.gpr[kRsp] - sizeof(T);
    if (!write<T>(cpu, rsp, value)) return false;
    cpu.gpr[kRsp] = rsp;
    return true;
  }
  template <typename T>
  [[gnu::always_inline]] static bool peek(Cpu& cpu, T& value) {
    return read<T>(cpu, cpu.gpr[kRsp], value);
  }
  static void drop(Cpu& cpu, uint64_t bytes) { cpu.gpr[kRsp] += bytes; }
};

struct AnyMem {
  template <typename T>
  static bool load(Cpu& cpu, const Insn& insn, T& value) {
    return soft::load<T>(cpu, insn, value);
  }
  template <typename T>
  static bool store(Cpu& cpu, const Insn& insn, T value) {
    return soft::store<T>(cpu, insn, value);
  }
  template <typename T, typename Op>
  static bool modify(Cpu& cpu, const Insn& insn, Op&& op) {
    return soft::modify<T>(cpu, insn, static_cast<Op&&>(op));
  }
  template <typename T>
  static bool push(Cpu& cpu, T value) {
    return soft::push<T>(cpu, value);
  }
  template <typename T>
  static bool peek(Cpu& cpu, T& value) {
    return soft::peek<T>(cpu, value);
  }
  static void drop(Cpu& cpu, uint64_t bytes) { add_to_sp(cpu, bytes); }
};

// --- handlers

// Out of line, so that the jump to it is all that the fast handler holds of it.
template <auto Semantic>
[[gnu::noinline]] void complete_handler(Cpu& cpu, const Insn* insn) {
  return handler<Semantic>(cpu, insn);
}

template <auto Fast, auto Complete>
void fast_handler(Cpu& cpu, const Insn* insn) {
  const Step step = Fast(cpu, *insn);
  if (step == Step::Next) [[likely]] {
    return run_next(cpu, insn);
  }
  if (step == Step::Branch) return;
  return complete_handler<Complete>(cpu, insn);
}

// --- choosing a handler; `S` is the semantic's struct, its function is S<...>::run

template <template <typename> class S>
Handler by_size(unsigned bytes) {
  switch (bytes) {
    case 1:
      return &handler<S<uint8_t>::run>;
    case 2:
      return &handler<S<uint16_t>::run>;
    case 4:
      return &handler<S<uint32_t>::run>;
    case 8:
      return &handler<S<uint64_t>::run>;
    default:
      return nullptr;
  }
}
// For instructions that have no 8-bit form.
template <template <typename> class S>
Handler by_wide_size(unsigned bytes) {
  switch (bytes) {
    case 2:
      return &handler<S<uint16_t>::run>;
    case 4:
      return &handler<S<uint32_t>::run>;
    case 8:
      return &handler<S<uint64_t>::run>;
    default:
      return nullptr;
  }
}

// The handler over the right memory policy, for a semantic over `Mem` and one type.
template <template <typename, typename> class S, typename T>
Handler by_memory(const Insn& insn) {
  using Complete = S<AnyMem, T>;
  if ((insn.flags & (kSlowAddress | kLock | kNotCode64)) != 0) {
    return &complete_handler<Complete::run>;
  }
  if (insn.index == kZeroReg * 8) {
    return &fast_handler<S<FastMem<BaseDisp>, T>::run, Complete::run>;
  }
  return &fast_handler<S<FastMem<BaseIndexDisp>, T>::run, Complete::run>;
}

template <template <typename, typename> class S>
Handler by_memory_and_size(const Insn& insn, unsigned bytes) {
  switch (bytes) {
    case 1:
      return by_memory<S, uint8_t>(insn);
    case 2:
      return by_memory<S, uint16_t>(insn);
    case 4:
      return by_memory<S, uint32_t>(insn);
    case 8:
      return by_memory<S, uint64_t>(insn);
    default:
      return nullptr;
  }
}
template <template <typename, typename> class S>
Handler by_memory_and_wide_size(const Insn& insn, unsigned bytes) {
  switch (bytes) {
    case 2:
      return by_memory<S, uint16_t>(insn);
    case 4:
      return by_memory<S, uint32_t>(insn);
    case 8:
      return by_memory<S, uint64_t>(insn);
    default:
      return nullptr;
  }
}

// Always over AnyMem: for what is rare enough.
template <template <typename, typename> class S>
Handler by_wide_size_any_memory(unsigned bytes) {
  switch (bytes) {
    case 2:
      return &complete_handler<S<AnyMem, uint16_t>::run>;
    case 4:
      return &complete_handler<S<AnyMem, uint32_t>::run>;
    case 8:
      return &complete_handler<S<AnyMem, uint64_t>::run>;
    default:
      return nullptr;
  }
}

// --- what is asked of a Decoded

inline bool is_gpr(const Decoded& decoded, unsigned i) {
  if (!decoded.is_reg(i)) return false;
  const ZydisRegister name = decoded.operands[i].reg.value;
  return name >= ZYDIS_REGISTER_AL && name <= ZYDIS_REGISTER_R15;
}
inline bool has_memory(const Decoded& decoded) {
  return decoded.is_mem(0) || decoded.is_mem(1) || decoded.is_mem(2);
}
// The immediate, wherever the Insn has it.
inline int64_t immediate(const Decoded& decoded) {
  return has_memory(decoded) ? decoded.insn.imm : decoded.insn.imm64;
}

// SegIndex of hidden operand `i`, which is memory (the decoder fills in visible ones only). In
// 64-bit mode ES, CS and DS mean nothing.
inline uint8_t hidden_segment(const Decoded& decoded, unsigned i) {
  switch (static_cast<int>(decoded.operands[i].mem.segment)) {
    case ZYDIS_REGISTER_FS:
      return kFs;
    case ZYDIS_REGISTER_GS:
      return kGs;
    case ZYDIS_REGISTER_SS:
      return kSs;
    case ZYDIS_REGISTER_ES:
      return decoded.code_size == CodeSize::Code64 ? kDs : kEs;
    case ZYDIS_REGISTER_CS:
      return decoded.code_size == CodeSize::Code64 ? kDs : kCs;
    default:
      return kDs;
  }
}
inline uint64_t address_mask(const Insn& insn) {
  if ((insn.flags & kAddress16) != 0) return 0xffffU;
  return (insn.flags & kAddress32) != 0 ? 0xffff'ffffU : ~uint64_t{0};
}

// --- the classes of integer instructions; each answers for its mnemonics or returns nullptr
Handler bind_mov(Decoded& decoded);
Handler bind_condition(Decoded& decoded);
Handler bind_alu(Decoded& decoded);
Handler bind_branch(Decoded& decoded);
Handler bind_stack(Decoded& decoded);
Handler bind_shift(Decoded& decoded);
Handler bind_string(Decoded& decoded);
Handler bind_bit(Decoded& decoded);
Handler bind_muldiv(Decoded& decoded);
Handler bind_cmpxchg(Decoded& decoded);
Handler bind_misc(Decoded& decoded);
Handler bind_bcd(Decoded& decoded);

}  // namespace trapeze::soft::exec
