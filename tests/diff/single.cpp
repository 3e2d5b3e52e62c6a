// Generator::single: one instruction, its registers arranged so that its operands lie where the
// interesting things are.
#include <cstring>

#include "diff/generator.h"

namespace trapeze::diff {
namespace {

constexpr uint64_t kUnmapped = kReadOnly + kPage;

struct Address {
  uint64_t segment_base = 0;
  unsigned base = 16, index = 16;
  bool rip_relative = false;
  uint64_t scale = 0, displacement = 0;
};

Address address_of(const ZydisDecodedOperand& operand) {
  Address address;
  if (operand.mem.segment == ZYDIS_REGISTER_GS) address.segment_base = kGsBase;
  address.rip_relative =
      operand.mem.base == ZYDIS_REGISTER_RIP || operand.mem.base == ZYDIS_REGISTER_EIP;
  if (operand.mem.base != ZYDIS_REGISTER_NONE && !address.rip_relative)
    address.base = gpr_number(operand.mem.base);
  if (operand.mem.index != ZYDIS_REGISTER_NONE) address.index = gpr_number(operand.mem.index);
  address.scale = operand.mem.scale;
  address.displacement = static_cast<uint64_t>(operand.mem.disp.value);
  return address;
}

bool is_bit_test(ZydisMnemonic mnemonic) {
  return mnemonic == ZYDIS_MNEMONIC_BT || mnemonic == ZYDIS_MNEMONIC_BTS ||
         mnemonic == ZYDIS_MNEMONIC_BTR || mnemonic == ZYDIS_MNEMONIC_BTC;
}

// The kernel may slow down or stop a process whose locked access crosses a cache line.
bool is_locked(const soft::Decoded& decoded) {
  return (decoded.zy.attributes & ZYDIS_ATTRIB_HAS_LOCK) != 0 ||
         decoded.zy.mnemonic == ZYDIS_MNEMONIC_XCHG;
}

bool is_mmx(const soft::Decoded& decoded, unsigned i) {
  return ZydisRegisterGetClass(decoded.operands[i].reg.value) == ZYDIS_REGCLASS_MMX;
}

// Which of the elements that fault is told first is up to the processor.
bool is_masked_move(ZydisMnemonic mnemonic) {
  return mnemonic == ZYDIS_MNEMONIC_VMASKMOVPS || mnemonic == ZYDIS_MNEMONIC_VMASKMOVPD ||
         mnemonic == ZYDIS_MNEMONIC_VPMASKMOVD || mnemonic == ZYDIS_MNEMONIC_VPMASKMOVQ;
}

bool is_jump_to_immediate(const soft::Decoded& decoded) {
  return decoded.is_imm(0) && decoded.operands[0].imm.is_relative;
}

Tolerance tolerance_of(const soft::Decoded& decoded, Group group) {
  Tolerance tolerance;
  tolerance.flags = undefined_flags(decoded);
  // Processors go over to MMX before they access memory, or find an exception of SSE.
  tolerance.fpu_stack = group == Group::Mmx || (decoded.is_reg(1) && is_mmx(decoded, 1));
  tolerance.sum_flags = has_inner_flags(decoded);
  // x87 environments are moved in pieces.
  tolerance.cr2_in_page = group == Group::X87 || is_masked_move(decoded.zy.mnemonic);
  // The return address is pushed before the target is found not to be canonical.
  tolerance.below_stack = group == Group::Branch;
  return tolerance;
}

}  // namespace

uint64_t Generator::pick_target(unsigned size, bool locked) {
  if (size == 0) size = 1;
  if (locked) size = size < 8 ? size : 8;
  uint64_t target = kData + random_.below(2 * kPage - size);
  // What is moved in pieces may be half done at a fault, in the processor's own way.
  const bool in_pieces = (size & (size - 1)) != 0;
  const uint64_t kind = in_pieces ? 99 : random_.below(100);
  const uint64_t back = 1 + random_.below(size);  // the operand starts so far before an edge
  if (kind < 6)
    target = kData + kPage - back;
  else if (kind < 10)
    target = kReadOnly - back;
  else if (kind < 14)
    target = kReadOnly + random_.below(kPage - size);
  else if (kind < 18)
    target = kUnmapped - back;
  else if (kind < 20)
    target = kUnmapped + random_.below(kPage);
  else if (kind < 21)
    target = kData - back;
  else if (kind < 22 && size <= 8)
    target = (uint64_t{1} << 47) - back;
  else if (kind < 23)
    target = random_.bits() | uint64_t{1} << 62;
  else if (kind < 25)
    target = kCodePage + random_.below(kPage - size);
  else if (kind < 60)
    target &= ~uint64_t{size - 1U};
  if (locked) target &= ~uint64_t{7};
  return target;
}

// A gather: all elements hit. Which of them a processor has fetched at a fault is its own affair.
bool Generator::place_vector_index(Encoded& encoded, const ZydisDecodedOperand& operand,
                                   Program& program) {
  const Address address = address_of(operand);
  const uint64_t target = kData + kPage / 2 + random_.below(kPage) - address.segment_base;
  if (address.base == 16) {
    std::memcpy(encoded.insn.bytes.data() + encoded.decoded.zy.raw.disp.offset, &target, 4);
  } else {
    program.start.gpr[address.base] = target - address.displacement;
  }
  const auto number = static_cast<size_t>(ZydisRegisterGetId(operand.mem.index));
  const bool by_8 = encoded.decoded.zy.mnemonic == ZYDIS_MNEMONIC_VGATHERQPS ||
                    encoded.decoded.zy.mnemonic == ZYDIS_MNEMONIC_VGATHERQPD ||
                    encoded.decoded.zy.mnemonic == ZYDIS_MNEMONIC_VPGATHERQD ||
                    encoded.decoded.zy.mnemonic == ZYDIS_MNEMONIC_VPGATHERQQ;
  const size_t step = by_8 ? 8 : 4;
  for (size_t at = 0; at < 32; at += step) {
    const uint64_t index = random_.below(0x180) - 0xc0;
    uint8_t* const half = at < 16 ? program.start.fx.data() + kFxXmm + 16 * number + at
                                  : program.start.ymm_high.data() + 16 * number + at - 16;
    std::memcpy(half, &index, step);
  }
  return true;
}

// The explicit memory operand. False when its registers cannot be arranged.
bool Generator::place_visible(Encoded& encoded, Program& program) {
  const soft::Decoded& decoded = encoded.decoded;
  for (unsigned i = 0; i < decoded.zy.operand_count_visible; ++i) {
    const ZydisDecodedOperand& operand = decoded.operands[i];
    if (operand.type != ZYDIS_OPERAND_TYPE_MEMORY) continue;
    if (operand.mem.type == ZYDIS_MEMOP_TYPE_VSIB) {
      return place_vector_index(encoded, operand, program);
    }
    const Address address = address_of(operand);
    const uint64_t target = pick_target(operand.size / 8U, is_locked(decoded));
    const uint64_t wanted = target - address.segment_base;
    auto& gpr = program.start.gpr;
    if (decoded.zy.meta.category == ZYDIS_CATEGORY_CALL && address.base == kRsp) return false;
    if (address.rip_relative) {
      encoded.insn.fixup = Fixup::RipData;
      encoded.insn.at = decoded.zy.raw.disp.offset;
      encoded.insn.size = 4;
      encoded.insn.address = wanted;
    } else if (address.base == 16) {
      if (address.index != 16) gpr[address.index] = random_.below(200);
      const uint64_t index = address.index == 16 ? 0 : gpr[address.index] * address.scale;
      const uint64_t displacement = wanted - index;
      std::memcpy(encoded.insn.bytes.data() + decoded.zy.raw.disp.offset, &displacement,
                  decoded.zy.raw.disp.size / 8U);
    } else if (address.index == address.base) {
      if (is_locked(decoded)) return false;
      gpr[address.base] = (wanted - address.displacement) / (1 + address.scale);
    } else {
      const uint64_t index = address.index == 16 ? 0 : gpr[address.index] * address.scale;
      gpr[address.base] = wanted - address.displacement - index;
    }
    if (decoded.zy.address_width == 32 && address.base != 16 && address.base != kRsp &&
        random_.percent(50)) {
      gpr[address.base] ^= random_.bits() << 32;
    }
    meet_condition(encoded, program, target);
  }
  return true;
}

void Generator::place_implicit(const Encoded& encoded, Program& program) {
  const soft::Decoded& decoded = encoded.decoded;
  auto& gpr = program.start.gpr;
  const unsigned size = decoded.zy.operand_width / 8U;
  const uint64_t segment = (decoded.zy.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_GS) != 0 ? kGsBase : 0;
  if (decoded.zy.meta.category == ZYDIS_CATEGORY_STRINGOP ||
      decoded.zy.meta.category == ZYDIS_CATEGORY_IOSTRINGOP) {
    gpr[kRsi] = pick_target(size, false) - segment;
    gpr[kRdi] = random_.percent(30) ? gpr[kRsi] + random_.below(32) - 16 : pick_target(size, false);
    gpr[kRcx] = random_.percent(90) ? random_.below(40) : random_.below(3000);
    if (decoded.zy.address_width == 32 && random_.percent(50)) {
      for (const unsigned reg : {kRsi, kRdi, kRcx}) gpr[reg] |= random_.bits() << 32;
    }
  }
  // Whether a repeated one that does nothing clears the upper halves is up to the processor.
  const bool repeated = (decoded.insn.flags & (soft::kRep | soft::kRepne)) != 0;
  if (repeated && decoded.zy.address_width == 32) {
    for (const unsigned reg : {kRsi, kRdi, kRcx}) gpr[reg] &= 0xffff'ffff;
  }
  if (decoded.zy.mnemonic == ZYDIS_MNEMONIC_XLAT)
    gpr[kRbx] = pick_target(1, false) - segment - (gpr[kRax] & 0xff);
  // Processors differ in what a masked-out byte where it may not be written does.
  if (decoded.zy.mnemonic == ZYDIS_MNEMONIC_MASKMOVQ ||
      decoded.zy.mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU ||
      decoded.zy.mnemonic == ZYDIS_MNEMONIC_VMASKMOVDQU)
    gpr[kRdi] = kData + random_.below(2 * kPage - 16) - segment;
  if (is_bit_test(decoded.zy.mnemonic) && decoded.is_mem(0) && decoded.is_reg(1) &&
      random_.percent(80)) {
    gpr[gpr_number(decoded.operands[1].reg.value)] = random_.below(2048) - 1024;
  }
  if (random_.percent(50)) gpr[kRbp] = kStack + kPage / 2 + random_.below(256);
  // Whether a CALL that can neither push nor go where it should tells of one or of the other is up
  // to the processor.
  if (decoded.zy.meta.category == ZYDIS_CATEGORY_CALL) return;
  if (random_.percent(10)) gpr[kRsp] = kStack + random_.below(kPage);
  if (random_.percent(3)) gpr[kRsp] = kStack + random_.below(24);
  if (random_.percent(3)) gpr[kRsp] = kStack + kPage - random_.below(24);
  if (random_.percent(1)) gpr[kRsp] = random_integer(random_);
}

// Divisions that do not overflow and comparisons that find what they compare with.
void Generator::meet_condition(const Encoded& encoded, Program& program, uint64_t target) {
  const ZydisMnemonic mnemonic = encoded.decoded.zy.mnemonic;
  const bool compares = mnemonic == ZYDIS_MNEMONIC_CMPXCHG ||
                        mnemonic == ZYDIS_MNEMONIC_CMPXCHG8B ||
                        mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B;
  if (!compares || target < kData || target > kReadOnly - 16 || random_.percent(40)) return;
  const uint8_t* bytes = backgrounds_[program.background].changing.data() + (target - kData);
  auto& gpr = program.start.gpr;
  uint64_t halves[2];
  std::memcpy(halves, bytes, 16);
  gpr[kRax] = halves[0];
  if (mnemonic == ZYDIS_MNEMONIC_CMPXCHG8B) gpr[kRdx] = halves[0] >> 32;
  if (mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B) gpr[kRdx] = halves[1];
}

bool Generator::place_operands(Encoded& encoded, Program& program) {
  place_implicit(encoded, program);
  const ZydisMnemonic mnemonic = encoded.decoded.zy.mnemonic;
  auto& gpr = program.start.gpr;
  if (mnemonic == ZYDIS_MNEMONIC_DIV && random_.percent(60)) gpr[kRdx] = random_.below(3);
  if (mnemonic == ZYDIS_MNEMONIC_IDIV && random_.percent(60)) {
    gpr[kRax] = random_integer(random_);
    gpr[kRdx] = (gpr[kRax] >> 63) != 0 ? ~uint64_t{0} : 0;
  }
  if (is_jump_to_immediate(encoded.decoded)) {
    // Into the HLTs around, or out of the page; never into itself.
    const auto& imm = encoded.decoded.zy.raw.imm[0];
    const unsigned size = imm.size / 8U;
    int64_t distance = static_cast<int64_t>(random_.below(100));
    if (random_.percent(30)) distance = -20 - static_cast<int64_t>(random_.below(100));
    if (size == 4 && random_.percent(10)) distance = 0x30000;
    std::memcpy(encoded.insn.bytes.data() + imm.offset, &distance, size);
  }
  return place_visible(encoded, program);
}

Program Generator::single(const Form& form) {
  for (;;) {
    Program program;
    program.start = random_registers();
    program.background = static_cast<uint32_t>(random_.below(kBackgrounds));
    Encoded encoded = encode(form, false);
    if (!encoded.usable || !place_operands(encoded, program)) continue;
    // Fetches that run out of the page.
    if (random_.percent(2)) {
      program.start.rip = kCodePage + kPage - 1 - random_.below(encoded.insn.length);
    }
    program.tolerance = tolerance_of(encoded.decoded, form.group);
    program.code.push_back(encoded.insn);
    return program;
  }
}

}  // namespace trapeze::diff
