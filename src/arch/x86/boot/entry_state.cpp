#include "arch/x86/boot/entry_state.h"

#include <array>

#include "arch/x86/layout.h"
#include "base/units.h"

namespace trapeze::boot {
namespace {

constexpr uint16_t kCodeSelector = 0x10;
constexpr uint16_t kDataSelector = 0x18;
constexpr uint16_t kTaskSelector = 0x20;

// Access rights as in Segment::access: type, S, P; L 0x2000, D/B 0x4000, G 0x8000. "Accessed" and
// "busy" are set, as in a register that was loaded from its descriptor (SDM 3A 3.4.5.1).
constexpr uint32_t kCode64Access = 0xa09b;
constexpr uint32_t kCode32Access = 0xc09b;
constexpr uint32_t kDataAccess = 0xc093;
constexpr uint32_t kTaskAccess = 0x008b;

constexpr uint32_t kFlatLimit = 0xffff'ffff;
constexpr uint32_t kTaskLimit = 0x67;

constexpr uint64_t kCr0Pe = 1U << 0;
constexpr uint64_t kCr0Et = 1U << 4;
constexpr uint64_t kCr0Ne = 1U << 5;
constexpr uint64_t kCr0Pg = 1U << 31;
constexpr uint64_t kCr4Pae = 1U << 5;
constexpr uint64_t kEferLme = 1U << 8;
constexpr uint64_t kEferLma = 1U << 10;

constexpr uint64_t kPagePresentWritable = 0x3;
constexpr uint64_t kPageLarge = 0x80;
constexpr unsigned kMappedGiB = 4;
constexpr uint64_t kPageTableBytes = (2 + kMappedGiB) * kPageSize;

// Null, unused, code, data, and a task state segment of two entries (16 bytes in long mode).
using Gdt = std::array<uint64_t, 6>;

// A descriptor with base 0 (SDM 3A figure 3-8). `limit_field` counts pages when access has G.
constexpr uint64_t descriptor(uint32_t access, uint64_t limit_field) {
  return (limit_field & 0xffff) | (limit_field & 0xf0000) << 32 | uint64_t{access & 0xf0ff} << 40;
}
static_assert(descriptor(kCode64Access, 0xfffff) == 0x00af'9b00'0000'ffff);
static_assert(descriptor(kCode32Access, 0xfffff) == 0x00cf'9b00'0000'ffff);
static_assert(descriptor(kDataAccess, 0xfffff) == 0x00cf'9300'0000'ffff);

void store_checked(GuestMemory& memory, Gpa gpa, std::span<const std::byte> bytes) {
  const bool in_ram = memory.write(gpa, bytes);
  CHECK(in_ram);  // the range was claimed
}

VcpuState flat_state(GuestMemory& memory, Gpa entry, uint32_t code_access) {
  const Gdt gdt = {0,
                   0,
                   descriptor(code_access, 0xfffff),
                   descriptor(kDataAccess, 0xfffff),
                   descriptor(kTaskAccess, kTaskLimit),
                   0};
  store_checked(memory, layout::kBootGdt, std::as_bytes(std::span(gdt)));

  VcpuState state = reset_state();
  state.gpr = {};
  state.rip = entry.raw();
  state.rflags = 0x2;  // IF, DF, TF and VM clear
  for (Segment& segment : state.segments) segment = {0, kFlatLimit, kDataAccess, kDataSelector};
  state.segments[kCs] = {0, kFlatLimit, code_access, kCodeSelector};
  state.tr = {0, kTaskLimit, kTaskAccess, kTaskSelector};
  state.ldtr = {0, 0, kSegmentUnusable, 0};
  state.gdtr = {layout::kBootGdt.raw(), sizeof(Gdt) - 1};
  state.idtr = {0, 0};  // the kernel loads its own before it may fault
  return state;
}

void write_identity_map(GuestMemory& memory) {
  constexpr size_t kEntries = kPageSize / sizeof(uint64_t);
  const uint64_t pml4_gpa = layout::kBootPageTables.raw();
  const uint64_t pdpt_gpa = pml4_gpa + kPageSize;
  const uint64_t directories_gpa = pdpt_gpa + kPageSize;
  std::vector<uint64_t> tables(kPageTableBytes / sizeof(uint64_t));
  tables[0] = pdpt_gpa | kPagePresentWritable;
  for (size_t i = 0; i < kMappedGiB; ++i) {
    tables[kEntries + i] = (directories_gpa + i * kPageSize) | kPagePresentWritable;
  }
  for (size_t i = 0; i < kMappedGiB * kEntries; ++i) {
    tables[2 * kEntries + i] = i * 2 * MiB | kPageLarge | kPagePresentWritable;
  }
  store_checked(memory, layout::kBootPageTables, std::as_bytes(std::span(tables)));
}

}  // namespace

VcpuState long_mode_state(GuestMemory& memory, Gpa entry) {
  VcpuState state = flat_state(memory, entry, kCode64Access);
  write_identity_map(memory);
  state.cr0 = kCr0Pg | kCr0Ne | kCr0Et | kCr0Pe;
  state.cr3 = layout::kBootPageTables.raw();
  state.cr4 = kCr4Pae;
  state.efer = kEferLme | kEferLma;
  state.gpr[kRsp] = layout::kBootStack.raw();
  return state;
}

VcpuState protected_mode_state(GuestMemory& memory, Gpa entry) {
  VcpuState state = flat_state(memory, entry, kCode32Access);
  state.cr0 = kCr0Et | kCr0Pe;  // PVH: "all the other writeable bits are cleared"
  return state;
}

Result<void> claim_gdt(Placement& placement) {
  return placement.claim({layout::kBootGdt, sizeof(Gdt)}, "the boot GDT");
}

Result<void> claim_long_mode_tables(Placement& placement) {
  TRY(claim_gdt(placement));
  TRY(placement.claim({Gpa{align_down(layout::kBootStack.raw(), kPageSize)}, kPageSize},
                      "the boot stack"));
  return placement.claim({layout::kBootPageTables, kPageTableBytes}, "the boot page tables");
}

}  // namespace trapeze::boot
