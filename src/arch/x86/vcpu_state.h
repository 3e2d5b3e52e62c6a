// VcpuState: the canonical state of one virtual CPU, the same for every accelerator and in every
// snapshot. Plain data. Bit layouts are those of the SDM.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace trapeze {

// Index of a general register in encoding order (SDM 2A 2.1.5).
enum GprIndex : uint8_t {
  kRax,
  kRcx,
  kRdx,
  kRbx,
  kRsp,
  kRbp,
  kRsi,
  kRdi,
  kR8,
  kR9,
  kR10,
  kR11,
  kR12,
  kR13,
  kR14,
  kR15,
};

// Index of a segment register in encoding order.
enum SegIndex : uint8_t { kEs, kCs, kSs, kDs, kFs, kGs };

// A segment register with its hidden part. `limit` is in bytes (granularity applied).
// `access`: bits 8..15 and 20..23 of the descriptor's high half as they stand there, moved down to
// bits 0..7 and 12..15: type, S, DPL, P; AVL, L, D/B, G (the VMX access-rights layout, SDM
// 3C 25.4.1). kSegmentUnusable marks a null segment.
struct Segment {
  uint64_t base = 0;
  uint32_t limit = 0;
  uint32_t access = 0;
  uint16_t selector = 0;
  bool operator==(const Segment&) const = default;
};

inline constexpr uint32_t kSegmentUnusable = 1U << 16;

struct DescriptorTable {
  uint64_t base = 0;
  uint16_t limit = 0;
  bool operator==(const DescriptorTable&) const = default;
};

struct MsrValue {
  uint32_t index = 0;
  uint64_t value = 0;
  bool operator==(const MsrValue&) const = default;
};

enum class MpState : uint8_t { Runnable, Halted, WaitForSipi, Shutdown };

// An event that was on its way when the state was saved.
struct PendingEvents {
  bool exception_pending = false;  // raised, not yet delivered
  uint8_t exception_vector = 0;
  bool exception_has_error_code = false;
  uint32_t exception_error_code = 0;
  bool nmi_pending = false;
  bool nmi_blocked = false;      // between an NMI and its IRET
  uint8_t interrupt_shadow = 0;  // 1: STI, 2: MOV SS
  // Acknowledged at the 8259s (so in no register of the local APIC any more), not yet delivered.
  bool interrupt_injected = false;
  uint8_t interrupt_vector = 0;
  bool operator==(const PendingEvents&) const = default;
};

struct VcpuState {
  std::array<uint64_t, 16> gpr{};
  uint64_t rip = 0;
  uint64_t rflags = 2;
  std::array<Segment, 6> segments{};
  Segment tr;
  Segment ldtr;
  DescriptorTable gdtr;
  DescriptorTable idtr;
  uint64_t cr0 = 0, cr2 = 0, cr3 = 0, cr4 = 0, cr8 = 0;
  uint64_t efer = 0;
  uint64_t xcr0 = 1;
  std::array<uint64_t, 4> dr{};
  uint64_t dr6 = 0xffff0ff0, dr7 = 0x400;
  uint64_t apic_base = 0;
  // The FXSAVE image (512 bytes, SDM 1 10.5.1), then the XSAVE header and components in standard
  // format as far as xcr0 has them.
  std::vector<std::byte> xsave;
  std::vector<MsrValue> msrs;  // those not told above; includes IA32_TSC and the kvmclock MSRs
  std::array<uint32_t, 64> lapic{};  // register at offset 16*i of the local APIC page
  MpState mp_state = MpState::Runnable;
  PendingEvents events;
  bool operator==(const VcpuState&) const = default;
};

// Power-on state of the bootstrap processor (SDM 3A table 10-1), with `xsave` of 512 bytes.
VcpuState reset_state();

}  // namespace trapeze
