// XSAVE, XSAVEOPT, XSAVEC and XRSTOR (SDM 1 chapter 13, SDM 2D), with the components x87, SSE and
// AVX.
//
// With no components beyond AVX the compacted format has it where the standard format does.
#include "accel/soft/exec/xsave.h"

#include <algorithm>

#include "accel/soft/core/env.h"
#include "accel/soft/exec/fpu.h"
#include "accel/soft/exec/vector_classes.h"
#include "accel/soft/exec/vector_operands.h"

namespace trapeze::soft::exec {
namespace {

constexpr unsigned kX87Head = 24;  // FCW to FDP; MXCSR and its mask follow
constexpr unsigned kMxcsrAt = 24, kMxcsrBytes = 8;
constexpr unsigned kStAt = 32, kStBytes = 128;
constexpr unsigned kXmmAt = 160;
constexpr unsigned kHeaderAt = kXsaveLegacyBytes;
constexpr unsigned kAreaAlign = 64;
constexpr uint64_t kCompacted = uint64_t{1} << 63;
constexpr uint64_t kCr4OsxsaveBit = 1U << 18;

// The area as it stands in memory (SDM 1 13.4).
struct alignas(64) Area {
  FxImage legacy;
  uint8_t available[kXsaveLegacyBytes - sizeof(FxImage)] = {};
  uint64_t xstate_bv = 0, xcomp_bv = 0;
  uint64_t reserved[6] = {};
  uint8_t ymm_high[16][16] = {};
};
static_assert(offsetof(Area, xstate_bv) == kHeaderAt);
static_assert(offsetof(Area, ymm_high) == kXsaveAvxOffset);

bool is_zero(const void* data, size_t size) {
  const auto* bytes = static_cast<const char*>(data);
  __m128i any = _mm_setzero_si128();
  for (size_t i = 0; i < size; i += 16) {
    any = _mm_or_si128(any, _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + i)));
  }
  return _mm_movemask_epi8(_mm_cmpeq_epi8(any, _mm_setzero_si128())) == 0xffff;
}

bool x87_in_use(const FpuState& fpu) {
  const bool control_is_initial = fpu.fcw == kFcwReset && fpu.fsw == 0 && fpu.empty == 0xff &&
                                  fpu.fop == 0 && (fpu.fip | fpu.fdp) == 0;
  return !control_is_initial || !is_zero(fpu.st, sizeof(fpu.st));
}

// #UD without CR4.OSXSAVE, #NM, #GP for an area that is not aligned.
bool area_address(Cpu& cpu, const Insn& insn, Access access, uint64_t& linear) {
  if ((cpu.cr4 & kCr4OsxsaveBit) == 0) {
    raise(cpu, kUD);
    return false;
  }
  if ((cpu.cr0 & kCr0Ts) != 0) {
    raise(cpu, kNM);
    return false;
  }
  if (!linear_address(cpu, insn, kXsaveAvxOffset, access, linear)) return false;
  if (linear % kAreaAlign == 0) return true;
  raise_misaligned(cpu, insn, linear);
  return false;
}

uint64_t requested(const Cpu& cpu) {
  return cpu.xcr0 & ((cpu.gpr[kRdx] << 32) | (cpu.gpr[kRax] & 0xffff'ffffU));
}

// Registers 8 to 15 are not touched outside 64-bit mode.
unsigned vector_bytes(const Cpu& cpu) { return is_code64(cpu) ? 256 : 128; }

// Which parts of the area an instruction reads or writes: at most one piece for each of these.
struct Part {
  unsigned at = 0, size = 0;
};
class Parts {
 public:
  void add(unsigned at, unsigned size) {
    if (count_ != 0 && parts_[count_ - 1].at + parts_[count_ - 1].size == at) {
      parts_[count_ - 1].size += size;
    } else {
      parts_[count_++] = {at, size};
    }
  }
  const Part* begin() const { return parts_; }
  const Part* end() const { return parts_ + count_; }

 private:
  Part parts_[6];
  unsigned count_ = 0;
};

// The part of [at, at + size) that lies on the page of its first byte.
unsigned on_page(uint64_t linear, unsigned size) {
  return static_cast<unsigned>(std::min<uint64_t>(size, kPageSize - linear % kPageSize));
}

bool read_part(Cpu& cpu, uint64_t linear, void* to, unsigned size, uint8_t seg) {
  const TlbEntry& entry = cpu.tlb->entry(linear);
  if (entry.read_tag != tag_of(linear, size)) return slow_read(cpu, linear, to, size, seg);
  std::memcpy(to, entry.host(linear), size);
  return true;
}

bool write_part(Cpu& cpu, uint64_t linear, const void* from, unsigned size, uint8_t seg) {
  const TlbEntry& entry = cpu.tlb->entry(linear);
  if (entry.write_tag != tag_of(linear, size)) return slow_write(cpu, linear, from, size, seg);
  std::memcpy(entry.host(linear), from, size);
  return true;
}

// visit(at, size) for each piece of the parts that lies on one page, until it gives false.
template <typename Visit>
bool on_each_page(uint64_t linear, const Parts& parts, Visit visit) {
  for (const Part& part : parts) {
    for (unsigned done = 0; done < part.size;) {
      const unsigned at = part.at + done;
      const unsigned size = on_page(linear + at, part.size - done);
      if (!visit(at, size)) return false;
      done += size;
    }
  }
  return true;
}

// All of it or, with a fault pending, nothing.
bool write_parts(Cpu& cpu, const Insn& insn, uint64_t linear, const Area& area,
                 const Parts& parts) {
  const auto* bytes = reinterpret_cast<const char*>(&area);
  const auto probe = [&](unsigned at, unsigned size) {
    return probe_write(cpu, linear + at, size, insn.seg);
  };
  const auto write = [&](unsigned at, unsigned size) {
    return write_part(cpu, linear + at, bytes + at, size, insn.seg);
  };
  return on_each_page(linear, parts, probe) && on_each_page(linear, parts, write);
}

bool read_parts(Cpu& cpu, const Insn& insn, uint64_t linear, Area& area, const Parts& parts) {
  auto* bytes = reinterpret_cast<char*>(&area);
  return on_each_page(linear, parts, [&](unsigned at, unsigned size) {
    return read_part(cpu, linear + at, bytes + at, size, insn.seg);
  });
}

// --- XSAVE, XSAVEOPT, XSAVEC

enum class Save : uint8_t { Plain, Optimized, Compacted };

template <Save Kind, bool Wide>
Step xsave(Cpu& cpu, const Insn& insn) {
  uint64_t linear = 0;
  if (!area_address(cpu, insn, Access::Write, linear)) return Step::Fault;
  const uint64_t wanted = requested(cpu);
  const uint64_t used = components_in_use(cpu);
  uint64_t saved = Kind == Save::Plain ? wanted : wanted & used;
  Area area;
  fx_save(cpu.fpu, area.legacy, Wide);
  area.legacy.mxcsr = guest_mxcsr(cpu);
  if (Kind == Save::Compacted && area.legacy.mxcsr != kMxcsrReset) saved |= wanted & kXcr0Sse;
  const bool with_mxcsr =
      Kind == Save::Compacted ? (saved & kXcr0Sse) != 0 : (wanted & (kXcr0Sse | kXcr0Avx)) != 0;
  Parts parts;
  if ((saved & kXcr0X87) != 0) parts.add(0, kX87Head);
  if (with_mxcsr) parts.add(kMxcsrAt, kMxcsrBytes);
  if ((saved & kXcr0X87) != 0) parts.add(kStAt, kStBytes);
  if ((saved & kXcr0Sse) != 0) parts.add(kXmmAt, vector_bytes(cpu));
  if (Kind == Save::Compacted) {
    area.xstate_bv = saved;
    area.xcomp_bv = wanted | kCompacted;
    parts.add(kHeaderAt, 16);
  } else {
    Parts old;
    old.add(kHeaderAt, 8);
    if (!read_parts(cpu, insn, linear, area, old)) return Step::Fault;
    area.xstate_bv = (area.xstate_bv & ~wanted) | (used & wanted);
    parts.add(kHeaderAt, 8);
  }
  if ((saved & kXcr0Avx) != 0) {
    std::memcpy(area.ymm_high, cpu.ymm_high, sizeof(area.ymm_high));
    parts.add(kXsaveAvxOffset, vector_bytes(cpu));
  }
  return write_parts(cpu, insn, linear, area, parts) ? Step::Next : Step::Fault;
}

// --- XRSTOR

bool is_valid_header(const Cpu& cpu, const Area& area) {
  bool reserved = false;
  for (unsigned i = 1; i < 6; ++i) reserved |= area.reserved[i] != 0;
  if ((area.xcomp_bv & kCompacted) == 0) {
    // Bytes 8 to 23 (SDM 1 13.8.1); the rest is ignored.
    return area.xcomp_bv == 0 && area.reserved[0] == 0 && (area.xstate_bv & ~cpu.xcr0) == 0;
  }
  const uint64_t components = area.xcomp_bv & ~kCompacted;
  if ((components & ~cpu.xcr0) != 0 || (area.xstate_bv & ~components) != 0) return false;
  return area.reserved[0] == 0 && !reserved;
}

void restore_x87(Cpu& cpu, const Area& area, bool from_area, bool wide) {
  if (from_area) {
    fx_restore_x87(cpu.fpu, area.legacy, wide);
    return;
  }
  fpu_init(cpu.fpu);
  std::memset(cpu.fpu.st, 0, sizeof(cpu.fpu.st));
}

void restore_vectors(uint8_t (*registers)[16], const uint8_t (*from)[16], bool from_area,
                     unsigned size) {
  if (from_area) {
    std::memcpy(registers, from, size);
  } else {
    std::memset(registers, 0, size);
  }
}

template <bool Wide>
Step xrstor(Cpu& cpu, const Insn& insn) {
  uint64_t linear = 0;
  if (!area_address(cpu, insn, Access::Read, linear)) return Step::Fault;
  Area area;
  Parts header;
  header.add(kHeaderAt, kXsaveHeaderBytes);
  if (!read_parts(cpu, insn, linear, area, header)) return Step::Fault;
  if (!is_valid_header(cpu, area)) return raise(cpu, kGP, 0);

  const bool compacted = (area.xcomp_bv & kCompacted) != 0;
  const uint64_t wanted = requested(cpu);
  const uint64_t held = wanted & area.xstate_bv;
  // In the standard format MXCSR comes with SSE or AVX, whatever XSTATE_BV says; in the compacted
  // one it is a part of SSE.
  const bool loads_mxcsr =
      compacted ? (held & kXcr0Sse) != 0 : (wanted & (kXcr0Sse | kXcr0Avx)) != 0;
  Parts parts;
  if ((held & kXcr0X87) != 0) parts.add(0, kX87Head);
  if (loads_mxcsr) parts.add(kMxcsrAt, kMxcsrBytes);
  if ((held & kXcr0X87) != 0) parts.add(kStAt, kStBytes);
  if ((held & kXcr0Sse) != 0) parts.add(kXmmAt, vector_bytes(cpu));
  if ((held & kXcr0Avx) != 0) parts.add(kXsaveAvxOffset, vector_bytes(cpu));
  if (!read_parts(cpu, insn, linear, area, parts)) return Step::Fault;
  if (loads_mxcsr && (area.legacy.mxcsr & ~kMxcsrValid) != 0) return raise(cpu, kGP, 0);

  if ((wanted & kXcr0X87) != 0) restore_x87(cpu, area, (held & kXcr0X87) != 0, Wide);
  if (loads_mxcsr) {
    set_guest_mxcsr(cpu, area.legacy.mxcsr);
  } else if (compacted && (wanted & kXcr0Sse) != 0) {
    set_guest_mxcsr(cpu, kMxcsrReset);
  }
  const unsigned size = vector_bytes(cpu);
  if ((wanted & kXcr0Sse) != 0) {
    restore_vectors(cpu.fpu.xmm, area.legacy.xmm, (held & kXcr0Sse) != 0, size);
  }
  if ((wanted & kXcr0Avx) != 0) {
    restore_vectors(cpu.ymm_high, area.ymm_high, (held & kXcr0Avx) != 0, size);
  }
  return Step::Next;
}

}  // namespace

bool has_upper_halves(const Cpu& cpu) { return !is_zero(cpu.ymm_high, sizeof(cpu.ymm_high)); }

uint64_t components_in_use(const Cpu& cpu) {
  uint64_t used = 0;
  if (x87_in_use(cpu.fpu)) used |= kXcr0X87;
  if (!is_zero(cpu.fpu.xmm, sizeof(cpu.fpu.xmm))) used |= kXcr0Sse;
  if (has_upper_halves(cpu)) used |= kXcr0Avx;
  return used;
}

Handler bind_xsave(Decoded& decoded) {
  switch (static_cast<unsigned>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_XSAVE:
      return &handler<xsave<Save::Plain, false>>;
    case ZYDIS_MNEMONIC_XSAVE64:
      return &handler<xsave<Save::Plain, true>>;
    case ZYDIS_MNEMONIC_XSAVEOPT:
      return &handler<xsave<Save::Optimized, false>>;
    case ZYDIS_MNEMONIC_XSAVEOPT64:
      return &handler<xsave<Save::Optimized, true>>;
    case ZYDIS_MNEMONIC_XSAVEC:
      return &handler<xsave<Save::Compacted, false>>;
    case ZYDIS_MNEMONIC_XSAVEC64:
      return &handler<xsave<Save::Compacted, true>>;
    case ZYDIS_MNEMONIC_XRSTOR:
      return &handler<xrstor<false>>;
    case ZYDIS_MNEMONIC_XRSTOR64:
      return &handler<xrstor<true>>;
    default:
      return nullptr;
  }
}

}  // namespace trapeze::soft::exec
