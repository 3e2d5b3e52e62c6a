// Multiboot 1 (Multiboot Specification 0.6.96): test images, unikernels, hobby kernels.
#include <algorithm>

#include "arch/x86/boot/entry_state.h"
#include "arch/x86/boot/handover.h"
#include "arch/x86/boot/loaders.h"
#include "arch/x86/boot/memory_map.h"
#include "arch/x86/layout.h"
#include "base/bytes.h"
#include "base/units.h"

namespace trapeze::boot {
namespace {

constexpr uint32_t kHeaderMagic = 0x1bad'b002;
constexpr uint32_t kLoaderMagic = 0x2bad'b002;  // EAX at the entry
constexpr size_t kHeaderSearchBytes = 8 * KiB;  // 3.1: contained in the first 8192 bytes
constexpr size_t kHeaderBytes = 12;
constexpr size_t kHeaderWithAddressesBytes = 32;
// Bits 0 to 15 are requirements. Known: page-aligned modules, memory information, video mode (there
// is no screen; kernels that ask for one also run without).
constexpr uint32_t kKnownRequirements = 0x7;

constexpr uint32_t kInfoMemory = 1U << 0;
constexpr uint32_t kInfoCommandLine = 1U << 2;
constexpr uint32_t kInfoModules = 1U << 3;
constexpr uint32_t kInfoMemoryMap = 1U << 6;
constexpr uint32_t kInfoLoaderName = 1U << 9;

struct Info {  // 3.3, the fields up to the frame buffer, which is told to be absent by `flags`
  uint32_t flags;
  uint32_t mem_lower;
  uint32_t mem_upper;
  uint32_t boot_device;
  uint32_t cmdline;
  uint32_t mods_count;
  uint32_t mods_addr;
  uint32_t syms[4];
  uint32_t mmap_length;
  uint32_t mmap_addr;
  uint32_t drives_length;
  uint32_t drives_addr;
  uint32_t config_table;
  uint32_t boot_loader_name;
  uint32_t apm_table;
  uint32_t video[11];
};
static_assert(sizeof(Info) == 116);

struct Module {
  uint32_t mod_start;
  uint32_t mod_end;
  uint32_t string;
  uint32_t reserved;
};
static_assert(sizeof(Module) == 16);

struct [[gnu::packed]] MapEntry {
  uint32_t size;  // of the rest
  uint64_t base_addr;
  uint64_t length;
  uint32_t type;
};
static_assert(sizeof(MapEntry) == 24);

// The information takes the page that PVH uses for the same: away from 0 (trampolines of other
// processors) and from 32 KiB (where real-mode test images load).
constexpr Gpa kInfoPage = layout::kPvhStartInfo;
constexpr uint64_t kModuleOffset = 0x80;
constexpr uint64_t kLoaderNameOffset = 0xa0;
constexpr uint64_t kMapOffset = 0xc0;
constexpr uint64_t kModuleNameOffset = 0x800;
constexpr size_t kMaxMapEntries = (kModuleNameOffset - kMapOffset) / sizeof(MapEntry);
constexpr uint64_t kHandoverOffset = kPageSize - kHandoverBytes;
constexpr size_t kMaxModuleName = kHandoverOffset - kModuleNameOffset - 1;
constexpr char kLoaderName[] = "trapeze";

uint32_t address32(Gpa gpa) { return static_cast<uint32_t>(gpa.raw()); }

// KiB of RAM from 1 MiB to the first hole.
uint32_t mem_upper_kib(const GuestMemory& memory) {
  const uint64_t low_end = memory.ram().front().end().raw();
  return low_end > MiB ? static_cast<uint32_t>((low_end - MiB) / KiB) : 0;
}

void write_info(const BootConfig& config, GpaRange module, GuestMemory& memory) {
  std::vector<std::byte> page(kPageSize);
  const std::vector<MemoryMapEntry> map = memory_map(memory);
  const size_t entries = std::min(map.size(), kMaxMapEntries);
  Info info{};
  info.flags = kInfoMemory | kInfoCommandLine | kInfoModules | kInfoMemoryMap | kInfoLoaderName;
  info.mem_lower = static_cast<uint32_t>(layout::kEbda.raw() / KiB);
  info.mem_upper = mem_upper_kib(memory);
  info.cmdline = address32(layout::kCommandLine);
  info.mods_addr = address32(kInfoPage + kModuleOffset);
  info.mmap_addr = address32(kInfoPage + kMapOffset);
  info.mmap_length = static_cast<uint32_t>(entries * sizeof(MapEntry));
  info.boot_loader_name = address32(kInfoPage + kLoaderNameOffset);
  std::memcpy(page.data() + kLoaderNameOffset, kLoaderName, sizeof(kLoaderName));
  if (module.size != 0) {
    info.mods_count = 1;
    store_le(std::span(page), kModuleOffset,
             Module{address32(module.start), address32(module.end()),
                    address32(kInfoPage + kModuleNameOffset), 0});
    std::memcpy(page.data() + kModuleNameOffset, config.initrd_name.data(),
                std::min(config.initrd_name.size(), kMaxModuleName));
  }
  for (size_t i = 0; i < entries; ++i) {
    store_le(std::span(page), kMapOffset + i * sizeof(MapEntry),
             MapEntry{sizeof(MapEntry) - sizeof(uint32_t), map[i].range.start.raw(),
                      map[i].range.size, static_cast<uint32_t>(map[i].type)});
  }
  store_le(std::span(page), 0, info);
  const bool in_ram = memory.write(kInfoPage, page);
  CHECK(in_ram);  // claimed
}

struct Loaded {
  Gpa entry;
  GpaRange kernel;
};

Result<Loaded> load_elf(ImageBytes image, const BootConfig& config, Placement& placement,
                        GuestMemory& memory) {
  const ElfImage elf = TRY(parse_elf(image, config.kernel_name));
  TRY(check_segments_in_file(elf, image.size(), config.kernel_name));
  TRY(placement.claim_segments(elf));
  const Gpa entry = TRY(require_entry(elf, config.kernel_name));
  if (entry >= Gpa{4 * GiB}) {
    return fail("{}: entry point {:#x} lies above 4 GiB", config.kernel_name, entry.raw());
  }
  load_segments(elf, {image, config.kernel_file}, config.ram_is_zero, memory);
  return Loaded{entry, elf.extent()};
}

// The "a.out kludge": the header itself says what goes where (3.1.3).
Result<Loaded> load_flat(const MultibootHeader& header, ImageBytes image, const BootConfig& config,
                         Placement& placement, GuestMemory& memory) {
  const std::string& name = config.kernel_name;
  if (header.header_addr < header.load_addr ||
      header.header_addr - header.load_addr > header.file_offset) {
    return fail("{}: multiboot load address {:#x} does not fit the header at {:#x}", name,
                header.load_addr, header.header_addr);
  }
  const uint64_t file_start = header.file_offset - (header.header_addr - header.load_addr);
  uint64_t bytes = image.size() - file_start;
  if (header.load_end_addr != 0) {
    if (header.load_end_addr < header.load_addr ||
        !fits(image.size(), file_start, header.load_end_addr - header.load_addr)) {
      return fail("{}: truncated: multiboot asks for {:#x}..{:#x} from a file of {} bytes", name,
                  header.load_addr, header.load_end_addr, image.size());
    }
    bytes = header.load_end_addr - header.load_addr;
  }
  const uint64_t load_end = uint64_t{header.load_addr} + bytes;
  if (header.bss_end_addr != 0 && header.bss_end_addr < load_end) {
    return fail("{}: multiboot BSS ends at {:#x}, before the data at {:#x}", name,
                header.bss_end_addr, load_end);
  }
  const uint64_t end = std::max<uint64_t>(load_end, header.bss_end_addr);
  const GpaRange kernel{Gpa{header.load_addr}, end - header.load_addr};
  if (!kernel.contains(Gpa{header.entry_addr})) {
    return fail("{}: multiboot entry point {:#x} lies outside the image", name, header.entry_addr);
  }
  TRY(placement.claim(kernel, "the multiboot image"));
  bool in_ram = memory.write(kernel.start, image.subspan(file_start, bytes));
  if (!config.ram_is_zero) {
    in_ram = in_ram && memory.fill(Gpa{load_end}, std::byte{0}, end - load_end);
  }
  CHECK(in_ram);
  return Loaded{Gpa{header.entry_addr}, kernel};
}

}  // namespace

std::optional<MultibootHeader> find_multiboot_header(ImageBytes image) {
  const ImageBytes head = image.first(std::min(image.size(), kHeaderSearchBytes));
  for (size_t at = 0; fits(head.size(), at, kHeaderBytes); at += sizeof(uint32_t)) {
    if (load_le<uint32_t>(head, at) != kHeaderMagic) continue;
    MultibootHeader header;
    header.file_offset = at;
    header.flags = load_le<uint32_t>(head, at + 4);
    if (kHeaderMagic + header.flags + load_le<uint32_t>(head, at + 8) != 0) continue;  // checksum
    if ((header.flags & kMultibootHasAddresses) == 0) return header;
    if (!fits(head.size(), at, kHeaderWithAddressesBytes)) continue;
    header.header_addr = load_le<uint32_t>(head, at + 12);
    header.load_addr = load_le<uint32_t>(head, at + 16);
    header.load_end_addr = load_le<uint32_t>(head, at + 20);
    header.bss_end_addr = load_le<uint32_t>(head, at + 24);
    header.entry_addr = load_le<uint32_t>(head, at + 28);
    return header;
  }
  return std::nullopt;
}

Result<LoadedKernel> load_multiboot(ImageBytes image, const BootConfig& config,
                                    GuestMemory& memory) {
  const auto header = find_multiboot_header(image);
  if (!header) return fail("{}: has no multiboot header", config.kernel_name);
  const uint32_t unknown = header->flags & 0xffff & ~kKnownRequirements;
  if (unknown != 0) {
    return fail("{}: multiboot header requires unknown features (flags {:#x})", config.kernel_name,
                unknown);
  }
  Placement placement(memory, config.kernel_name);
  TRY(claim_gdt(placement));
  TRY(placement.claim({kInfoPage, kPageSize}, "the multiboot information"));
  TRY(placement.claim({Gpa{0}, 0x400}, "the interrupt vector table"));
  const std::string cmdline = config.cmdline.empty()
                                  ? config.kernel_name
                                  : fmt::format("{} {}", config.kernel_name, config.cmdline);
  TRY(write_command_line(placement, config, cmdline, layout::kCommandLineMaxBytes - 1, memory));
  const bool is_flat = (header->flags & kMultibootHasAddresses) != 0;
  const Loaded loaded = is_flat ? TRY(load_flat(*header, image, config, placement, memory))
                                : TRY(load_elf(image, config, placement, memory));
  const GpaRange module = TRY(place_initrd_low(placement, config, loaded.kernel, memory));
  write_info(config, module, memory);
  const Gpa start =
      write_handover(kInfoPage + kHandoverOffset, address32(loaded.entry), kLoaderMagic, memory);
  VcpuState state = protected_mode_state(memory, start);
  state.gpr[kRax] = kLoaderMagic;
  state.gpr[kRbx] = kInfoPage.raw();
  return LoadedKernel{
      KernelKind::Multiboot1,
      fmt::format("multiboot 1 ({}), entry at {:#x}", is_flat ? "flat" : "ELF", loaded.entry.raw()),
      loaded.kernel, module, std::move(state)};
}

}  // namespace trapeze::boot
