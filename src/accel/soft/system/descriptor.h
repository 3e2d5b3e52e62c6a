// Segment and gate descriptors in the GDT and LDT (SDM 3A 3.4.5, 5.8, 7.2).
#pragma once

#include <cstdint>

#include "accel/soft/core/cpu.h"
#include "accel/soft/mmu/segment_access.h"

namespace trapeze::soft {

// System descriptor types (SDM 3A table 3-2). In IA-32e mode 2, 9, 0xb, 0xc are the 64-bit ones.
inline constexpr unsigned kTypeTss16 = 1, kTypeLdt = 2, kTypeTss16Busy = 3, kTypeCallGate16 = 4,
                          kTypeTaskGate = 5, kTypeIntGate16 = 6, kTypeTrapGate16 = 7,
                          kTypeTss32 = 9, kTypeTss32Busy = 0xb, kTypeCallGate32 = 0xc,
                          kTypeIntGate32 = 0xe, kTypeTrapGate32 = 0xf;

// A descriptor as memory holds it; `high` is the second half of the 16-byte ones.
struct Descriptor {
  uint64_t low = 0;
  uint64_t high = 0;

  // In the layout of Segment::access.
  uint32_t access() const { return static_cast<uint32_t>(low >> 40) & 0xf0ffU; }
  unsigned type() const { return static_cast<unsigned>(low >> 40) & 0xfU; }
  unsigned dpl() const { return static_cast<unsigned>(low >> 45) & 3U; }
  bool is_present() const { return ((low >> 47) & 1U) != 0; }
  bool is_system() const { return ((low >> 44) & 1U) == 0; }
  bool is_code() const { return !is_system() && (type() & 8U) != 0; }
  bool is_data() const { return !is_system() && (type() & 8U) == 0; }
  bool is_conforming() const { return is_code() && (type() & 4U) != 0; }
  bool is_readable() const { return is_data() || (type() & 2U) != 0; }
  bool is_writable_data() const { return is_data() && (type() & 2U) != 0; }
  bool is_long_code() const { return is_code() && (access() & kSegL) != 0; }

  uint32_t base32() const {
    return static_cast<uint32_t>((low >> 16) & 0xff'ffffU) |
           static_cast<uint32_t>((low >> 56) << 24);
  }
  uint64_t base64() const { return base32() | (high << 32); }
  uint32_t limit() const {
    const uint32_t raw =
        static_cast<uint32_t>(low & 0xffffU) | (static_cast<uint32_t>(low >> 32) & 0xf'0000U);
    return (access() & kSegG) != 0 ? (raw << 12) | 0xfffU : raw;
  }
  Segment segment(uint16_t selector) const { return {base32(), limit(), access(), selector}; }

  // Gates.
  uint16_t gate_selector() const { return static_cast<uint16_t>(low >> 16); }
  uint32_t gate_offset() const {
    return static_cast<uint32_t>(low & 0xffffU) | static_cast<uint32_t>((low >> 32) & 0xffff'0000U);
  }
  uint64_t gate_offset64() const { return gate_offset() | (high << 32); }
};

constexpr bool is_null_selector(uint16_t selector) { return (selector & 0xfffcU) == 0; }
constexpr unsigned selector_rpl(uint16_t selector) { return selector & 3U; }
// The error code that names a selector (SDM 3A 6.13); EXT is added at delivery.
constexpr uint32_t selector_error(uint16_t selector) { return selector & 0xfffcU; }

// Makes an exception pending and returns false: `return fault(cpu, kGP, 0);`
inline bool fault(Cpu& cpu, uint8_t vector, uint32_t error_code) {
  raise(cpu, vector, error_code);
  return false;
}

// Linear address of the entry when [selector, + size) lies inside its table; no fault is raised.
bool find_descriptor(const Cpu& cpu, uint16_t selector, unsigned size, uint64_t& linear);
// Reads an 8-byte descriptor. Outside the table: `vector`(selector). Page faults come through.
bool read_descriptor(Cpu& cpu, uint16_t selector, uint8_t vector, Descriptor& descriptor);
// The 16-byte form for system descriptors in IA-32e mode, 8 bytes otherwise.
bool read_system_descriptor(Cpu& cpu, uint16_t selector, uint8_t vector, Descriptor& descriptor);
// Sets the accessed bit of a code or data descriptor, in memory and in `descriptor`.
bool mark_accessed(Cpu& cpu, uint16_t selector, Descriptor& descriptor);
// Sets or clears the busy bit of a TSS descriptor in the GDT.
bool mark_busy(Cpu& cpu, uint16_t selector, bool busy);

}  // namespace trapeze::soft
