// MOVS, STOS, LODS, SCAS, CMPS with and without repeat prefixes. INS and OUTS: system/.
//
// A repeated instruction works in portions of at most a page, in bulk where both sides are plain
// RAM. Registers are right after every portion, so that it can fault or be interrupted there; it
// stops with Step::Restart when something waits for the run loop.
#include <cstring>

#include "accel/soft/exec/host_alu.h"
#include "accel/soft/exec/operand.h"

namespace trapeze::soft::exec {
namespace {

// Elements between two looks at cpu.attention where there is no bulk way.
constexpr uint64_t kPortion = 512;

// The index registers: cut to the address size when read; a 32-bit write clears the upper half.
inline uint64_t index_reg(const Cpu& cpu, const Insn& insn, unsigned index) {
  return cpu.gpr[index] & address_mask(insn);
}
inline void set_index_reg(Cpu& cpu, const Insn& insn, unsigned index, uint64_t value) {
  if ((insn.flags & kAddress16) != 0) {
    cpu.gpr[index] = (cpu.gpr[index] & ~uint64_t{0xffff}) | (value & 0xffff);
  } else {
    cpu.gpr[index] = value & address_mask(insn);
  }
}
// Moves an index register over `count` elements of `size` bytes.
inline void advance(Cpu& cpu, const Insn& insn, unsigned index, uint64_t count, uint64_t size) {
  const uint64_t distance = cpu.df ? uint64_t{0} - count * size : count * size;
  set_index_reg(cpu, insn, index, cpu.gpr[index] + distance);
}

inline bool string_linear(Cpu& cpu, uint8_t seg, uint64_t offset, uint64_t size, Access access,
                          uint64_t& linear) {
  if (is_code64(cpu)) [[likely]] {
    linear = cpu.linear_base[seg] + offset;
    return true;
  }
  return segment_to_linear(cpu, seg, offset, size, access, linear);
}
// One element at DS:SI (or the overridden segment), at ES:DI.
template <typename T>
bool read_source(Cpu& cpu, const Insn& insn, T& value) {
  uint64_t linear = 0;
  return string_linear(cpu, insn.seg, index_reg(cpu, insn, kRsi), sizeof(T), Access::Read,
                       linear) &&
         read_linear<T>(cpu, linear, value, insn.seg);
}
inline uint8_t destination_seg(const Cpu& cpu) { return is_code64(cpu) ? kDs : kEs; }
template <typename T>
bool read_destination(Cpu& cpu, const Insn& insn, T& value) {
  uint64_t linear = 0;
  const uint8_t seg = destination_seg(cpu);
  return string_linear(cpu, seg, index_reg(cpu, insn, kRdi), sizeof(T), Access::Read, linear) &&
         read_linear<T>(cpu, linear, value, seg);
}
template <typename T>
bool write_destination(Cpu& cpu, const Insn& insn, T value) {
  uint64_t linear = 0;
  const uint8_t seg = destination_seg(cpu);
  return string_linear(cpu, seg, index_reg(cpu, insn, kRdi), sizeof(T), Access::Write, linear) &&
         write_linear<T>(cpu, linear, value, seg);
}

// --- one element of each; false with a fault pending and nothing changed

template <typename T>
struct Movs {
  static bool once(Cpu& cpu, const Insn& insn) {
    T value;
    if (!read_source(cpu, insn, value) || !write_destination(cpu, insn, value)) return false;
    advance(cpu, insn, kRsi, 1, sizeof(T));
    advance(cpu, insn, kRdi, 1, sizeof(T));
    return true;
  }
  static uint64_t bulk(Cpu& cpu, const Insn& insn, uint64_t count);
};
template <typename T>
struct Stos {
  static bool once(Cpu& cpu, const Insn& insn) {
    if (!write_destination(cpu, insn, reg<T>(cpu, kRax * 8))) return false;
    advance(cpu, insn, kRdi, 1, sizeof(T));
    return true;
  }
  static uint64_t bulk(Cpu& cpu, const Insn& insn, uint64_t count);
};
template <typename T>
struct Lods {
  static bool once(Cpu& cpu, const Insn& insn) {
    T value;
    if (!read_source(cpu, insn, value)) return false;
    set_reg<T>(cpu, kRax * 8, value);
    advance(cpu, insn, kRsi, 1, sizeof(T));
    return true;
  }
  static uint64_t bulk(Cpu&, const Insn&, uint64_t) { return 0; }
};

// --- bulk

// Elements of `size` bytes from `offset` up that lie in one page and do not wrap at the address
// size, at most `count`; `linear` is where they start. 0: there is no bulk way.
uint64_t elements_in_page(Cpu& cpu, const Insn& insn, uint8_t seg, uint64_t offset, uint64_t size,
                          uint64_t count, Access access, uint64_t& linear) {
  if (!string_linear(cpu, seg, offset, size, access, linear)) {
    cpu.fault.pending = false;  // the element-wise way meets it again, in its order
    return 0;
  }
  const uint64_t in_page = (kPageSize - linear % kPageSize) / size;
  const uint64_t before_wrap = (address_mask(insn) - offset) / size;  // one less at times: no harm
  uint64_t elements = count < in_page ? count : in_page;
  if (before_wrap < elements) elements = before_wrap;
  if (elements != 0 && !is_code64(cpu) &&
      !segment_to_linear(cpu, seg, offset, elements * size, access, linear)) {
    cpu.fault.pending = false;  // the limit lies within: go element by element up to it
    return 0;
  }
  return elements;
}

// Copies upwards as the element-wise loop does: a destination just above its source repeats it.
template <typename T>
void copy_upwards(unsigned char* to, const unsigned char* from, uint64_t bytes) {
  const auto distance = reinterpret_cast<uintptr_t>(to) - reinterpret_cast<uintptr_t>(from);
  if (distance >= bytes) {  // also when `to` is below: then it wraps
    std::memmove(to, from, bytes);
    return;
  }
  for (uint64_t at = 0; at < bytes; at += sizeof(T)) {
    store_host<T>(to + at, load_host<T>(from + at));
  }
}

template <typename T>
uint64_t Movs<T>::bulk(Cpu& cpu, const Insn& insn, uint64_t count) {
  uint64_t from = 0;
  uint64_t to = 0;
  count = elements_in_page(cpu, insn, insn.seg, index_reg(cpu, insn, kRsi), sizeof(T), count,
                           Access::Read, from);
  if (count == 0) return 0;
  count = elements_in_page(cpu, insn, destination_seg(cpu), index_reg(cpu, insn, kRdi), sizeof(T),
                           count, Access::Write, to);
  if (count == 0) return 0;
  const void* source = host_for_read(cpu, from);
  void* destination = host_for_write(cpu, to);
  if (source == nullptr || destination == nullptr) return 0;
  copy_upwards<T>(static_cast<unsigned char*>(destination),
                  static_cast<const unsigned char*>(source), count * sizeof(T));
  advance(cpu, insn, kRsi, count, sizeof(T));
  advance(cpu, insn, kRdi, count, sizeof(T));
  return count;
}

template <typename T>
uint64_t Stos<T>::bulk(Cpu& cpu, const Insn& insn, uint64_t count) {
  uint64_t to = 0;
  count = elements_in_page(cpu, insn, destination_seg(cpu), index_reg(cpu, insn, kRdi), sizeof(T),
                           count, Access::Write, to);
  if (count == 0) return 0;
  auto* destination = static_cast<unsigned char*>(host_for_write(cpu, to));
  if (destination == nullptr) return 0;
  const T value = reg<T>(cpu, kRax * 8);
  const auto low = static_cast<uint8_t>(value);
  if (value == static_cast<T>(low * 0x0101'0101'0101'0101U)) {
    std::memset(destination, low, count * sizeof(T));
  } else {
    for (uint64_t i = 0; i < count; ++i) store_host<T>(destination + i * sizeof(T), value);
  }
  advance(cpu, insn, kRdi, count, sizeof(T));
  return count;
}

// --- REP MOVS, STOS, LODS

template <typename S>
struct Single {
  static Step run(Cpu& cpu, const Insn& insn) {
    if (!S::once(cpu, insn)) return Step::Fault;
    return Step::Next;
  }
};

inline bool must_stop(const Cpu& cpu) { return cpu.attention.load(std::memory_order_relaxed) != 0; }

// One portion; returns the elements done, 0 with a fault pending. When something waits (a single
// step, for one), only one element, so that each call gets on and none delays it.
template <typename S>
uint64_t portion(Cpu& cpu, const Insn& insn, uint64_t count) {
  if (must_stop(cpu)) return S::once(cpu, insn) ? 1 : 0;
  if (!cpu.df) {
    if (const uint64_t done = S::bulk(cpu, insn, count)) return done;
  }
  const uint64_t limit = count < kPortion ? count : kPortion;
  uint64_t done = 0;
  while (done < limit && S::once(cpu, insn)) {
    ++done;
    // Downwards there is no bulk way; upwards only an element across pages or MMIO brings us here.
    if (!cpu.df) break;
  }
  // A fault behind other elements: those first, then it comes again.
  if (done != 0) cpu.fault.pending = false;
  return done;
}

template <typename S>
struct Repeat {
  static Step run(Cpu& cpu, const Insn& insn) {
    uint64_t count = index_reg(cpu, insn, kRcx);
    while (count != 0) {
      const uint64_t done = portion<S>(cpu, insn, count);
      if (done == 0) return Step::Fault;
      count -= done;
      set_index_reg(cpu, insn, kRcx, count);
      if (count != 0 && must_stop(cpu)) return Step::Restart;
    }
    return Step::Next;
  }
};

// --- CMPS, SCAS

template <typename T>
struct Cmps {
  using Type = T;
  static bool read(Cpu& cpu, const Insn& insn, T& a, T& b) {
    // In this order on processors too: where both fault, CR2 tells of the destination.
    return read_destination(cpu, insn, b) && read_source(cpu, insn, a);
  }
  static void next(Cpu& cpu, const Insn& insn) {
    advance(cpu, insn, kRsi, 1, sizeof(T));
    advance(cpu, insn, kRdi, 1, sizeof(T));
  }
};
template <typename T>
struct Scas {
  using Type = T;
  static bool read(Cpu& cpu, const Insn& insn, T& a, T& b) {
    a = reg<T>(cpu, kRax * 8);
    return read_destination(cpu, insn, b);
  }
  static void next(Cpu& cpu, const Insn& insn) { advance(cpu, insn, kRdi, 1, sizeof(T)); }
};

template <typename T>
void compare_flags(Cpu& cpu, T a, T b) {
  ArithmeticFlags flags = 0;
  Cmp::run(a, b, flags);
  cpu.arith = flags;
}

template <typename S>
struct CompareOnce {
  static Step run(Cpu& cpu, const Insn& insn) {
    typename S::Type a{};
    typename S::Type b{};
    if (!S::read(cpu, insn, a, b)) return Step::Fault;
    compare_flags(cpu, a, b);
    S::next(cpu, insn);
    return Step::Next;
  }
};

// REPE goes on while equal, REPNE while different. A fault leaves the flags as they were before the
// instruction, though registers have moved (SDM 2A "REP").
template <typename S>
struct CompareRepeat {
  static Step run(Cpu& cpu, const Insn& insn) {
    const bool while_equal = (insn.flags & kRep) != 0;
    uint64_t count = index_reg(cpu, insn, kRcx);
    if (count == 0) return Step::Next;
    typename S::Type a{};
    typename S::Type b{};
    uint64_t until_look = 1;  // one element for certain, then portions
    for (;;) {
      if (!S::read(cpu, insn, a, b)) return Step::Fault;
      S::next(cpu, insn);
      --count;
      set_index_reg(cpu, insn, kRcx, count);
      if (count == 0 || (a == b) != while_equal) break;
      if (--until_look == 0) {
        if (must_stop(cpu)) {
          compare_flags(cpu, a, b);
          return Step::Restart;
        }
        until_look = kPortion;
      }
    }
    compare_flags(cpu, a, b);
    return Step::Next;
  }
};

// --- binding

template <typename T>
using MovsOnce = Single<Movs<T>>;
template <typename T>
using StosOnce = Single<Stos<T>>;
template <typename T>
using LodsOnce = Single<Lods<T>>;
template <typename T>
using MovsRepeat = Repeat<Movs<T>>;
template <typename T>
using StosRepeat = Repeat<Stos<T>>;
template <typename T>
using LodsRepeat = Repeat<Lods<T>>;
template <typename T>
using CmpsOnce = CompareOnce<Cmps<T>>;
template <typename T>
using ScasOnce = CompareOnce<Scas<T>>;
template <typename T>
using CmpsRepeat = CompareRepeat<Cmps<T>>;
template <typename T>
using ScasRepeat = CompareRepeat<Scas<T>>;

}  // namespace

Handler bind_string(Decoded& decoded) {
  // MOVSD and CMPSD are SSE instructions too.
  if (decoded.zy.meta.category != ZYDIS_CATEGORY_STRINGOP) return nullptr;
  Insn& insn = decoded.insn;
  const bool repeated = (insn.flags & (kRep | kRepne)) != 0;
  const unsigned size = decoded.operands[0].size / 8U;
  switch (static_cast<int>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_MOVSB:
    case ZYDIS_MNEMONIC_MOVSW:
    case ZYDIS_MNEMONIC_MOVSD:
    case ZYDIS_MNEMONIC_MOVSQ:
      insn.seg = hidden_segment(decoded, 1);
      return repeated ? by_size<MovsRepeat>(size) : by_size<MovsOnce>(size);
    case ZYDIS_MNEMONIC_STOSB:
    case ZYDIS_MNEMONIC_STOSW:
    case ZYDIS_MNEMONIC_STOSD:
    case ZYDIS_MNEMONIC_STOSQ:
      return repeated ? by_size<StosRepeat>(size) : by_size<StosOnce>(size);
    case ZYDIS_MNEMONIC_LODSB:
    case ZYDIS_MNEMONIC_LODSW:
    case ZYDIS_MNEMONIC_LODSD:
    case ZYDIS_MNEMONIC_LODSQ:
      insn.seg = hidden_segment(decoded, 1);
      return repeated ? by_size<LodsRepeat>(size) : by_size<LodsOnce>(size);
    case ZYDIS_MNEMONIC_CMPSB:
    case ZYDIS_MNEMONIC_CMPSW:
    case ZYDIS_MNEMONIC_CMPSD:
    case ZYDIS_MNEMONIC_CMPSQ:
      insn.seg = hidden_segment(decoded, 0);
      return repeated ? by_size<CmpsRepeat>(size) : by_size<CmpsOnce>(size);
    case ZYDIS_MNEMONIC_SCASB:
    case ZYDIS_MNEMONIC_SCASW:
    case ZYDIS_MNEMONIC_SCASD:
    case ZYDIS_MNEMONIC_SCASQ:
      return repeated ? by_size<ScasRepeat>(size) : by_size<ScasOnce>(size);
    default:
      return nullptr;
  }
}

}  // namespace trapeze::soft::exec
