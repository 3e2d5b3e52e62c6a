// CMPXCHG, CMPXCHG8B, CMPXCHG16B, XADD.
#include "accel/soft/exec/host_alu.h"
#include "accel/soft/exec/operand.h"

namespace trapeze::soft::exec {
namespace {

// Flags of comparing the accumulator with the destination.
template <typename T>
void compare_flags(Cpu& cpu, T accumulator, T destination) {
  ArithmeticFlags flags = 0;
  Cmp::run(accumulator, destination, flags);
  cpu.arith = flags;
}

// On a mismatch a 32-bit destination register keeps its upper half: CPUs do not write it, though the
// manual's pseudo-code has a store in both cases.
template <typename T>
struct CmpxchgReg {
  static Step run(Cpu& cpu, const Insn& insn) {
    const T accumulator = reg<T>(cpu, kRax * 8);
    const T old = reg<T>(cpu, insn.dst);
    compare_flags(cpu, accumulator, old);
    if (old == accumulator) {
      set_reg<T>(cpu, insn.dst, reg<T>(cpu, insn.src));
    } else {
      set_reg<T>(cpu, kRax * 8, old);
    }
    return Step::Next;
  }
};
template <typename Mem, typename T>
struct CmpxchgMem {
  static Step run(Cpu& cpu, const Insn& insn) {
    const T accumulator = reg<T>(cpu, kRax * 8);
    const T source = reg<T>(cpu, insn.src);
    T seen{};
    const auto op = [&](T old) {
      seen = old;
      return old == accumulator ? source : old;
    };
    if (!Mem::template modify<T>(cpu, insn, op)) return Step::Fault;
    compare_flags(cpu, accumulator, seen);
    if (seen != accumulator) set_reg<T>(cpu, kRax * 8, seen);
    return Step::Next;
  }
};

inline void set_zero_flag(Cpu& cpu, bool zero) {
  const unsigned others = cpu.arith & ~unsigned{kArithZf};
  cpu.arith = static_cast<ArithmeticFlags>(others | (zero ? unsigned{kArithZf} : 0U));
}

Step cmpxchg8b(Cpu& cpu, const Insn& insn) {
  const auto pair = [&](uint8_t high, uint8_t low) {
    const uint64_t upper = reg<uint32_t>(cpu, static_cast<uint8_t>(high * 8));
    return (upper << 32) | reg<uint32_t>(cpu, static_cast<uint8_t>(low * 8));
  };
  const uint64_t expected = pair(kRdx, kRax);
  const uint64_t wanted = pair(kRcx, kRbx);
  uint64_t seen = 0;
  const auto op = [&](uint64_t old) {
    seen = old;
    return old == expected ? wanted : old;
  };
  if (!modify<uint64_t>(cpu, insn, op)) return Step::Fault;
  set_zero_flag(cpu, seen == expected);
  if (seen != expected) {
    set_reg<uint32_t>(cpu, kRax * 8, static_cast<uint32_t>(seen));
    set_reg<uint32_t>(cpu, kRdx * 8, static_cast<uint32_t>(seen >> 32));
  }
  return Step::Next;
}

// Compares and exchanges; `expected` becomes what was there. Always locked: the host has nothing
// faster that is one access.
bool exchange_host(void* host, Bytes16& expected, const Bytes16& wanted) {
  bool equal = false;
  asm volatile("lock cmpxchg16b %[memory]"
               : [memory] "+m"(*static_cast<Bytes16*>(host)), "+a"(expected.lo), "+d"(expected.hi),
                 "=@ccz"(equal)
               : "b"(wanted.lo), "c"(wanted.hi)
               : "memory");
  return equal;
}
// The same where there is no host memory; false with a fault pending.
bool exchange_slow(Cpu& cpu, uint64_t linear, uint8_t seg, Bytes16& expected, const Bytes16& wanted,
                   bool& equal) {
  if (!probe_write(cpu, linear, sizeof(Bytes16), seg)) return false;
  slow_modify_lock(cpu);
  Bytes16 seen{};
  const bool readable = slow_read(cpu, linear, &seen, sizeof(seen), seg);
  if (readable) {
    equal = seen.lo == expected.lo && seen.hi == expected.hi;
    slow_write(cpu, linear, equal ? &wanted : &seen, sizeof(seen), seg);
    expected = seen;
  }
  slow_modify_unlock(cpu);
  return readable;
}

Step cmpxchg16b(Cpu& cpu, const Insn& insn) {
  uint64_t linear = 0;
  if (!linear_address(cpu, insn, sizeof(Bytes16), Access::ReadWrite, linear)) return Step::Fault;
  if (linear % sizeof(Bytes16) != 0) return raise(cpu, kGP, 0);
  Bytes16 expected{cpu.gpr[kRax], cpu.gpr[kRdx]};
  const Bytes16 wanted{cpu.gpr[kRbx], cpu.gpr[kRcx]};
  bool equal = false;
  const TlbEntry& entry = cpu.tlb->entry(linear);
  const bool fast = entry.write_tag == tag_of(linear, sizeof(Bytes16));
  void* host = fast ? entry.host(linear) : slow_writable(cpu, linear, sizeof(Bytes16), insn.seg);
  if (host != nullptr) {
    equal = exchange_host(host, expected, wanted);
    if (!fast) wrote_slowly(cpu, host, sizeof(Bytes16));
  } else if (cpu.fault.pending || !exchange_slow(cpu, linear, insn.seg, expected, wanted, equal)) {
    return Step::Fault;
  }
  set_zero_flag(cpu, equal);
  if (!equal) {
    cpu.gpr[kRax] = expected.lo;
    cpu.gpr[kRdx] = expected.hi;
  }
  return Step::Next;
}

// XADD: the sum is written last, so it wins where both operands are one register.
template <typename T>
struct XaddReg {
  static Step run(Cpu& cpu, const Insn& insn) {
    const T old = reg<T>(cpu, insn.dst);
    ArithmeticFlags flags = 0;
    const T sum = Add::run(old, reg<T>(cpu, insn.src), flags);
    set_reg<T>(cpu, insn.src, old);
    set_reg<T>(cpu, insn.dst, sum);
    cpu.arith = flags;
    return Step::Next;
  }
};
template <typename Mem, typename T>
struct XaddMem {
  static Step run(Cpu& cpu, const Insn& insn) {
    const T source = reg<T>(cpu, insn.src);
    T seen{};
    ArithmeticFlags flags = 0;
    const auto op = [&](T old) {
      seen = old;
      return Add::run(old, source, flags);
    };
    if (!Mem::template modify<T>(cpu, insn, op)) return Step::Fault;
    set_reg<T>(cpu, insn.src, seen);
    cpu.arith = flags;
    return Step::Next;
  }
};

}  // namespace

Handler bind_cmpxchg(Decoded& decoded) {
  const Insn& insn = decoded.insn;
  switch (static_cast<int>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_CMPXCHG:
      return decoded.is_mem(0) ? by_memory_and_size<CmpxchgMem>(insn, decoded.size(0))
                               : by_size<CmpxchgReg>(decoded.size(0));
    case ZYDIS_MNEMONIC_CMPXCHG8B:
      return &handler<cmpxchg8b>;
    case ZYDIS_MNEMONIC_CMPXCHG16B:
      return &handler<cmpxchg16b>;
    case ZYDIS_MNEMONIC_XADD:
      return decoded.is_mem(0) ? by_memory_and_size<XaddMem>(insn, decoded.size(0))
                               : by_size<XaddReg>(decoded.size(0));
    default:
      return nullptr;
  }
}

}  // namespace trapeze::soft::exec
