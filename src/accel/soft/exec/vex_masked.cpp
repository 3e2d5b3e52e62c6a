// VMASKMOVPS/PD, VPMASKMOVD/Q and the gathers: only elements whose mask has its top bit set are
// accessed, and only these can fault (SDM 2C "VMASKMOV", "VPMASKMOV", "VGATHERDPS").
//
// In an Insn, dst and aux are the numbers of ModRM.reg and VEX.vvvv, width that of the index
// register; imm holds a Shape.
#include <algorithm>

#include "accel/soft/exec/vector_operands.h"
#include "accel/soft/exec/vex.h"

namespace trapeze::soft::exec {
namespace {

struct Shape {
  uint8_t element = 0;      // bytes
  uint8_t count = 0;        // of elements
  uint8_t index_bytes = 0;  // gathers: of one index
};
int32_t packed(Shape shape) { return shape.element | shape.count << 8 | shape.index_bytes << 16; }
Shape shape_of(const Insn& insn) {
  const auto value = static_cast<uint32_t>(insn.imm);
  return {static_cast<uint8_t>(value), static_cast<uint8_t>(value >> 8),
          static_cast<uint8_t>(value >> 16)};
}

struct Vector {
  alignas(16) uint8_t bytes[32];
};
Vector get_vector(const Cpu& cpu, unsigned number) {
  Vector value;
  std::memcpy(value.bytes, cpu.fpu.xmm[number & 15U], 16);
  std::memcpy(value.bytes + 16, cpu.ymm_high[number & 15U], 16);
  return value;
}
void set_vector(Cpu& cpu, unsigned number, const Vector& value) {
  std::memcpy(cpu.fpu.xmm[number & 15U], value.bytes, 16);
  std::memcpy(cpu.ymm_high[number & 15U], value.bytes + 16, 16);
}
bool is_chosen(const Vector& mask, Shape shape, unsigned i) {
  return (mask.bytes[(i + 1) * shape.element - 1] & 0x80U) != 0;
}

// Element `offset` bytes on from the operand's address.
bool element_address(Cpu& cpu, const Insn& insn, uint64_t offset, unsigned size, Access access,
                     uint64_t& linear) {
  const uint64_t mask = (insn.flags & kAddress16) != 0   ? 0xffffU
                        : (insn.flags & kAddress32) != 0 ? 0xffff'ffffU
                                                         : ~uint64_t{0};
  const uint64_t address = (effective_address(cpu, insn) + offset) & mask;
  return segment_to_linear(cpu, insn.seg, address, size, access, linear);
}

bool read_element(Cpu& cpu, const Insn& insn, uint64_t offset, unsigned size, uint8_t* to) {
  uint64_t linear = 0;
  if (!element_address(cpu, insn, offset, size, Access::Read, linear)) return false;
  const TlbEntry& entry = cpu.tlb->entry(linear);
  if (entry.read_tag != tag_of(linear, size)) return slow_read(cpu, linear, to, size, insn.seg);
  std::memcpy(to, entry.host(linear), size);
  return true;
}

Step masked_load(Cpu& cpu, const Insn& insn) {
  if (!avx_usable(cpu)) return avx_unusable(cpu);
  const Shape shape = shape_of(insn);
  const Vector mask = get_vector(cpu, insn.aux);
  Vector result{};
  for (unsigned i = 0; i < shape.count; ++i) {
    const unsigned at = i * shape.element;
    if (!is_chosen(mask, shape, i)) continue;
    if (!read_element(cpu, insn, at, shape.element, result.bytes + at)) return Step::Fault;
  }
  set_vector(cpu, insn.dst, result);
  return Step::Next;
}

Step masked_store(Cpu& cpu, const Insn& insn) {
  if (!avx_usable(cpu)) return avx_unusable(cpu);
  const Shape shape = shape_of(insn);
  const Vector mask = get_vector(cpu, insn.aux);
  const Vector value = get_vector(cpu, insn.dst);
  uint64_t linear[8] = {};
  for (unsigned i = 0; i < shape.count; ++i) {
    if (!is_chosen(mask, shape, i)) continue;
    const unsigned at = i * shape.element;
    if (!element_address(cpu, insn, at, shape.element, Access::Write, linear[i]) ||
        !probe_write(cpu, linear[i], shape.element, insn.seg)) {
      return Step::Fault;
    }
  }
  for (unsigned i = 0; i < shape.count; ++i) {
    if (!is_chosen(mask, shape, i)) continue;
    const uint8_t* from = value.bytes + i * shape.element;
    const TlbEntry& entry = cpu.tlb->entry(linear[i]);
    if (entry.write_tag == tag_of(linear[i], shape.element)) {
      std::memcpy(entry.host(linear[i]), from, shape.element);
    } else if (!slow_write(cpu, linear[i], from, shape.element, insn.seg)) {
      return Step::Fault;
    }
  }
  return Step::Next;
}

uint64_t index_of(const Vector& indices, Shape shape, unsigned i) {
  if (shape.index_bytes == 8) return load_host<uint64_t>(indices.bytes + i * 8);
  const auto index = static_cast<int32_t>(load_host<uint32_t>(indices.bytes + i * 4));
  return static_cast<uint64_t>(static_cast<int64_t>(index));
}

// Elements are done in order, and each one that is done leaves the mask: a gather that faults goes
// on where it was. The manual leaves the state at a fault open in places; it is what an Intel
// processor shows: the mask widened to whole elements and both registers cut to the vector length.
Step gather(Cpu& cpu, const Insn& insn) {
  if (!avx_usable(cpu)) return avx_unusable(cpu);
  const Shape shape = shape_of(insn);
  const unsigned used = shape.count * shape.element;
  const Vector indices = get_vector(cpu, insn.width);
  Vector mask = get_vector(cpu, insn.aux);
  Vector result = get_vector(cpu, insn.dst);
  const unsigned length = shape.count * std::max(shape.element, shape.index_bytes);
  std::memset(mask.bytes + length, 0, sizeof(mask.bytes) - length);
  std::memset(result.bytes + length, 0, sizeof(result.bytes) - length);
  for (unsigned i = 0; i < length / shape.element; ++i) {
    std::memset(mask.bytes + i * shape.element, is_chosen(mask, shape, i) ? 0xff : 0,
                shape.element);
  }
  Step step = Step::Next;
  for (unsigned i = 0; i < shape.count; ++i) {
    const unsigned at = i * shape.element;
    if (!is_chosen(mask, shape, i)) continue;
    const uint64_t offset = index_of(indices, shape, i) << insn.scale;
    if (!read_element(cpu, insn, offset, shape.element, result.bytes + at)) {
      step = Step::Fault;
      break;
    }
    std::memset(mask.bytes + at, 0, shape.element);
  }
  if (step == Step::Next) {
    std::memset(mask.bytes + used, 0, sizeof(mask.bytes) - used);
    std::memset(result.bytes + used, 0, sizeof(result.bytes) - used);
  }
  set_vector(cpu, insn.dst, result);
  set_vector(cpu, insn.aux, mask);
  return step;
}

uint8_t register_number(const Decoded& decoded, unsigned i) {
  return static_cast<uint8_t>(ZydisRegisterGetId(decoded.operands[i].reg.value));
}

// The registers of VMASKMOV and of gathers stand in the same places; only the order of operands
// differs.
Handler bind_masked_move(Decoded& decoded, uint8_t element) {
  Insn& insn = decoded.insn;
  const bool is_store = decoded.is_mem(0);
  const unsigned mask = 1, value = is_store ? 2 : 0;
  if (!decoded.is_reg(mask) || !decoded.is_reg(value)) return nullptr;
  insn.dst = register_number(decoded, value);
  insn.aux = register_number(decoded, mask);
  const unsigned bytes = decoded.zy.raw.vex.L != 0 ? 32 : 16;
  insn.imm = packed({element, static_cast<uint8_t>(bytes / element), 0});
  return is_store ? &handler<masked_store> : &handler<masked_load>;
}

Handler bind_gather(Decoded& decoded, uint8_t element, uint8_t index_bytes) {
  Insn& insn = decoded.insn;
  if (!decoded.is_reg(0) || !decoded.is_mem(1) || !decoded.is_reg(2)) return nullptr;
  insn.dst = register_number(decoded, 0);
  insn.aux = register_number(decoded, 2);
  // The decoder took the vector register for a general one.
  insn.width = static_cast<uint8_t>(ZydisRegisterGetId(decoded.operands[1].mem.index));
  insn.index = kZeroReg * 8;
  const unsigned bytes = decoded.zy.raw.vex.L != 0 ? 32 : 16;
  const unsigned count = bytes / std::max(element, index_bytes);
  insn.imm = packed({element, static_cast<uint8_t>(count), index_bytes});
  return &handler<gather>;
}

// VMASKMOVDQU [rDI], by bytes.
Step masked_store_bytes(Cpu& cpu, const Insn& insn) {
  if (!avx_usable(cpu)) return avx_unusable(cpu);
  const uint8_t* bytes = cpu.fpu.xmm[insn.dst & 15U];
  return store_masked_bytes(cpu, insn, bytes, cpu.fpu.xmm[insn.src & 15U], 16) ? Step::Next
                                                                               : Step::Fault;
}

}  // namespace

Handler bind_vex_masked(Decoded& decoded) {
  switch (static_cast<unsigned>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VPMASKMOVD:
      return bind_masked_move(decoded, 4);
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ:
      return bind_masked_move(decoded, 8);
    case ZYDIS_MNEMONIC_VGATHERDPS:
    case ZYDIS_MNEMONIC_VPGATHERDD:
      return bind_gather(decoded, 4, 4);
    case ZYDIS_MNEMONIC_VGATHERDPD:
    case ZYDIS_MNEMONIC_VPGATHERDQ:
      return bind_gather(decoded, 8, 4);
    case ZYDIS_MNEMONIC_VGATHERQPS:
    case ZYDIS_MNEMONIC_VPGATHERQD:
      return bind_gather(decoded, 4, 8);
    case ZYDIS_MNEMONIC_VGATHERQPD:
    case ZYDIS_MNEMONIC_VPGATHERQQ:
      return bind_gather(decoded, 8, 8);
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
      use_rdi(decoded);
      return &handler<masked_store_bytes>;
    default:
      return nullptr;
  }
}

}  // namespace trapeze::soft::exec
