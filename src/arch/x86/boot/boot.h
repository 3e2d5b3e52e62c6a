// Boot protocols: puts a kernel image into guest memory and says with which register state the
// first vCPU starts. Knows Linux bzImage (Documentation/arch/x86/boot.rst), ELF by PVH note
// (Xen docs/misc/pvh.pandoc), 64-bit ELF vmlinux, and multiboot 1 (specification 0.6.96).
//
// Kernel and initial RAM disk are hostile bytes: whatever they claim, the answer is a loaded
// kernel or an Error that names the file. All functions run on the thread that builds the VM,
// before any vCPU runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "arch/x86/vcpu_state.h"
#include "base/fd.h"
#include "base/result.h"
#include "memory/guest_memory.h"

namespace trapeze::boot {

enum class KernelKind : uint8_t {
  BzImage,     // Linux, compressed, with its setup header
  Elf64,       // 64-bit ELF entered in long mode with a zero page, as Linux' own decompressor does
  ElfPvh,      // ELF with a PVH entry note: 32-bit protected mode, hvm_start_info
  Multiboot1,  // ELF or a.out kludge with a multiboot 1 header: 32-bit protected mode
};
std::string_view name_of(KernelKind kind);

struct BootConfig {
  std::string kernel_name;            // as the user gave it; first word of a multiboot command line
  std::string initrd_name;            // for messages; the string of the multiboot module
  std::string cmdline;                // without a terminating NUL
  std::span<const std::byte> initrd;  // empty: none
  // Put behind the initial RAM disk, at a multiple of four bytes: the kernel unpacks one archive
  // after the other. Empty: none.
  std::span<const std::byte> initrd_overlay = {};
  // The files behind the image and the initial RAM disk, if they are never written in place: their
  // pages are mapped into guest RAM then, not copied (GuestMemory::map_file). nullptr: copied.
  const Fd* kernel_file = nullptr;
  const Fd* initrd_file = nullptr;
  Gpa acpi_rsdp;            // 0: no ACPI
  bool prefer_pvh = false;  // take the PVH entry where an image has several
  // RAM is fresh from the host. False (a reboot in place): what a kernel expects to be zero, its
  // BSS, is cleared here.
  bool ram_is_zero = true;
};

struct LoadedKernel {
  KernelKind kind = KernelKind::BzImage;
  std::string how;      // for --verbose: "bzImage (xz payload), 64-bit entry at 0x1000000"
  GpaRange kernel;      // from the lowest to the highest byte that the kernel occupies
  GpaRange initrd;      // size 0: none
  VcpuState boot_vcpu;  // state of vCPU 0; the others wait for SIPI
};

// What the image is; an Error with the reason when it is nothing we can start.
Result<KernelKind> detect(std::span<const std::byte> image, std::string_view name,
                          bool prefer_pvh = false);

// Fills guest memory. After an Error its content is undefined; nothing outside RAM was touched.
// Uses addresses below 1 MiB of arch/x86/layout.h; never writes to layout::kAcpi.
Result<LoadedKernel> load_kernel(std::span<const std::byte> image, const BootConfig& config,
                                 GuestMemory& memory);

// The ELF vmlinux inside a bzImage, at most `limit_bytes` long.
Result<std::vector<std::byte>> extract_vmlinux(std::span<const std::byte> image,
                                               std::string_view name, uint64_t limit_bytes);

}  // namespace trapeze::boot
