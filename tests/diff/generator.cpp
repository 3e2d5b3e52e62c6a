#include "diff/generator.h"

#include <cstring>
#include <string_view>

namespace trapeze::diff {

Generator::Generator(const Forms& forms, const Backgrounds& backgrounds, uint64_t seed)
    : forms_(forms), backgrounds_(backgrounds), random_(seed), by_group_(kGroups) {
  for (const Form& form : forms.all()) by_group_[static_cast<size_t>(form.group)].push_back(&form);
}

Registers Generator::random_registers() {
  Registers registers;
  for (uint64_t& gpr : registers.gpr) gpr = random_integer(random_);
  registers.gpr[kRsp] = kStack + kPage / 2 + 8 * random_.below(64);
  registers.rflags = random_flags(random_);
  random_fx(random_, registers.fx);
  if (std::string_view(compared_model()) == "x86-64-v3") {
    random_ymm_high(random_, registers.ymm_high);
  }
  registers.rip = kCodePage + 0x400 + random_.below(64);
  return registers;
}

namespace {

// ModRM, SIB and displacement of a random memory operand.
size_t put_memory(Random& random, uint8_t reg_field, uint8_t* bytes) {
  const auto mod = static_cast<unsigned>(random.below(3));
  const auto rm = static_cast<unsigned>(random.below(8));
  size_t at = 0;
  bytes[at++] = static_cast<uint8_t>(mod << 6 | unsigned{reg_field} << 3 | rm);
  bool wide = mod == 2 || (mod == 0 && rm == 5);
  if (rm == 4) {
    const auto sib = static_cast<uint8_t>(random.bits());
    bytes[at++] = sib;
    wide = wide || (mod == 0 && (sib & 7) == 5);
  }
  if (wide) {
    const auto displacement = static_cast<int32_t>(
        random.percent(70) ? static_cast<int64_t>(random.below(0x4000)) - 0x2000
                           : static_cast<int64_t>(random.bits()));
    std::memcpy(bytes + at, &displacement, 4);
    at += 4;
  } else if (mod == 1) {
    bytes[at++] = static_cast<uint8_t>(random.bits());
  }
  return at;
}

void put_immediate(Random& random, uint8_t* bytes, size_t size) {
  const uint64_t value = random_integer(random);
  const uint64_t more = random_integer(random);
  for (size_t i = 0; i < size; ++i) {
    bytes[i] = static_cast<uint8_t>(i < 8 ? value >> (8 * i) : more >> (8 * (i - 8)));
  }
}

// Prefixes that change nothing or little: segments, address size, LOCK.
size_t put_extra_prefixes(Random& random, const Form& form, uint8_t* bytes) {
  size_t at = 0;
  if (random.percent(6)) {
    constexpr uint8_t kSegments[] = {0x26, 0x2e, 0x36, 0x3e, 0x65};
    bytes[at++] = kSegments[random.below(5)];
  }
  if (random.percent(8)) bytes[at++] = 0x67;
  if (form.memory && form.group == Group::Integer && random.percent(12)) bytes[at++] = 0xf0;
  return at;
}

}  // namespace

Generator::Encoded Generator::encode_once(const Form& form, bool plain) {
  Encoded result;
  uint8_t bytes[32] = {};
  size_t at = plain ? 0 : put_extra_prefixes(random_, form, bytes);
  uint8_t rex = 0;
  if (random_.percent(50)) rex = static_cast<uint8_t>(0x40 | random_.below(8));
  if (!plain && random_.percent(5)) rex |= 0x48;
  VexFields vex;
  // 0 where it must name no register, which is nearly half of the instructions.
  vex.vvvv = static_cast<uint8_t>(random_.percent(40) ? 0 : random_.below(16));
  vex.may_be_short = random_.percent(60);
  at += put_opcode(form, rex, vex, bytes + at);
  if (form.has_modrm) {
    auto reg = static_cast<uint8_t>((form.modrm >> 3) & 7);
    if (!plain || random_.percent(50)) reg = static_cast<uint8_t>(random_.below(8));
    if (form.memory) {
      at += put_memory(random_, reg, bytes + at);
    } else {
      const auto rm = random_.percent(90) ? random_.below(8) : form.modrm & 7U;
      bytes[at++] = static_cast<uint8_t>(0xc0U | unsigned{reg} << 3 | rm);
    }
  }
  put_immediate(random_, bytes + at, 12);
  const std::optional<soft::Decoded> decoded = forms_.decode(bytes);
  if (!decoded || forms_.key(*decoded) != form.key || decoded->zy.length > 15) return result;
  result.decoded = *decoded;
  result.insn.length = decoded->zy.length;
  std::memcpy(result.insn.bytes.data(), bytes, decoded->zy.length);
  result.usable = true;
  return result;
}

// Random bits turn a form into another one now and then; the last tries keep the form's own ModRM.
Generator::Encoded Generator::encode(const Form& form, bool plain) {
  for (unsigned i = 0; i < 40; ++i) {
    Encoded result = encode_once(form, plain || i > 8);
    if (result.usable) return result;
  }
  Encoded result;
  uint8_t bytes[32] = {};
  size_t at = put_opcode(form, 0, VexFields{}, bytes);
  if (form.has_modrm) bytes[at++] = form.modrm;
  if (form.memory && (form.modrm & 7) == 4) bytes[at++] = kVectorIndexSib;
  put_immediate(random_, bytes + at, 12);
  const std::optional<soft::Decoded> decoded = forms_.decode(bytes);
  if (!decoded) return result;
  result.decoded = *decoded;
  result.insn.length = decoded->zy.length;
  std::memcpy(result.insn.bytes.data(), bytes, decoded->zy.length);
  result.usable = true;
  return result;
}

}  // namespace trapeze::diff
