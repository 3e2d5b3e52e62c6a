// Linux: bzImage and 64-bit vmlinux (Documentation/arch/x86/boot.rst and zero-page.rst).
#include <algorithm>
#include <array>
#include <cstring>

#include "arch/x86/boot/elf_stream.h"
#include "arch/x86/boot/entry_state.h"
#include "arch/x86/boot/loaders.h"
#include "arch/x86/boot/memory_map.h"
#include "arch/x86/boot/setup_header.h"
#include "arch/x86/layout.h"
#include "base/bytes.h"
#include "base/units.h"

namespace trapeze::boot {
namespace {

// Offsets in struct boot_params that are not part of the setup header.
constexpr size_t kZpAcpiRsdpAddr = 0x70;
constexpr size_t kZpExtRamdiskImage = 0xc0;
constexpr size_t kZpExtRamdiskSize = 0xc4;
constexpr size_t kZpExtCmdLinePtr = 0xc8;
constexpr size_t kZpE820Entries = 0x1e8;
constexpr size_t kZpE820Table = 0x2d0;
constexpr size_t kE820EntryBytes = 20;
constexpr size_t kE820MaxEntries = 128;

constexpr uint8_t kLoaderUndefined = 0xff;  // "no assigned ID"

// COMMAND_LINE_SIZE of arch/x86 is 2048 with the NUL; a bare vmlinux does not tell.
constexpr uint64_t kVmlinuxCmdlineMaxBytes = 2047;
// What every x86 kernel says in initrd_addr_max; a bare vmlinux does not tell.
constexpr uint64_t kVmlinuxInitrdLimit = 0x8000'0000;
// Of a bare vmlinux: CONFIG_PHYSICAL_ALIGN is at most this.
constexpr uint32_t kVmlinuxAlignment = 0x100'0000;

constexpr Gpa kProtectedModeCode{MiB};      // where a bzImage's code goes
constexpr uint64_t kEntry64Offset = 0x200;  // of the 64-bit entry in it

using ZeroPage = std::array<std::byte, kPageSize>;

ZeroPage zero_page_of(const SetupHeader& header) {
  ZeroPage page{};
  std::memcpy(page.data() + setup::kStart, header.raw().data(), header.raw().size());
  return page;
}

// As if a bzImage had been there (zero-page.rst: the kernel checks none of it but the loader type).
ZeroPage zero_page_of_vmlinux() {
  ZeroPage page{};
  store_le(std::span(page), setup::kBootFlag, setup::kBootFlagValue);
  store_le(std::span(page), setup::kMagic, setup::kMagicValue);
  store_le(std::span(page), setup::kVersion, uint16_t{0x20c});
  store_le(std::span(page), setup::kLoadFlags, setup::kLoadedHigh);
  store_le(std::span(page), setup::kKernelAlignment, kVmlinuxAlignment);
  store_le(std::span(page), setup::kInitrdAddrMax, static_cast<uint32_t>(kVmlinuxInitrdLimit - 1));
  store_le(std::span(page), setup::kCmdlineSize, static_cast<uint32_t>(kVmlinuxCmdlineMaxBytes));
  return page;
}

void write_zero_page(ZeroPage page, const BootConfig& config, GpaRange initrd,
                     GuestMemory& memory) {
  const std::span<std::byte> bytes(page);
  store_le(bytes, setup::kTypeOfLoader, kLoaderUndefined);
  // The flag tells a kernel that its decompressor chose a random address, which none did.
  const auto flags = static_cast<unsigned>(load_le<uint8_t>(bytes, setup::kLoadFlags));
  store_le(bytes, setup::kLoadFlags,
           static_cast<uint8_t>((flags | setup::kLoadedHigh) & ~unsigned{setup::kKaslrFlag}));
  // A list of physical addresses of which the file can know nothing.
  store_le(bytes, setup::kSetupData, uint64_t{0});

  store_le(bytes, setup::kCmdLinePtr, static_cast<uint32_t>(layout::kCommandLine.raw()));
  store_le(bytes, kZpExtCmdLinePtr, static_cast<uint32_t>(layout::kCommandLine.raw() >> 32));
  const uint64_t ramdisk = initrd.start.raw();
  store_le(bytes, setup::kRamdiskImage, static_cast<uint32_t>(ramdisk));
  store_le(bytes, kZpExtRamdiskImage, static_cast<uint32_t>(ramdisk >> 32));
  store_le(bytes, setup::kRamdiskSize, static_cast<uint32_t>(initrd.size));
  store_le(bytes, kZpExtRamdiskSize, static_cast<uint32_t>(initrd.size >> 32));
  store_le(bytes, kZpAcpiRsdpAddr, config.acpi_rsdp.raw());

  const std::vector<MemoryMapEntry> map = memory_map(memory);
  const size_t entries = std::min(map.size(), kE820MaxEntries);
  store_le(bytes, kZpE820Entries, static_cast<uint8_t>(entries));
  for (size_t i = 0; i < entries; ++i) {
    const size_t at = kZpE820Table + i * kE820EntryBytes;
    store_le(bytes, at, map[i].range.start.raw());
    store_le(bytes, at + 8, map[i].range.size);
    store_le(bytes, at + 16, static_cast<uint32_t>(map[i].type));
  }
  const bool in_ram = memory.write(layout::kZeroPage, page);
  CHECK(in_ram);  // claimed
}

Result<void> claim_boot_structures(Placement& placement) {
  TRY(claim_long_mode_tables(placement));
  return placement.claim({layout::kZeroPage, kPageSize}, "the zero page");
}

struct Entry {
  Gpa address;
  bool is_64bit = true;
  GpaRange kernel;
  std::string how;
};

VcpuState linux_entry_state(const Entry& entry, GuestMemory& memory) {
  VcpuState state = entry.is_64bit ? long_mode_state(memory, entry.address)
                                   : protected_mode_state(memory, entry.address);
  // The rest of the general registers is zero: the 32-bit protocol asks it of EBP, EDI and EBX.
  state.gpr[kRsi] = layout::kZeroPage.raw();
  return state;
}

Result<void> check_identity_mapped(Gpa entry, std::string_view name) {
  if (entry < Gpa{4 * GiB}) return {};
  return fail("{}: entry point {:#x} lies above 4 GiB", name, entry.raw());
}

// What the decompressor inside the bzImage would do, without running it in the guest: the kernel
// goes to its link address. Its BSS and early heap are part of the segments (vmlinux.lds.S), so
// that init_size, room for unpacking in place, is of no interest.
Result<Entry> unpack_payload(const SetupHeader& header, Compression compression,
                             const BootConfig& config, Placement& placement, GuestMemory& memory) {
  ElfStreamLoader loader(memory, placement, config);
  TRY(decompress(compression, header.payload(), config.kernel_name, loader));
  const ElfImage elf = TRY(loader.finish());
  Entry entry;
  entry.address = TRY(require_entry(elf, config.kernel_name));
  TRY(check_identity_mapped(entry.address, config.kernel_name));
  entry.is_64bit = elf.is_64bit;
  entry.kernel = elf.extent();
  entry.how = fmt::format("bzImage ({} payload), {}-bit entry at {:#x}", name_of(compression),
                          elf.is_64bit ? 64 : 32, entry.address.raw());
  return entry;
}

// For packing methods that we do not know: the kernel unpacks itself.
Result<Entry> enter_decompressor(const SetupHeader& header, Compression compression,
                                 const BootConfig& config, Placement& placement,
                                 GuestMemory& memory) {
  const ImageBytes code = header.protected_mode_code();
  if (!header.has_64bit_entry() || code.size() <= kEntry64Offset) {
    return fail(
        "{}: the kernel is packed with a method ({}) that cannot be unpacked here, and it "
        "has no 64-bit entry to unpack itself",
        config.kernel_name, name_of(compression));
  }
  // It works in init_size bytes from its preferred address on.
  const auto work_area = GpaRange::create(Gpa{header.preferred_address()}, header.init_size());
  const GpaRange loaded{kProtectedModeCode, code.size()};
  if (!work_area || work_area->start < kProtectedModeCode) {
    return fail("{}: the setup header asks for the impossible load address {:#x}",
                config.kernel_name, header.preferred_address());
  }
  Entry entry;
  entry.kernel = {loaded.start, std::max(loaded.end(), work_area->end()) - loaded.start};
  TRY(placement.claim(entry.kernel, "the kernel with its room to unpack"));
  const bool in_ram = memory.write(loaded.start, code);
  CHECK(in_ram);
  entry.address = loaded.start + kEntry64Offset;
  entry.how = fmt::format("bzImage ({} payload, unpacks itself), 64-bit entry at {:#x}",
                          name_of(compression), entry.address.raw());
  return entry;
}

class VectorSink final : public OutputSink {
 public:
  VectorSink(std::vector<std::byte>& to, uint64_t limit_bytes, std::string_view name)
      : to_(to), limit_bytes_(limit_bytes), name_(name) {}
  Result<void> put(std::span<const std::byte> bytes) override {
    if (bytes.size() > limit_bytes_ - to_.size()) {
      return fail("{}: unpacks to more than {} bytes", name_, limit_bytes_);
    }
    to_.insert(to_.end(), bytes.begin(), bytes.end());
    return {};
  }
  uint64_t limit_bytes() const override { return limit_bytes_; }

 private:
  std::vector<std::byte>& to_;
  uint64_t limit_bytes_;
  std::string_view name_;
};

}  // namespace

Result<LoadedKernel> load_bzimage(ImageBytes image, const BootConfig& config, GuestMemory& memory) {
  const SetupHeader header = TRY(SetupHeader::parse(image, config.kernel_name));
  Placement placement(memory, config.kernel_name);
  TRY(claim_boot_structures(placement));
  TRY(write_command_line(placement, config, config.cmdline, header.cmdline_max_bytes(), memory));

  const Compression compression = detect_compression(header.payload());
  Entry entry = can_decompress(compression)
                    ? TRY(unpack_payload(header, compression, config, placement, memory))
                    : TRY(enter_decompressor(header, compression, config, placement, memory));
  const GpaRange initrd = TRY(place_initrd_high(placement, config, header.initrd_limit(), memory));
  write_zero_page(zero_page_of(header), config, initrd, memory);
  return LoadedKernel{KernelKind::BzImage, std::move(entry.how), entry.kernel, initrd,
                      linux_entry_state(entry, memory)};
}

Result<LoadedKernel> load_elf64(ImageBytes image, const BootConfig& config, GuestMemory& memory) {
  const ElfImage elf = TRY(parse_elf(image, config.kernel_name));
  TRY(check_segments_in_file(elf, image.size(), config.kernel_name));
  Placement placement(memory, config.kernel_name);
  TRY(claim_boot_structures(placement));
  TRY(write_command_line(placement, config, config.cmdline, kVmlinuxCmdlineMaxBytes, memory));
  TRY(placement.claim_segments(elf));
  Entry entry;
  entry.address = TRY(require_entry(elf, config.kernel_name));
  TRY(check_identity_mapped(entry.address, config.kernel_name));
  load_segments(elf, {image, config.kernel_file}, config.ram_is_zero, memory);
  const GpaRange initrd = TRY(place_initrd_high(placement, config, kVmlinuxInitrdLimit, memory));
  write_zero_page(zero_page_of_vmlinux(), config, initrd, memory);
  return LoadedKernel{KernelKind::Elf64,
                      fmt::format("ELF, 64-bit entry at {:#x}", entry.address.raw()), elf.extent(),
                      initrd, linux_entry_state(entry, memory)};
}

Result<std::vector<std::byte>> extract_vmlinux(ImageBytes image, std::string_view name,
                                               uint64_t limit_bytes) {
  const SetupHeader header = TRY(SetupHeader::parse(image, name));
  std::vector<std::byte> vmlinux;
  VectorSink sink(vmlinux, limit_bytes, name);
  TRY(decompress(detect_compression(header.payload()), header.payload(), name, sink));
  if (!looks_like_elf(vmlinux)) return fail("{}: the payload is not an ELF kernel", name);
  return vmlinux;
}

}  // namespace trapeze::boot
