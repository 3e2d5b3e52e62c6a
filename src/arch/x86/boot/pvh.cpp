// PVH: direct boot of an ELF kernel in 32-bit protected mode (Xen docs/misc/pvh.pandoc,
// xen/include/public/arch-x86/hvm/start_info.h).
#include <algorithm>

#include "arch/x86/boot/entry_state.h"
#include "arch/x86/boot/loaders.h"
#include "arch/x86/boot/memory_map.h"
#include "arch/x86/layout.h"
#include "base/bytes.h"
#include "base/units.h"

namespace trapeze::boot {
namespace {

constexpr uint32_t kStartMagic = 0x336e'c578;  // "xEn3" with bit 7 of the first byte set
constexpr uint32_t kStartVersion = 1;          // has the memory map

struct StartInfo {  // hvm_start_info
  uint32_t magic;
  uint32_t version;
  uint32_t flags;
  uint32_t nr_modules;
  uint64_t modlist_paddr;
  uint64_t cmdline_paddr;
  uint64_t rsdp_paddr;
  uint64_t memmap_paddr;
  uint32_t memmap_entries;
  uint32_t reserved;
};
static_assert(sizeof(StartInfo) == 56);

struct Module {  // hvm_modlist_entry
  uint64_t paddr;
  uint64_t size;
  uint64_t cmdline_paddr;
  uint64_t reserved;
};
static_assert(sizeof(Module) == 32);

struct MapEntry {  // hvm_memmap_table_entry
  uint64_t addr;
  uint64_t size;
  uint32_t type;
  uint32_t reserved;
};
static_assert(sizeof(MapEntry) == 24);

// All in the page of the start info.
constexpr uint64_t kModuleOffset = 64;
constexpr uint64_t kMapOffset = 128;
constexpr size_t kMaxMapEntries = (kPageSize - kMapOffset) / sizeof(MapEntry);

void write_start_info(const BootConfig& config, GpaRange initrd, GuestMemory& memory) {
  std::vector<std::byte> page(kPageSize);
  const std::vector<MemoryMapEntry> map = memory_map(memory);
  const size_t entries = std::min(map.size(), kMaxMapEntries);
  StartInfo info{};
  info.magic = kStartMagic;
  info.version = kStartVersion;
  info.cmdline_paddr = layout::kCommandLine.raw();
  info.rsdp_paddr = config.acpi_rsdp.raw();
  info.memmap_paddr = layout::kPvhStartInfo.raw() + kMapOffset;
  info.memmap_entries = static_cast<uint32_t>(entries);
  if (initrd.size != 0) {
    info.nr_modules = 1;
    info.modlist_paddr = layout::kPvhStartInfo.raw() + kModuleOffset;
    store_le(std::span(page), kModuleOffset, Module{initrd.start.raw(), initrd.size, 0, 0});
  }
  store_le(std::span(page), 0, info);
  for (size_t i = 0; i < entries; ++i) {
    store_le(std::span(page), kMapOffset + i * sizeof(MapEntry),
             MapEntry{map[i].range.start.raw(), map[i].range.size,
                      static_cast<uint32_t>(map[i].type), 0});
  }
  const bool in_ram = memory.write(layout::kPvhStartInfo, page);
  CHECK(in_ram);  // claimed
}

}  // namespace

Result<LoadedKernel> load_pvh(ImageBytes image, const BootConfig& config, GuestMemory& memory) {
  const ElfImage elf = TRY(parse_elf(image, config.kernel_name));
  TRY(check_segments_in_file(elf, image.size(), config.kernel_name));
  const auto entry = read_kernel_notes(elf, image).pvh_entry;
  if (!entry) return fail("{}: has no PVH entry note", config.kernel_name);
  if (*entry >= Gpa{4 * GiB} || !is_in_segment(elf, *entry)) {
    return fail("{}: PVH entry point {:#x} lies in no segment below 4 GiB", config.kernel_name,
                entry->raw());
  }
  Placement placement(memory, config.kernel_name);
  TRY(claim_gdt(placement));
  TRY(placement.claim({layout::kPvhStartInfo, kPageSize}, "the PVH start info"));
  TRY(write_command_line(placement, config, config.cmdline, layout::kCommandLineMaxBytes - 1,
                         memory));
  TRY(placement.claim_segments(elf));
  load_segments(elf, {image, config.kernel_file}, config.ram_is_zero, memory);
  const GpaRange initrd = TRY(place_initrd_high(placement, config, layout::kLowRamEnd, memory));
  write_start_info(config, initrd, memory);
  VcpuState state = protected_mode_state(memory, *entry);
  state.gpr[kRbx] = layout::kPvhStartInfo.raw();
  return LoadedKernel{KernelKind::ElfPvh, fmt::format("ELF, PVH entry at {:#x}", entry->raw()),
                      elf.extent(), initrd, std::move(state)};
}

}  // namespace trapeze::boot
