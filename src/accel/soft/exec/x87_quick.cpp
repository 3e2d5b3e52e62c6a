// The frequent x87 instructions without taking the whole state to the host's unit and back.
//
// As long as all exceptions are masked and no register is missing or in the way, an instruction
// depends on its operands and the control word alone, and leaves a result, sticky flags and C0..C3.
// Everything else goes to x87_exact(). The host's unit is left as the ABI wants it: empty, with the
// default control word and no flags.
#include "accel/soft/exec/vector_classes.h"
#include "accel/soft/exec/vector_operands.h"
#include "accel/soft/exec/x87.h"
#include "accel/soft/exec/x87_host.h"

namespace trapeze::soft::exec {
namespace {

constexpr uint16_t kC1 = 0x0200, kAllConditions = 0x4700;

// --- the guest's stack
unsigned physical(const FpuState& fpu, unsigned i) { return (fpu_top(fpu) + i) & 7U; }
bool is_empty(const FpuState& fpu, unsigned i) {
  return ((fpu.empty >> physical(fpu, i)) & 1U) != 0;
}
uint8_t* st(FpuState& fpu, unsigned i) { return fpu.st[physical(fpu, i)]; }

void pop(FpuState& fpu) {
  fpu.empty = static_cast<uint8_t>(fpu.empty | 1U << physical(fpu, 0));
  set_fpu_top(fpu, fpu_top(fpu) + 1);
}
void push(FpuState& fpu, const void* value) {
  set_fpu_top(fpu, fpu_top(fpu) - 1);
  fpu.empty = static_cast<uint8_t>(fpu.empty & ~(1U << physical(fpu, 0)));
  std::memcpy(st(fpu, 0), value, 10);
}

// Takes the flags and the given conditions over. What the manual calls undefined C0, C2 and C3
// stays as it was, as on processors.
void finish(Cpu& cpu, const Insn& insn, uint16_t status, uint16_t conditions = kC1) {
  const auto taken = static_cast<uint16_t>(status & (conditions | kFswFlags));
  cpu.fpu.fsw = static_cast<uint16_t>((cpu.fpu.fsw & ~conditions) | taken);
  record_x87(cpu, insn);
}

// --- arithmetic
// D8: ST(0) = ST(0) op ST(i). DC, DE: ST(i) = ST(i) op ST(0), and DE pops.
template <unsigned Reg>
Step arithmetic_registers(Cpu& cpu, const Insn& insn) {
  FpuState& fpu = cpu.fpu;
  const unsigned i = insn.src & 7U;
  if (!is_x87_quiet(cpu) || is_empty(fpu, 0) || is_empty(fpu, i)) [[unlikely]]
    return x87_exact(cpu, insn);
  const bool to_top = insn.dst == 0xd8;
  uint8_t* x = st(fpu, to_top ? 0 : i);
  const uint8_t* y = st(fpu, to_top ? i : 0);
  const HostControl control(fpu.fcw);
  finish(cpu, insn, host_binary<Reg>(x, y, x));
  if (insn.dst == 0xde) pop(fpu);
  return Step::Next;
}

// ST(0) = ST(0) op memory. The operand's address is taken, so it is not the fast path's local.
template <unsigned Opcode, unsigned Reg, typename T>
Step arithmetic_memory(Cpu& cpu, const Insn& insn) {
  FpuState& fpu = cpu.fpu;
  if (!is_x87_quiet(cpu) || is_empty(fpu, 0)) [[unlikely]]
    return x87_exact(cpu, insn);
  T operand = 0;
  if (!load<T>(cpu, insn, operand)) return Step::Fault;
  const HostControl control(fpu.fcw);
  finish(cpu, insn, host_update<Opcode, Reg << 3 | 7>(st(fpu, 0), &operand));
  return Step::Next;
}

// ST(0) = op ST(0).
template <unsigned Opcode, unsigned Modrm>
Step unary(Cpu& cpu, const Insn& insn) {
  FpuState& fpu = cpu.fpu;
  if (!is_x87_quiet(cpu) || is_empty(fpu, 0)) [[unlikely]]
    return x87_exact(cpu, insn);
  const HostControl control(fpu.fcw);
  finish(cpu, insn, host_update<Opcode, Modrm>(st(fpu, 0), nullptr));
  return Step::Next;
}

// --- loads; they round nothing
template <unsigned Opcode, unsigned Reg, typename T>
Step load_number(Cpu& cpu, const Insn& insn) {
  FpuState& fpu = cpu.fpu;
  if (!is_x87_quiet(cpu) || !is_empty(fpu, 7)) [[unlikely]]
    return x87_exact(cpu, insn);
  T operand = 0;
  if (!load<T>(cpu, insn, operand)) return Step::Fault;
  uint8_t value[16];
  const uint16_t status = host_load<Opcode, Reg << 3 | 7>(value, &operand);
  push(fpu, value);
  finish(cpu, insn, status);
  return Step::Next;
}
Step load_extended(Cpu& cpu, const Insn& insn) {
  if (!is_x87_quiet(cpu) || !is_empty(cpu.fpu, 7)) [[unlikely]]
    return x87_exact(cpu, insn);
  uint8_t value[10];
  if (!load_block(cpu, insn, value, sizeof(value))) return Step::Fault;
  push(cpu.fpu, value);
  finish(cpu, insn, 0);
  return Step::Next;
}
Step load_register(Cpu& cpu, const Insn& insn) {
  FpuState& fpu = cpu.fpu;
  const unsigned i = insn.src & 7U;
  if (!is_x87_quiet(cpu) || !is_empty(fpu, 7) || is_empty(fpu, i)) [[unlikely]]
    return x87_exact(cpu, insn);
  push(fpu, st(fpu, i));
  finish(cpu, insn, 0);
  return Step::Next;
}
template <uint64_t Significand, uint16_t Exponent>
Step load_constant(Cpu& cpu, const Insn& insn) {
  if (!is_x87_quiet(cpu) || !is_empty(cpu.fpu, 7)) [[unlikely]]
    return x87_exact(cpu, insn);
  uint8_t value[10];
  constexpr uint64_t kSignificand = Significand;
  constexpr uint16_t kExponent = Exponent;
  std::memcpy(value, &kSignificand, 8);
  std::memcpy(value + 8, &kExponent, 2);
  push(cpu.fpu, value);
  finish(cpu, insn, 0);
  return Step::Next;
}

// --- stores; the host always pops its own stack, the guest's is popped by `Pop`
template <unsigned Opcode, unsigned Reg, typename T, bool Pop>
Step store_number(Cpu& cpu, const Insn& insn) {
  FpuState& fpu = cpu.fpu;
  if (!is_x87_quiet(cpu) || is_empty(fpu, 0)) [[unlikely]]
    return x87_exact(cpu, insn);
  T operand = 0;
  uint16_t status = 0;
  {
    const HostControl control(fpu.fcw);
    status = host_store<Opcode, Reg << 3 | 7>(st(fpu, 0), &operand);
  }
  if (!store<T>(cpu, insn, operand)) return Step::Fault;
  finish(cpu, insn, status);
  if constexpr (Pop) pop(fpu);
  return Step::Next;
}
Step store_extended(Cpu& cpu, const Insn& insn) {
  FpuState& fpu = cpu.fpu;
  if (!is_x87_quiet(cpu) || is_empty(fpu, 0)) [[unlikely]]
    return x87_exact(cpu, insn);
  if (!store_block(cpu, insn, st(fpu, 0), 10)) return Step::Fault;
  finish(cpu, insn, 0);
  pop(fpu);
  return Step::Next;
}
template <bool Pop>
Step store_register(Cpu& cpu, const Insn& insn) {
  FpuState& fpu = cpu.fpu;
  if (!is_x87_quiet(cpu) || is_empty(fpu, 0)) [[unlikely]]
    return x87_exact(cpu, insn);
  const unsigned to = physical(fpu, insn.src & 7U);
  std::memmove(fpu.st[to], st(fpu, 0), 10);
  fpu.empty = static_cast<uint8_t>(fpu.empty & ~(1U << to));
  finish(cpu, insn, 0);
  if constexpr (Pop) pop(fpu);
  return Step::Next;
}

// --- register moves and signs
Step exchange(Cpu& cpu, const Insn& insn) {
  FpuState& fpu = cpu.fpu;
  const unsigned i = insn.src & 7U;
  if (!is_x87_quiet(cpu) || is_empty(fpu, 0) || is_empty(fpu, i)) [[unlikely]]
    return x87_exact(cpu, insn);
  const __m128i top = _mm_load_si128(reinterpret_cast<__m128i*>(st(fpu, 0)));
  std::memmove(st(fpu, 0), st(fpu, i), 16);
  _mm_store_si128(reinterpret_cast<__m128i*>(st(fpu, i)), top);
  finish(cpu, insn, 0);
  return Step::Next;
}
template <bool Absolute>
Step sign(Cpu& cpu, const Insn& insn) {
  if (!is_x87_quiet(cpu) || is_empty(cpu.fpu, 0)) [[unlikely]]
    return x87_exact(cpu, insn);
  uint8_t& top = st(cpu.fpu, 0)[9];
  top = static_cast<uint8_t>(Absolute ? top & 0x7fU : top ^ 0x80U);
  finish(cpu, insn, 0);
  return Step::Next;
}

// --- comparisons of ST(0) with ST(i)
template <unsigned Opcode, unsigned Reg, bool ToEflags, unsigned Pops>
Step compare(Cpu& cpu, const Insn& insn) {
  FpuState& fpu = cpu.fpu;
  const unsigned i = insn.src & 7U;
  if (!is_x87_quiet(cpu) || is_empty(fpu, 0) || is_empty(fpu, i)) [[unlikely]]
    return x87_exact(cpu, insn);
  ArithmeticFlags flags = 0;
  const uint16_t status = host_compare<Opcode, 0xc1 | Reg << 3>(st(fpu, 0), st(fpu, i), flags);
  finish(cpu, insn, status, ToEflags ? 0 : kAllConditions);
  if constexpr (ToEflags) cpu.arith = flags;
  for (unsigned n = 0; n < Pops; ++n) pop(fpu);
  return Step::Next;
}

// --- binding
template <unsigned Opcode, typename T>
Handler bind_arithmetic_memory(unsigned reg) {
  constexpr Handler kHandlers[8] = {
      &handler<arithmetic_memory<Opcode, 0, T>>,
      &handler<arithmetic_memory<Opcode, 1, T>>,
      nullptr,  // FCOM
      nullptr,  // FCOMP
      &handler<arithmetic_memory<Opcode, 4, T>>,
      &handler<arithmetic_memory<Opcode, 5, T>>,
      &handler<arithmetic_memory<Opcode, 6, T>>,
      &handler<arithmetic_memory<Opcode, 7, T>>,
  };
  return kHandlers[reg];
}

Handler bind_arithmetic_registers(const Insn& insn) {
  // In D8 the pairs SUB/SUBR and DIV/DIVR stand the other way round than in DC and DE.
  const unsigned reg = insn.dst == 0xd8 && insn.aux >= 4 ? insn.aux ^ 1U : insn.aux;
  constexpr Handler kHandlers[8] = {
      &handler<arithmetic_registers<0>>,
      &handler<arithmetic_registers<1>>,
      nullptr,  // FCOM
      nullptr,  // FCOMP
      &handler<arithmetic_registers<4>>,
      &handler<arithmetic_registers<5>>,
      &handler<arithmetic_registers<6>>,
      &handler<arithmetic_registers<7>>,
  };
  return kHandlers[reg];
}

constexpr unsigned form(unsigned opcode, unsigned reg) { return opcode << 3 | reg; }

Handler bind_memory(const Insn& insn) {
  switch (form(insn.dst, insn.aux)) {
    case form(0xd9, 0):
      return &handler<load_number<0xd9, 0, uint32_t>>;
    case form(0xdd, 0):
      return &handler<load_number<0xdd, 0, uint64_t>>;
    case form(0xdb, 0):
      return &handler<load_number<0xdb, 0, uint32_t>>;
    case form(0xdf, 0):
      return &handler<load_number<0xdf, 0, uint16_t>>;
    case form(0xdf, 5):
      return &handler<load_number<0xdf, 5, uint64_t>>;
    case form(0xdb, 5):
      return &handler<load_extended>;
    case form(0xd9, 2):
      return &handler<store_number<0xd9, 3, uint32_t, false>>;
    case form(0xd9, 3):
      return &handler<store_number<0xd9, 3, uint32_t, true>>;
    case form(0xdd, 2):
      return &handler<store_number<0xdd, 3, uint64_t, false>>;
    case form(0xdd, 3):
      return &handler<store_number<0xdd, 3, uint64_t, true>>;
    case form(0xdb, 2):
      return &handler<store_number<0xdb, 3, uint32_t, false>>;
    case form(0xdb, 3):
      return &handler<store_number<0xdb, 3, uint32_t, true>>;
    case form(0xdb, 1):
      return &handler<store_number<0xdb, 1, uint32_t, true>>;
    case form(0xdd, 1):
      return &handler<store_number<0xdd, 1, uint64_t, true>>;
    case form(0xdf, 3):
      return &handler<store_number<0xdf, 3, uint16_t, true>>;
    case form(0xdf, 7):
      return &handler<store_number<0xdf, 7, uint64_t, true>>;
    case form(0xdb, 7):
      return &handler<store_extended>;
    default:
      break;
  }
  switch (insn.dst) {
    case 0xd8:
      return bind_arithmetic_memory<0xd8, uint32_t>(insn.aux);
    case 0xda:
      return bind_arithmetic_memory<0xda, uint32_t>(insn.aux);
    case 0xdc:
      return bind_arithmetic_memory<0xdc, uint64_t>(insn.aux);
    case 0xde:
      return bind_arithmetic_memory<0xde, uint16_t>(insn.aux);
    default:
      return nullptr;
  }
}

Handler bind_top(uint8_t modrm) {  // D9 with no operand but ST(0)
  switch (modrm) {
    case 0xe0:
      return &handler<sign<false>>;
    case 0xe1:
      return &handler<sign<true>>;
    case 0xe8:
      return &handler<load_constant<uint64_t{1} << 63, 0x3fff>>;  // FLD1
    case 0xee:
      return &handler<load_constant<0, 0>>;  // FLDZ
    case 0xfa:
      return &handler<unary<0xd9, 0xfa>>;  // FSQRT
    case 0xfc:
      return &handler<unary<0xd9, 0xfc>>;  // FRNDINT
    default:
      return nullptr;
  }
}

Handler bind_registers(const Insn& insn) {
  switch (form(insn.dst, insn.aux)) {
    case form(0xd9, 0):
      return &handler<load_register>;
    case form(0xd9, 1):
      return &handler<exchange>;
    case form(0xd9, 4):
    case form(0xd9, 5):
    case form(0xd9, 7):
      return bind_top(insn.src);
    case form(0xdd, 2):
      return &handler<store_register<false>>;
    case form(0xdd, 3):
      return &handler<store_register<true>>;
    case form(0xd8, 2):
      return &handler<compare<0xd8, 2, false, 0>>;
    case form(0xd8, 3):
      return &handler<compare<0xd8, 2, false, 1>>;
    case form(0xdd, 4):
      return &handler<compare<0xdd, 4, false, 0>>;
    case form(0xdd, 5):
      return &handler<compare<0xdd, 4, false, 1>>;
    case form(0xdb, 5):
      return &handler<compare<0xdb, 5, true, 0>>;
    case form(0xdb, 6):
      return &handler<compare<0xdb, 6, true, 0>>;
    case form(0xdf, 5):
      return &handler<compare<0xdb, 5, true, 1>>;
    case form(0xdf, 6):
      return &handler<compare<0xdb, 6, true, 1>>;
    default:
      break;
  }
  if (insn.src == 0xd9 && insn.dst == 0xde) return &handler<compare<0xd8, 2, false, 2>>;  // FCOMPP
  if (insn.src == 0xe9 && insn.dst == 0xda) return &handler<compare<0xdd, 4, false, 2>>;  // FUCOMPP
  if (insn.dst != 0xd8 && insn.dst != 0xdc && insn.dst != 0xde) return nullptr;
  return bind_arithmetic_registers(insn);
}

}  // namespace

Handler bind_x87_quick(const Decoded& decoded) {
  const Insn& insn = decoded.insn;
  return is_x87_register_form(insn) ? bind_registers(insn) : bind_memory(insn);
}

}  // namespace trapeze::soft::exec
