// Assembler: Xbyak plus what translated code needs of its own: GS-relative state, instructions
// re-encoded with other registers, and jumps that are filled in later.
#pragma once

#include <xbyak/xbyak.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "accel/soft/core/cpu.h"
#include "base/check.h"

// Xbyak takes displacements as size_t and bytes as int; only clang has this in -Wconversion.
#ifdef __clang__
#pragma clang diagnostic ignored "-Wsign-conversion"
#endif

namespace trapeze::soft {

// Offsets from the GS base, which is the address of the running Cpu.
inline constexpr size_t gpr_offset(unsigned guest) { return offsetof(Cpu, gpr) + guest * 8; }
#define TRAPEZE_STATE(member) (offsetof(Cpu, translator) + offsetof(TranslatorState, member))

// Host registers with a meaning of their own; guest registers are in registers.h.
inline constexpr uint8_t kScratch = 1;   // RCX: JRCXZ tests it and leaves the flags alone
inline constexpr uint8_t kAddress = 11;  // R11

inline constexpr uint8_t kNoIndex = 0xff;
inline constexpr unsigned kJumpBytes = 5;  // with a 32-bit displacement

// A memory operand of host code: [base + index + disp].
struct HostMemory {
  uint8_t base = kAddress;
  uint8_t index = kNoIndex;
  int32_t disp = 0;
};

// An instruction's bytes but for its registers and memory operand (SDM 2A chapter 2).
struct Encoding {
  uint8_t map = 0;  // 0: one byte, 1: 0F, 2: 0F 38, 3: 0F 3A
  uint8_t opcode = 0;
  bool operand_size = false;  // 66
  bool repne = false;         // F2
  bool rep = false;           // F3
  bool lock = false;
  bool rex_w = false;
  bool any_rex = false;  // SPL, BPL, SIL, DIL need one
  bool no_rex = false;   // AH, DH, BH cannot have one: the caller has made sure
  std::span<const uint8_t> immediate;
};

// A VEX-encoded instruction's, in the same way; registers are numbers 0 to 15.
struct VexBytes {
  uint8_t map = 0, pp = 0, opcode = 0;
  bool w = false, l = false;
  uint8_t vvvv = 0;  // 0, too, where there is none
  uint8_t reg = 0;
  bool has_immediate = false;
  uint8_t immediate = 0;
};

class Assembler : public Xbyak::CodeGenerator {
 public:
  explicit Assembler(std::span<std::byte> memory)
      : CodeGenerator(memory.size(), reinterpret_cast<uint8_t*>(memory.data())) {}

  // Starts over at `offset`; labels are forgotten.
  void restart(size_t offset) {
    reset();
    setSize(offset);
  }
  uint32_t here() const { return static_cast<uint32_t>(getSize()); }

  // --- what lies below 2 GiB, by its address
  static int32_t absolute(const void* of) {
    const auto address = reinterpret_cast<uintptr_t>(of);
    CHECK(address < uintptr_t{1} << 31);
    return static_cast<int32_t>(address);
  }
  // [array + index * 8]
  Xbyak::Address element(const Xbyak::Reg64& index, const void* array) const {
    return ptr[index * 8 + absolute(array)];
  }

  // --- GS-relative state; none touches the flags
  Xbyak::Address at(size_t offset) const { return ptr[Xbyak::RegExp(offset)]; }
  void load(const Xbyak::Reg& to, size_t offset) {
    db(0x65);
    mov(to, at(offset));
  }
  void store(size_t offset, const Xbyak::Reg& from) {
    db(0x65);
    mov(at(offset), from);
  }
  void store_imm32(size_t offset, uint32_t value) {
    db(0x65);
    mov(dword[Xbyak::RegExp(offset)], value);
  }
  // XSAVE (4) or XRSTOR (5).
  void xsave_state(unsigned extension, size_t offset) {
    for (const unsigned next : {0x65U, 0x0fU, 0xaeU, 0x04U | extension << 3, 0x25U}) db(next);
    dd(static_cast<uint32_t>(offset));
  }
  // FLDCW
  void load_control_word_state(size_t offset) {
    for (const unsigned next : {0x65U, 0xd9U, 0x2cU, 0x25U}) db(next);
    dd(static_cast<uint32_t>(offset));
  }
  void jump_state(size_t offset) {
    db(0x65);
    jmp(qword[Xbyak::RegExp(offset)]);
  }
  void call_state(size_t offset) {
    db(0x65);
    CodeGenerator::call(qword[Xbyak::RegExp(offset)]);
  }
  void pext_state(const Xbyak::Reg64& to, const Xbyak::Reg64& from, size_t mask_offset) {
    db(0x65);
    pext(to, from, at(mask_offset));
  }

  void pdep_state(const Xbyak::Reg64& to, const Xbyak::Reg64& from, size_t mask_offset) {
    db(0x65);
    pdep(to, from, at(mask_offset));
  }

  // Pads so that the jump of `bytes` bytes that comes next neither crosses nor ends at a 32-byte
  // boundary, where CPUs of the Skylake family decode it anew each time ("Mitigations for Jump
  // Conditional Code Erratum", Intel 2019): a loop may take twice as long then.
  void keep_in_line(unsigned bytes) {
    const unsigned at = here() % kLine;
    if (pads_jumps_ && at + bytes >= kLine) nop(kLine - at);
  }
  void pad_jumps(bool on) { pads_jumps_ = on; }

  // --- jumps with a 32-bit displacement, filled in later; they give its position
  uint32_t jump() {
    db(0xe9);
    return placeholder();
  }
  uint32_t call() {
    db(0xe8);
    return placeholder();
  }
  uint32_t jump_if(unsigned condition) {
    db(0x0f);
    db(0x80 | condition);
    return placeholder();
  }
  void jump_to(uint32_t offset) { set_jump(jump(), offset); }
  void call_to(uint32_t offset) { set_jump(call(), offset); }
  void set_jump(uint32_t at, uint32_t target) { put32(at, target - (at + 4)); }
  uint32_t get32(uint32_t at) const {
    uint32_t value;
    std::memcpy(&value, getCode() + at, sizeof(value));
    return value;
  }
  void put8(uint32_t at, uint8_t value) { rewrite(at, value, 1); }
  void put32(uint32_t at, uint32_t value) { rewrite(at, value, 4); }
  // Jumps over the next five-byte jump when RCX is 0.
  void skip_jump_if_rcx_zero() {
    db(0xe3);
    db(5);
  }

  // --- re-encoded instructions
  void encode_register(const Encoding& encoding, uint8_t reg, uint8_t rm);
  void encode_memory(const Encoding& encoding, uint8_t reg, const HostMemory& memory);
  // The r/m operand is state at `offset` from the GS base.
  void encode_slot(const Encoding& encoding, uint8_t reg, size_t offset);
  // The register is in the opcode's low bits.
  void encode_opcode_register(const Encoding& encoding, uint8_t reg);
  void encode_plain(const Encoding& encoding);
  void encode_vex_register(const VexBytes& vex, uint8_t rm);
  void encode_vex_memory(const VexBytes& vex, const HostMemory& memory);
  void encode_vex_slot(const VexBytes& vex, size_t offset);

 private:
  static constexpr unsigned kLine = 32;

  uint32_t placeholder() {
    dd(0);
    return here() - 4;
  }
  void begin(const Encoding& encoding, uint8_t r, uint8_t x, uint8_t b);
  void end(const Encoding& encoding);
  void begin_vex(const VexBytes& vex, uint8_t x, uint8_t b);
  void end_vex(const VexBytes& vex);
  // ModRM, SIB and displacement.
  void memory_operand(uint8_t reg, const HostMemory& memory);
  void slot_operand(uint8_t reg, size_t offset);

  bool pads_jumps_ = false;
};

}  // namespace trapeze::soft
