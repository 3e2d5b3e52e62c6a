// Operands of MMX and SSE instructions: loads and stores with the alignment rule, and what bind
// functions ask of a Decoded.
#pragma once

#include <emmintrin.h>

#include <cstdint>

#include "accel/soft/exec/dispatch.h"
#include "accel/soft/exec/fpu.h"
#include "accel/soft/mmu/access.h"

namespace trapeze::soft::exec {

// How a memory operand is read into a vector register: Aligned16 raises #GP(0) when misaligned
// (SDM 2A 2.4, exception types 1, 2 and 4), the narrow ones clear the rest of the register.
enum class MemForm : uint8_t { Aligned16, Any16, Low8, Low4, Low2 };

constexpr unsigned bytes_of(MemForm form) {
  switch (form) {
    case MemForm::Aligned16:
    case MemForm::Any16:
      return 16;
    case MemForm::Low8:
      return 8;
    case MemForm::Low4:
      return 4;
    case MemForm::Low2:
      return 2;
  }
  return 16;
}

template <MemForm Form>
inline __m128i load_host_vector(const void* from) {
  if constexpr (bytes_of(Form) == 16) return _mm_loadu_si128(static_cast<const __m128i*>(from));
  if constexpr (Form == MemForm::Low8)
    return _mm_cvtsi64_si128(static_cast<int64_t>(load_host<uint64_t>(from)));
  if constexpr (Form == MemForm::Low4)
    return _mm_cvtsi32_si128(static_cast<int32_t>(load_host<uint32_t>(from)));
  return _mm_cvtsi32_si128(load_host<uint16_t>(from));
}

// Without kSlowAddress; effective_address() would also look at the address size.
inline uint64_t flat_address(const Cpu& cpu, const Insn& insn) {
  return reg<uint64_t>(cpu, insn.base) + (reg<uint64_t>(cpu, insn.index) << insn.scale) +
         static_cast<uint64_t>(static_cast<int64_t>(insn.disp));
}
// What is aligned cannot cross a page.
template <MemForm Form>
inline constexpr unsigned kTagSize = Form == MemForm::Aligned16 ? 1 : bytes_of(Form);

// The common case of load_vector() without a call: flat address, aligned, TLB hit. False, with no
// fault raised, when it is another case.
template <MemForm Form>
inline bool try_load_vector(Cpu& cpu, const Insn& insn, __m128i& value) {
  if ((insn.flags & kSlowAddress) != 0) [[unlikely]]
    return false;
  const uint64_t linear = flat_address(cpu, insn);
  if (Form == MemForm::Aligned16 && (linear & 15U) != 0) [[unlikely]]
    return false;
  const TlbEntry& entry = cpu.tlb->entry(linear);
  if (entry.read_tag != tag_of(linear, kTagSize<Form>)) [[unlikely]]
    return false;
  value = load_host_vector<Form>(entry.host(linear));
  return true;
}

// False with a fault pending.
template <MemForm Form>
[[gnu::noinline]] bool load_vector(Cpu& cpu, const Insn& insn, __m128i& value) {
  constexpr unsigned kSize = bytes_of(Form);
  uint64_t linear = 0;
  if (!linear_address(cpu, insn, kSize, Access::Read, linear)) return false;
  if (Form == MemForm::Aligned16 && (linear & 15U) != 0) {
    raise(cpu, kGP, 0);
    return false;
  }
  alignas(16) uint8_t bytes[16] = {};
  if (!slow_read(cpu, linear, bytes, kSize, insn.seg)) return false;
  value = _mm_load_si128(reinterpret_cast<const __m128i*>(bytes));
  return true;
}

template <MemForm Form>
inline void store_host_vector(void* to, __m128i value) {
  if constexpr (bytes_of(Form) == 16) {
    _mm_storeu_si128(static_cast<__m128i*>(to), value);
  } else if constexpr (Form == MemForm::Low8) {
    store_host<uint64_t>(to, static_cast<uint64_t>(_mm_cvtsi128_si64(value)));
  } else if constexpr (Form == MemForm::Low4) {
    store_host<uint32_t>(to, static_cast<uint32_t>(_mm_cvtsi128_si32(value)));
  } else {
    store_host<uint16_t>(to, static_cast<uint16_t>(_mm_cvtsi128_si32(value)));
  }
}

// The stores that belong to try_load_vector() and load_vector().
template <MemForm Form>
inline bool try_store_vector(Cpu& cpu, const Insn& insn, __m128i value) {
  if ((insn.flags & kSlowAddress) != 0) [[unlikely]]
    return false;
  const uint64_t linear = flat_address(cpu, insn);
  if (Form == MemForm::Aligned16 && (linear & 15U) != 0) [[unlikely]]
    return false;
  const TlbEntry& entry = cpu.tlb->entry(linear);
  if (entry.write_tag != tag_of(linear, kTagSize<Form>)) [[unlikely]]
    return false;
  store_host_vector<Form>(entry.host(linear), value);
  return true;
}

template <MemForm Form>
[[gnu::noinline]] bool store_vector(Cpu& cpu, const Insn& insn, __m128i value) {
  constexpr unsigned kSize = bytes_of(Form);
  uint64_t linear = 0;
  if (!linear_address(cpu, insn, kSize, Access::Write, linear)) return false;
  if (Form == MemForm::Aligned16 && (linear & 15U) != 0) {
    raise(cpu, kGP, 0);
    return false;
  }
  alignas(16) uint8_t bytes[16];
  _mm_store_si128(reinterpret_cast<__m128i*>(bytes), value);
  return slow_write(cpu, linear, bytes, kSize, insn.seg);
}

// The memory operand as `size` bytes (state images): false with a fault pending, and then nothing
// was written. `align`: a power of two, #GP(0) when the address is not a multiple.
// Of state images: #GP(0), unless the address is worse than misaligned: not canonical, and in the
// stack segment. (For operands of arithmetic it is #GP(0) always.)
void raise_misaligned(Cpu& cpu, const Insn& insn, uint64_t linear);
bool load_block(Cpu& cpu, const Insn& insn, void* to, unsigned size, unsigned align = 1);
bool store_block(Cpu& cpu, const Insn& insn, const void* from, unsigned size, unsigned align = 1);

// MASKMOVDQU, MASKMOVQ: bytes whose mask has the top bit set go to DS:rDI (or the overridden
// segment). Bytes that are not selected are neither written nor checked.
bool store_masked_bytes(Cpu& cpu, const Insn& insn, const uint8_t* bytes, const uint8_t* mask,
                        unsigned count);
// The memory operand is implicit, so the decoder has not filled it in.
void use_rdi(Decoded& decoded);

// --- where operand 1 comes from: try_get() is the common case without a call and without faults,
// get() does all cases
struct RegSource {
  static bool try_get(Cpu& cpu, const Insn& insn, __m128i& value) {
    value = xmm(cpu, insn.src);
    return true;
  }
  static bool get(Cpu& cpu, const Insn& insn, __m128i& value) { return try_get(cpu, insn, value); }
};
template <MemForm Form>
struct MemSource {
  static bool try_get(Cpu& cpu, const Insn& insn, __m128i& value) {
    return try_load_vector<Form>(cpu, insn, value);
  }
  static bool get(Cpu& cpu, const Insn& insn, __m128i& value) {
    return try_load_vector<Form>(cpu, insn, value) || load_vector<Form>(cpu, insn, value);
  }
};

// --- handlers in two parts
template <auto Semantic>
[[gnu::noinline, gnu::cold]] void cold_handler(Cpu& cpu, const Insn* insn) {
  handler<Semantic>(cpu, insn);
}
// HOT. Class::fast() does the common case without a call, so that the handler needs no stack frame,
// or returns false with nothing changed; Class::full() is the whole instruction.
template <typename Class>
void two_way_handler(Cpu& cpu, const Insn* insn) {
  if (Class::fast(cpu, *insn)) [[likely]] {
    ++insn;
    return insn->run(cpu, insn);
  }
  return cold_handler<&Class::full>(cpu, insn);
}

// `xmm = Op::run(xmm, operand 1)`: most SSE instructions.
template <typename Op, typename Source>
struct Binary {
  static bool fast(Cpu& cpu, const Insn& insn) {
    __m128i src;
    if (!sse_usable(cpu) || !Source::try_get(cpu, insn, src)) [[unlikely]]
      return false;
    set_xmm(cpu, insn.dst, Op::run(xmm(cpu, insn.dst), src));
    return true;
  }
  static Step full(Cpu& cpu, const Insn& insn) {
    if (!sse_usable(cpu)) return sse_unusable(cpu);
    __m128i src;
    if (!Source::get(cpu, insn, src)) return Step::Fault;
    set_xmm(cpu, insn.dst, Op::run(xmm(cpu, insn.dst), src));
    return Step::Next;
  }
};

// --- for bind functions
inline bool is_xmm(const Decoded& decoded, unsigned i) {
  return decoded.is_reg(i) && decoded.operands[i].reg.value >= ZYDIS_REGISTER_XMM0 &&
         decoded.operands[i].reg.value <= ZYDIS_REGISTER_XMM15;
}
inline bool is_mmx(const Decoded& decoded, unsigned i) {
  return decoded.is_reg(i) && decoded.operands[i].reg.value >= ZYDIS_REGISTER_MM0 &&
         decoded.operands[i].reg.value <= ZYDIS_REGISTER_MM7;
}
inline unsigned xmm_number(const Decoded& decoded, unsigned i) {
  return static_cast<unsigned>(decoded.operands[i].reg.value - ZYDIS_REGISTER_XMM0);
}
// Sets dst and src to slots where operands 0 and 1 are XMM registers.
inline void use_xmm_slots(Decoded& decoded) {
  if (is_xmm(decoded, 0)) decoded.insn.dst = xmm_slot(xmm_number(decoded, 0));
  if (is_xmm(decoded, 1)) decoded.insn.src = xmm_slot(xmm_number(decoded, 1));
}
inline uint8_t immediate8(const Decoded& decoded) {
  return static_cast<uint8_t>(decoded.zy.raw.imm[0].value.u);
}

// The handler for how operand 1 is given.
template <template <typename, typename> class Class, typename Op, MemForm Form>
Handler pick_source(Decoded& decoded) {
  use_xmm_slots(decoded);
  if (is_xmm(decoded, 1)) return &two_way_handler<Class<Op, RegSource>>;
  if (decoded.is_mem(1)) return &two_way_handler<Class<Op, MemSource<Form>>>;
  return nullptr;
}

}  // namespace trapeze::soft::exec
