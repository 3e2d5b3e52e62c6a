// x87 control instructions: FNINIT, FNCLEX, control and status word, environment and state images.
#include <cstring>

#include "accel/soft/exec/vector_classes.h"
#include "accel/soft/exec/vector_operands.h"
#include "accel/soft/exec/x87.h"

namespace trapeze::soft::exec {
namespace {

// Two bits a physical register: 0 valid, 1 zero, 2 special (denormal, infinity, NaN, unnormal), 3
// empty (SDM 1 8.1.7).
uint16_t full_tags(const FpuState& fpu) {
  unsigned tags = 0;
  for (unsigned i = 0; i < 8; ++i) {
    uint64_t significand = 0;
    uint16_t exponent = 0;
    std::memcpy(&significand, fpu.st[i], 8);
    std::memcpy(&exponent, fpu.st[i] + 8, 2);
    exponent &= 0x7fffU;
    unsigned tag = 0;
    if (((fpu.empty >> i) & 1U) != 0) {
      tag = 3;
    } else if (exponent == 0 && significand == 0) {
      tag = 1;
    } else if (exponent == 0 || exponent == 0x7fff || (significand >> 63) == 0) {
      tag = 2;
    }
    tags |= tag << (2 * i);
  }
  return static_cast<uint16_t>(tags);
}

uint8_t empty_from_tags(uint16_t tags) {
  unsigned empty = 0;
  for (unsigned i = 0; i < 8; ++i) {
    if (((tags >> (2 * i)) & 3U) == 3) empty |= 1U << i;
  }
  return static_cast<uint8_t>(empty);
}

// The environment is seven words or seven doublewords, by operand size; the pointers in it are
// laid out for protected mode or, as linear addresses, for real and virtual-8086 mode (SDM 1
// figures 8-9 to 8-12).
constexpr unsigned kEnvFields = 7;
constexpr unsigned kRegisterBytes = 80;
struct Environment {
  uint32_t field[kEnvFields];
};

Environment make_environment(const Cpu& cpu, bool wide) {
  const FpuState& fpu = cpu.fpu;
  // Reserved halves of the 32-bit image are stored as ones.
  constexpr uint32_t kReserved = 0xffff'0000;
  Environment env{};
  env.field[0] = kReserved | fpu.fcw;
  env.field[1] = kReserved | fpu.fsw;
  env.field[2] = kReserved | full_tags(fpu);
  const uint32_t opcode = fpu.fop & 0x7ffU;
  if (!is_real_or_vm86(cpu)) {
    env.field[3] = static_cast<uint32_t>(fpu.fip);
    env.field[4] = opcode << 16;
    env.field[5] = static_cast<uint32_t>(fpu.fdp);
    env.field[6] = kReserved;
    return env;
  }
  const auto fip = static_cast<uint32_t>(fpu.fip), fdp = static_cast<uint32_t>(fpu.fdp);
  env.field[3] = (wide ? kReserved : 0) | (fip & 0xffffU);
  env.field[4] = (fip >> 16) << 12 | opcode;
  env.field[5] = (wide ? kReserved : 0) | (fdp & 0xffffU);
  env.field[6] = (fdp >> 16) << 12;
  return env;
}

void take_environment(Cpu& cpu, const Environment& env, bool wide) {
  FpuState& fpu = cpu.fpu;
  fpu.fcw = valid_fcw(static_cast<uint16_t>(env.field[0]));
  fpu.fsw = with_summary(static_cast<uint16_t>(env.field[1]), fpu.fcw);
  fpu.empty = empty_from_tags(static_cast<uint16_t>(env.field[2]));
  if (!is_real_or_vm86(cpu)) {
    fpu.fip = env.field[3];
    if (wide) fpu.fop = static_cast<uint16_t>((env.field[4] >> 16) & 0x7ffU);
    fpu.fdp = env.field[5];
    return;
  }
  // The 16-bit form has room for 4 high bits only.
  const uint32_t high = wide ? 0xffffU : 0xfU;
  fpu.fip = ((env.field[4] >> 12) & high) << 16 | (env.field[3] & 0xffffU);
  fpu.fop = static_cast<uint16_t>(env.field[4] & 0x7ffU);
  fpu.fdp = ((env.field[6] >> 12) & high) << 16 | (env.field[5] & 0xffffU);
}

// The image as it stands in memory: `bytes` must hold the environment.
template <typename Field>
void put_environment(const Environment& env, uint8_t* bytes) {
  for (unsigned i = 0; i < kEnvFields; ++i) {
    const auto field = static_cast<Field>(env.field[i]);
    std::memcpy(bytes + i * sizeof(Field), &field, sizeof(Field));
  }
}
template <typename Field>
Environment get_environment(const uint8_t* bytes) {
  Environment env{};
  for (unsigned i = 0; i < kEnvFields; ++i) {
    Field field = 0;
    std::memcpy(&field, bytes + i * sizeof(Field), sizeof(Field));
    env.field[i] = field;
  }
  return env;
}

template <typename Field>
Step fnstenv(Cpu& cpu, const Insn& insn) {
  if (!x87_usable(cpu, false)) return Step::Fault;
  uint8_t bytes[kEnvFields * sizeof(Field)];
  put_environment<Field>(make_environment(cpu, sizeof(Field) == 4), bytes);
  if (!store_block(cpu, insn, bytes, sizeof(bytes))) return Step::Fault;
  cpu.fpu.fcw |= kFcwMasks;
  cpu.fpu.fsw = with_summary(cpu.fpu.fsw, cpu.fpu.fcw);
  return Step::Next;
}

template <typename Field>
Step fldenv(Cpu& cpu, const Insn& insn) {
  if (!x87_usable(cpu, true)) return Step::Fault;
  uint8_t bytes[kEnvFields * sizeof(Field)];
  if (!load_block(cpu, insn, bytes, sizeof(bytes))) return Step::Fault;
  take_environment(cpu, get_environment<Field>(bytes), sizeof(Field) == 4);
  return Step::Next;
}

template <typename Field>
Step fnsave(Cpu& cpu, const Insn& insn) {
  if (!x87_usable(cpu, false)) return Step::Fault;
  constexpr unsigned kEnvBytes = kEnvFields * sizeof(Field);
  uint8_t bytes[kEnvBytes + kRegisterBytes];
  put_environment<Field>(make_environment(cpu, sizeof(Field) == 4), bytes);
  const unsigned top = fpu_top(cpu.fpu);
  for (unsigned i = 0; i < 8; ++i)
    std::memcpy(bytes + kEnvBytes + i * 10, cpu.fpu.st[(top + i) & 7U], 10);
  if (!store_block(cpu, insn, bytes, sizeof(bytes))) return Step::Fault;
  fpu_init(cpu.fpu);
  return Step::Next;
}

template <typename Field>
Step frstor(Cpu& cpu, const Insn& insn) {
  if (!x87_usable(cpu, true)) return Step::Fault;
  constexpr unsigned kEnvBytes = kEnvFields * sizeof(Field);
  uint8_t bytes[kEnvBytes + kRegisterBytes];
  if (!load_block(cpu, insn, bytes, sizeof(bytes))) return Step::Fault;
  take_environment(cpu, get_environment<Field>(bytes), sizeof(Field) == 4);
  const unsigned top = fpu_top(cpu.fpu);
  for (unsigned i = 0; i < 8; ++i)
    std::memcpy(cpu.fpu.st[(top + i) & 7U], bytes + kEnvBytes + i * 10, 10);
  return Step::Next;
}

Step fninit(Cpu& cpu, const Insn&) {
  if (!x87_usable(cpu, false)) return Step::Fault;
  fpu_init(cpu.fpu);
  return Step::Next;
}
Step fnclex(Cpu& cpu, const Insn&) {
  if (!x87_usable(cpu, false)) return Step::Fault;
  cpu.fpu.fsw &= static_cast<uint16_t>(~(kFswFlags | kFswStackFault | kFswEs | kFswBusy));
  return Step::Next;
}
Step fldcw(Cpu& cpu, const Insn& insn) {
  if (!x87_usable(cpu, true)) return Step::Fault;
  uint16_t fcw = 0;
  if (!load<uint16_t>(cpu, insn, fcw)) return Step::Fault;
  cpu.fpu.fcw = valid_fcw(fcw);
  cpu.fpu.fsw = with_summary(cpu.fpu.fsw, cpu.fpu.fcw);
  return Step::Next;
}
Step fnstcw(Cpu& cpu, const Insn& insn) {
  if (!x87_usable(cpu, false)) return Step::Fault;
  return store<uint16_t>(cpu, insn, cpu.fpu.fcw) ? Step::Next : Step::Fault;
}
Step fnstsw(Cpu& cpu, const Insn& insn) {
  if (!x87_usable(cpu, false)) return Step::Fault;
  return store<uint16_t>(cpu, insn, cpu.fpu.fsw) ? Step::Next : Step::Fault;
}
Step fnstsw_ax(Cpu& cpu, const Insn&) {
  if (!x87_usable(cpu, false)) return Step::Fault;
  set_reg<uint16_t>(cpu, kRax * 8, cpu.fpu.fsw);
  return Step::Next;
}

// EM does not matter to FWAIT; TS only together with MP (SDM 3A table 2-2).
Step fwait(Cpu& cpu, const Insn&) {
  if ((cpu.cr0 & kCr0Mp) != 0 && (cpu.cr0 & kCr0Ts) != 0) return raise(cpu, kNM);
  return x87_pending(cpu) ? Step::Fault : Step::Next;
}

}  // namespace

Handler bind_x87_control(Decoded& decoded) {
  const bool narrow = decoded.zy.operand_width == 16;
  switch (static_cast<unsigned>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_FNINIT:
      return &handler<fninit>;
    case ZYDIS_MNEMONIC_FNCLEX:
      return &handler<fnclex>;
    case ZYDIS_MNEMONIC_FLDCW:
      return &handler<fldcw>;
    case ZYDIS_MNEMONIC_FNSTCW:
      return &handler<fnstcw>;
    case ZYDIS_MNEMONIC_FNSTSW:
      return decoded.is_mem(0) ? &handler<fnstsw> : &handler<fnstsw_ax>;
    case ZYDIS_MNEMONIC_FNSTENV:
      return narrow ? &handler<fnstenv<uint16_t>> : &handler<fnstenv<uint32_t>>;
    case ZYDIS_MNEMONIC_FLDENV:
      return narrow ? &handler<fldenv<uint16_t>> : &handler<fldenv<uint32_t>>;
    case ZYDIS_MNEMONIC_FNSAVE:
      return narrow ? &handler<fnsave<uint16_t>> : &handler<fnsave<uint32_t>>;
    case ZYDIS_MNEMONIC_FRSTOR:
      return narrow ? &handler<frstor<uint16_t>> : &handler<frstor<uint32_t>>;
    case ZYDIS_MNEMONIC_FWAIT:
      return &handler<fwait>;
    default:
      return nullptr;
  }
}

}  // namespace trapeze::soft::exec
