// VEX-encoded instructions: from the decoder's operands to a VexOp, and running it. vex.h tells
// how.
//
// In an Insn, dst, aux, src and width are the numbers of the registers in ModRM.reg, VEX.vvvv,
// ModRM.rm and the immediate; imm is the VexOp's number.
#include "accel/soft/exec/vex.h"

#include <string_view>

#include "accel/soft/exec/sse_float.h"
#include "accel/soft/exec/vector_classes.h"

namespace trapeze::soft::exec {
namespace {

// --- running

void load_vector_operand(const Cpu& cpu, unsigned number, uint8_t* to) {
  std::memcpy(to, cpu.fpu.xmm[number & 15U], 16);
  std::memcpy(to + 16, cpu.ymm_high[number & 15U], 16);
}
void store_vector_operand(Cpu& cpu, unsigned number, const uint8_t* from) {
  std::memcpy(cpu.fpu.xmm[number & 15U], from, 16);
  std::memcpy(cpu.ymm_high[number & 15U], from + 16, 16);
}

// Naturally aligned accesses of up to 8 bytes stay whole.
void copy_operand(void* to, const void* from, unsigned size) {
  switch (size) {
    case 1:
      store_host<uint8_t>(to, load_host<uint8_t>(from));
      return;
    case 2:
      store_host<uint16_t>(to, load_host<uint16_t>(from));
      return;
    case 4:
      store_host<uint32_t>(to, load_host<uint32_t>(from));
      return;
    case 8:
      store_host<uint64_t>(to, load_host<uint64_t>(from));
      return;
    case 16:
      std::memcpy(to, from, 16);
      return;
    default:
      std::memcpy(to, from, 32);
      return;
  }
}

bool operand_address(Cpu& cpu, const Insn& insn, const VexOp& op, uint64_t& linear) {
  const Access access = op.memory == VexMemory::Write ? Access::Write : Access::Read;
  if (!linear_address(cpu, insn, op.memory_bytes, access, linear)) return false;
  if ((linear & (op.alignment - 1U)) == 0) return true;
  raise(cpu, kGP, 0);
  return false;
}

bool read_operand(Cpu& cpu, const Insn& insn, const VexOp& op, uint64_t linear, uint8_t* to) {
  const TlbEntry& entry = cpu.tlb->entry(linear);
  if (entry.read_tag != tag_of(linear, op.memory_bytes)) [[unlikely]]
    return slow_read(cpu, linear, to, op.memory_bytes, insn.seg);
  copy_operand(to, entry.host(linear), op.memory_bytes);
  return true;
}

bool write_operand(Cpu& cpu, const Insn& insn, const VexOp& op, uint64_t linear,
                   const uint8_t* from) {
  const TlbEntry& entry = cpu.tlb->entry(linear);
  if (entry.write_tag != tag_of(linear, op.memory_bytes)) [[unlikely]]
    return slow_write(cpu, linear, from, op.memory_bytes, insn.seg);
  copy_operand(entry.host(linear), from, op.memory_bytes);
  return true;
}

uint8_t gpr_number(const Insn& insn, const VexOp& op, unsigned i) {
  if ((op.gpr_fixed >> i & 1) != 0) return static_cast<uint8_t>(i);  // RAX, RCX, RDX
  return i == kRoleReg ? insn.dst : i == kRoleVvvv ? insn.aux : insn.src;
}

void load_registers(const Cpu& cpu, const Insn& insn, const VexOp& op, VexOperands& operands) {
  const uint8_t numbers[kVexRoles] = {insn.dst, insn.aux, insn.src, insn.width};
  for (unsigned role = 0; role < kVexRoles; ++role) {
    if ((op.vector_in >> role & 1) != 0) {
      load_vector_operand(cpu, numbers[role], operands.vector[role]);
    }
  }
  for (unsigned i = 0; i < 4; ++i) {
    operands.gpr[i] = (op.gpr_in >> i & 1) != 0 ? cpu.gpr[gpr_number(insn, op, i) & 15U] : 0;
  }
  operands.flags = cpu.arith;
}

void store_registers(Cpu& cpu, const Insn& insn, const VexOp& op, const VexOperands& operands) {
  const uint8_t numbers[kVexRoles] = {op.to_xmm0 ? uint8_t{0} : insn.dst, insn.aux, insn.src,
                                      insn.width};
  for (unsigned role = 0; role < kVexRoles; ++role) {
    if ((op.vector_out >> role & 1) != 0) {
      store_vector_operand(cpu, numbers[role], operands.vector[role]);
    }
  }
  if (!op.general) return;
  // MULX with both results to one register: it gets the high half, which is ModRM.reg's.
  for (unsigned i = 4; i-- > 0;) {
    if ((op.gpr_out >> i & 1) != 0) cpu.gpr[gpr_number(insn, op, i) & 15U] = operands.gpr[i];
  }
  cpu.arith = operands.flags;
}

template <typename UInt>
bool any_tiny(const uint8_t* bytes, unsigned count, UInt exponent) {
  for (unsigned i = 0; i < count; ++i) {
    const auto value = load_host<UInt>(bytes + i * sizeof(UInt));
    constexpr UInt kSign = static_cast<UInt>(UInt{1} << (8 * sizeof(UInt) - 1));
    if ((value & exponent) == 0 && (value & static_cast<UInt>(~kSign)) != 0) return true;
  }
  return false;
}

bool has_tiny(const VexOp& op, const VexOperands& operands) {
  constexpr uint64_t kDoubleExponent = uint64_t{0x7ff} << 52;
  constexpr uint32_t kSingleExponent = uint32_t{0xff} << 23;
  constexpr uint16_t kHalfExponent = 0x1f << 10;
  const uint8_t* result = operands.vector[kRoleReg];
  switch (op.tiny) {
    case VexTiny::Never:
      return false;
    case VexTiny::Single:
      return any_tiny<uint32_t>(result, 1, kSingleExponent);
    case VexTiny::Double:
      return any_tiny<uint64_t>(result, 1, kDoubleExponent);
    case VexTiny::Singles:
      return any_tiny<uint32_t>(result, 8, kSingleExponent);
    case VexTiny::Doubles:
      return any_tiny<uint64_t>(result, 4, kDoubleExponent);
    case VexTiny::Halves:
      break;
  }
  // VCVTPS2PH alone has its result in ModRM.rm; above 8 or 4 elements there are zeros.
  if (op.memory == VexMemory::Write) {
    return any_tiny<uint16_t>(operands.memory, op.memory_bytes / 2, kHalfExponent);
  }
  return any_tiny<uint16_t>(operands.vector[kRoleRm], 8, kHalfExponent);
}

// False with #XM (or #UD) pending.
bool run_float(Cpu& cpu, const VexOp& op, VexOperands& operands) {
  if (all_masked(cpu)) [[likely]] {
    op.run(operands.memory);
    return true;
  }
  begin_careful(cpu);
  op.run(operands.memory);
  return end_careful(cpu, has_tiny(op, operands));
}

Step run_vex(Cpu& cpu, const Insn& insn) {
  const VexOp& op = vex_op(static_cast<uint32_t>(insn.imm));
  if (op.needs_avx ? !avx_usable(cpu) : is_real_or_vm86(cpu)) [[unlikely]]
    return op.needs_avx ? avx_unusable(cpu) : raise(cpu, kUD);
  VexOperands operands;
  uint64_t linear = 0;
  if (op.memory != VexMemory::None) {
    if (!operand_address(cpu, insn, op, linear)) return Step::Fault;
    if (op.memory == VexMemory::Read && !read_operand(cpu, insn, op, linear, operands.memory)) {
      return Step::Fault;
    }
  }
  load_registers(cpu, insn, op, operands);
  if (op.is_float) {
    if (!run_float(cpu, op, operands)) return Step::Fault;
  } else {
    op.run(operands.memory);
  }
  // VCVTPS2PH computes before it stores: a store that faults leaves its flags in MXCSR.
  if (op.memory == VexMemory::Write && !write_operand(cpu, insn, op, linear, operands.memory)) {
    return Step::Fault;
  }
  store_registers(cpu, insn, op, operands);
  return Step::Next;
}

// VZEROUPPER, VZEROALL: registers 8 to 15 stay outside 64-bit mode.
template <bool All>
Step zero_vectors(Cpu& cpu, const Insn&) {
  if (!avx_usable(cpu)) return avx_unusable(cpu);
  const size_t size = is_code64(cpu) ? sizeof(cpu.fpu.xmm) : sizeof(cpu.fpu.xmm) / 2;
  if (All) std::memset(cpu.fpu.xmm, 0, size);
  std::memset(cpu.ymm_high, 0, size);
  return Step::Next;
}

Step vldmxcsr(Cpu& cpu, const Insn& insn) {
  if (!avx_usable(cpu)) return avx_unusable(cpu);
  uint32_t value = 0;
  if (!load<uint32_t>(cpu, insn, value)) return Step::Fault;
  if ((value & ~kMxcsrValid) != 0) return raise(cpu, kGP, 0);
  set_guest_mxcsr(cpu, value);
  return Step::Next;
}

Step vstmxcsr(Cpu& cpu, const Insn& insn) {
  if (!avx_usable(cpu)) return avx_unusable(cpu);
  return store<uint32_t>(cpu, insn, guest_mxcsr(cpu)) ? Step::Next : Step::Fault;
}

// --- binding

VexTiny tiny_of(const Decoded& decoded) {
  const std::string_view name = ZydisMnemonicGetString(decoded.zy.mnemonic);
  if (name == "vcvtps2ph") return VexTiny::Halves;
  bool may_be = false;
  for (const std::string_view start : {"vadd", "vsub", "vmul", "vdiv", "vhadd", "vhsub", "vdp",
                                       "vfm", "vfnm", "vcvtpd2ps", "vcvtsd2ss"}) {
    may_be = may_be || name.starts_with(start);
  }
  if (!may_be) return VexTiny::Never;
  if (name.ends_with("ss")) return VexTiny::Single;
  if (name.ends_with("sd")) return VexTiny::Double;
  return name.ends_with("ps") ? VexTiny::Singles : VexTiny::Doubles;
}

bool is_general(ZydisRegister reg) { return reg >= ZYDIS_REGISTER_AL && reg <= ZYDIS_REGISTER_R15; }
bool is_vector(ZydisRegister reg) {
  return reg >= ZYDIS_REGISTER_XMM0 && reg <= ZYDIS_REGISTER_YMM15;
}

// Collects what bind_vex() finds out of the operands.
class Binder {
 public:
  explicit Binder(Decoded& decoded) : decoded_(decoded), insn_(decoded.insn) {}

  Handler bind() {
    const ZydisDecodedInstruction& zy = decoded_.zy;
    op_.needs_avx = zy.meta.isa_set != ZYDIS_ISA_SET_BMI1 && zy.meta.isa_set != ZYDIS_ISA_SET_BMI2;
    op_.is_float = zy.meta.exception_class == ZYDIS_EXCEPTION_CLASS_AVX2 ||
                   zy.meta.exception_class == ZYDIS_EXCEPTION_CLASS_AVX3 ||
                   zy.meta.exception_class == ZYDIS_EXCEPTION_CLASS_AVX11;
    if (op_.is_float) op_.tiny = tiny_of(decoded_);
    encoding_.extension = zy.raw.modrm.reg;
    for (unsigned i = 0; i < zy.operand_count; ++i) {
      if (!add(decoded_.operands[i])) return nullptr;
    }
    fill_encoding();
    const uint32_t number = vex_op_number(encoding_, op_);
    if (number == kNoVexOp) return nullptr;
    insn_.imm = static_cast<int32_t>(number);
    return &handler<run_vex>;
  }

 private:
  bool add(const ZydisDecodedOperand& operand) {
    switch (operand.type) {
      case ZYDIS_OPERAND_TYPE_REGISTER:
        return operand.visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT ? add_register(operand)
                                                                       : add_implicit(operand);
      case ZYDIS_OPERAND_TYPE_MEMORY:
        return add_memory(operand);
      case ZYDIS_OPERAND_TYPE_IMMEDIATE:
        return true;
      case ZYDIS_OPERAND_TYPE_UNUSED:
      case ZYDIS_OPERAND_TYPE_POINTER:
      default:
        return false;
    }
  }

  bool add_register(const ZydisDecodedOperand& operand) {
    unsigned role = 0;
    switch (static_cast<int>(operand.encoding)) {
      case ZYDIS_OPERAND_ENCODING_MODRM_REG:
        role = kRoleReg;
        encoding_.extension = 0;
        break;
      case ZYDIS_OPERAND_ENCODING_NDSNDD:
        role = kRoleVvvv;
        encoding_.has_vvvv = true;
        break;
      case ZYDIS_OPERAND_ENCODING_MODRM_RM:
        role = kRoleRm;
        break;
      case ZYDIS_OPERAND_ENCODING_IS4:
        role = kRoleImmediate;
        is4_ = true;
        break;
      default:
        return false;
    }
    const ZydisRegister name = operand.reg.value;
    const auto number = static_cast<uint8_t>(ZydisRegisterGetId(name));
    uint8_t* const numbers[kVexRoles] = {&insn_.dst, &insn_.aux, &insn_.src, &insn_.width};
    *numbers[role] = number;
    if (is_general(name) && role != kRoleImmediate) {
      encoding_.rm_is_gpr |= role == kRoleRm;
      use(operand, role == kRoleRm ? kGprRm : role, op_.gpr_in, op_.gpr_out);
      op_.general = true;
      return true;
    }
    if (!is_vector(name)) return false;
    use(operand, role, op_.vector_in, op_.vector_out);
    return true;
  }

  static void use(const ZydisDecodedOperand& operand, unsigned bit, uint8_t& in, uint8_t& out) {
    const auto mask = static_cast<uint8_t>(1U << bit);
    if ((operand.actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0) in |= mask;
    if ((operand.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0) out |= mask;
  }

  bool add_implicit(const ZydisDecodedOperand& operand) {
    const ZydisRegister name = operand.reg.value;
    const ZydisRegisterClass kind = ZydisRegisterGetClass(name);
    if (kind == ZYDIS_REGCLASS_FLAGS || name == ZYDIS_REGISTER_MXCSR) {
      op_.general |= kind == ZYDIS_REGCLASS_FLAGS;
      return true;
    }
    if (name == ZYDIS_REGISTER_XMM0) {
      op_.vector_out |= 1U << kRoleReg;
      op_.to_xmm0 = true;
      return true;
    }
    if (!is_general(name)) return false;
    const auto number = static_cast<unsigned>(ZydisRegisterGetId(name));
    if (number > kGprRdx) return false;
    op_.gpr_fixed = static_cast<uint8_t>(op_.gpr_fixed | 1U << number);
    use(operand, number, op_.gpr_in, op_.gpr_out);
    op_.general = true;
    return true;
  }

  bool add_memory(const ZydisDecodedOperand& operand) {
    if (operand.visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT) return false;
    const unsigned bytes = operand.size / 8U;
    const bool fits =
        bytes == 1 || bytes == 2 || bytes == 4 || bytes == 8 || bytes == 16 || bytes == 32;
    if (!fits || operand.mem.type != ZYDIS_MEMOP_TYPE_MEM) return false;
    encoding_.has_memory = true;
    op_.memory = (operand.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0 ? VexMemory::Write
                                                                          : VexMemory::Read;
    op_.memory_bytes = static_cast<uint8_t>(bytes);
    const bool aligned = decoded_.zy.meta.exception_class == ZYDIS_EXCEPTION_CLASS_AVX1;
    op_.alignment = static_cast<uint8_t>(aligned ? bytes : 1);
    return true;
  }

  void fill_encoding() {
    const auto& vex = decoded_.zy.raw.vex;
    encoding_.map = vex.m_mmmm;
    encoding_.pp = vex.pp;
    encoding_.opcode = decoded_.zy.opcode;
    encoding_.is_256 = vex.L != 0;
    encoding_.wide = vex_w(decoded_.zy, decoded_.operands);
    const auto& imm = decoded_.zy.raw.imm[0];
    encoding_.has_immediate = is4_ || imm.size != 0;
    if (is4_) {
      encoding_.immediate = kRoleImmediate << 4;
    } else if (encoding_.has_immediate) {
      encoding_.immediate = immediate8(decoded_);
    }
  }

  Decoded& decoded_;
  Insn& insn_;
  VexOp op_;
  VexEncoding encoding_;
  bool is4_ = false;
};

}  // namespace

bool vex_w(const ZydisDecodedInstruction& zy, const ZydisDecodedOperand* operands) {
  bool has_gpr = false, is_wide = false;
  for (unsigned i = 0; i < zy.operand_count_visible; ++i) {
    if (operands[i].type != ZYDIS_OPERAND_TYPE_REGISTER) continue;
    if (!is_general(operands[i].reg.value)) continue;
    has_gpr = true;
    is_wide |= operands[i].size == 64;
  }
  switch (static_cast<int>(zy.mnemonic)) {
    case ZYDIS_MNEMONIC_VMOVD:
    case ZYDIS_MNEMONIC_VPINSRD:
    case ZYDIS_MNEMONIC_VPEXTRD:
    case ZYDIS_MNEMONIC_VCVTSI2SS:
    case ZYDIS_MNEMONIC_VCVTSI2SD:
    case ZYDIS_MNEMONIC_VPCMPESTRI:
    case ZYDIS_MNEMONIC_VPCMPESTRM:
      if (zy.machine_mode != ZYDIS_MACHINE_MODE_LONG_64) return false;
      break;
    default:
      break;
  }
  return has_gpr ? is_wide : zy.raw.vex.W != 0;
}

Step avx_unusable(Cpu& cpu) { return raise(cpu, avx_enabled(cpu) ? kNM : kUD); }

Handler bind_vex(Decoded& decoded) {
  switch (static_cast<unsigned>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_VZEROUPPER:
      return &handler<zero_vectors<false>>;
    case ZYDIS_MNEMONIC_VZEROALL:
      return &handler<zero_vectors<true>>;
    case ZYDIS_MNEMONIC_VLDMXCSR:
      return &handler<vldmxcsr>;
    case ZYDIS_MNEMONIC_VSTMXCSR:
      return &handler<vstmxcsr>;
    default:
      break;
  }
  if (const Handler found = bind_vex_masked(decoded)) return found;
  return Binder(decoded).bind();
}

}  // namespace trapeze::soft::exec
