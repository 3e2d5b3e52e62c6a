#include "kit/kernel_image.h"

#include <elf.h>

#include <algorithm>
#include <cstring>

#include "base/bytes.h"
#include "base/units.h"

namespace trapeze::kit {

void trim_trailing_zeros(std::span<std::byte> vmlinux) {
  if (vmlinux.size() < sizeof(Elf64_Ehdr)) return;
  const auto header = load_le<Elf64_Ehdr>(vmlinux, 0);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return;
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_phentsize != sizeof(Elf64_Phdr)) return;
  if (!fits(vmlinux.size(), header.e_phoff, sizeof(Elf64_Phdr) * header.e_phnum)) return;
  for (unsigned i = 0; i < header.e_phnum; ++i) {
    const size_t at = header.e_phoff + i * sizeof(Elf64_Phdr);
    auto segment = load_le<Elf64_Phdr>(vmlinux, at);
    if (segment.p_type != PT_LOAD) continue;
    if (!fits(vmlinux.size(), segment.p_offset, segment.p_filesz)) continue;
    const auto content = vmlinux.subspan(segment.p_offset, segment.p_filesz);
    const auto last = std::find_if(content.rbegin(), content.rend(),
                                   [](std::byte byte) { return byte != std::byte{0}; });
    const auto used = static_cast<uint64_t>(content.rend() - last);
    segment.p_filesz = std::min<uint64_t>(align_up(used, kPageSize), segment.p_filesz);
    store_le(vmlinux, at, segment);
  }
}

}  // namespace trapeze::kit
