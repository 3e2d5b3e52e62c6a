#include "kit/kernel_module.h"

#include <elf.h>

#include <algorithm>
#include <string_view>

#include "base/bytes.h"

namespace trapeze::kit {
namespace {

// The section headers of an ELF file, all of whose ranges lie within it.
class Sections {
 public:
  static Result<Sections> open(std::span<const std::byte> image, const std::string& what) {
    if (image.size() < sizeof(Elf64_Ehdr)) return fail("{}: too short for a kernel module", what);
    const auto header = load_le<Elf64_Ehdr>(image, 0);
    if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 ||
        header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_type != ET_REL) {
      return fail("{}: not a 64-bit kernel module", what);
    }
    if (header.e_shentsize != sizeof(Elf64_Shdr) ||
        !fits(image.size(), header.e_shoff, uint64_t{header.e_shnum} * sizeof(Elf64_Shdr)) ||
        header.e_shstrndx >= header.e_shnum) {
      return fail("{}: broken section table", what);
    }
    Sections sections(image, header);
    const auto names = sections.header_at(header.e_shstrndx);
    if (!fits(image.size(), names.sh_offset, names.sh_size)) {
      return fail("{}: broken section names", what);
    }
    sections.names_ = text(image.subspan(names.sh_offset, names.sh_size));
    return sections;
  }

  size_t count() const { return header_.e_shnum; }
  uint64_t offset_of_header(size_t index) const {
    return header_.e_shoff + index * sizeof(Elf64_Shdr);
  }
  Elf64_Shdr header_at(size_t index) const {
    return load_le<Elf64_Shdr>(image_, offset_of_header(index));
  }
  // Index of the first section of that name, or count().
  size_t find(std::string_view name) const {
    for (size_t i = 1; i < count(); ++i) {
      const auto rest = names_.substr(std::min<size_t>(header_at(i).sh_name, names_.size()));
      if (rest.substr(0, rest.find('\0')) == name) return i;
    }
    return count();
  }
  static std::string_view text(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

 private:
  Sections(std::span<const std::byte> image, const Elf64_Ehdr& header)
      : image_(image), header_(header) {}
  std::span<const std::byte> image_;
  Elf64_Ehdr header_;
  std::string_view names_;
};

void split(std::string_view list, std::vector<std::string>& into) {
  while (!list.empty()) {
    const size_t comma = list.find(',');
    if (comma != 0) into.emplace_back(list.substr(0, comma));
    if (comma == std::string_view::npos) return;
    list.remove_prefix(comma + 1);
  }
}

}  // namespace

Result<ModuleInfo> read_module_info(std::span<const std::byte> image, const std::string& what) {
  const Sections sections = TRY(Sections::open(image, what));
  const size_t index = sections.find(".modinfo");
  if (index == sections.count()) return fail("{}: no .modinfo section", what);
  const auto section = sections.header_at(index);
  if (!fits(image.size(), section.sh_offset, section.sh_size)) {
    return fail("{}: .modinfo lies outside the file", what);
  }
  ModuleInfo info;
  std::string_view rest = Sections::text(image.subspan(section.sh_offset, section.sh_size));
  while (!rest.empty()) {
    const std::string_view field = rest.substr(0, rest.find('\0'));
    rest.remove_prefix(std::min(field.size() + 1, rest.size()));
    const size_t sign = field.find('=');
    if (sign == std::string_view::npos) continue;
    const auto key = field.substr(0, sign);
    const auto value = field.substr(sign + 1);
    if (key == "name") info.name = value;
    if (key == "depends") split(value, info.depends);
    if (key == "alias") info.aliases.emplace_back(value);
  }
  if (info.name.empty()) return fail("{}: .modinfo has no name", what);
  return info;
}

Result<void> slim_module(std::vector<std::byte>& image, const std::string& what) {
  // struct module_signature ends the file, then this text (Linux scripts/sign-file.c).
  constexpr std::string_view kMarker = "~Module signature appended~\n";
  constexpr size_t kTrailerBytes = 12;  // algo, hash, id_type, 2 lengths, 3 pad, big-endian length
  const auto all = Sections::text(image);
  if (all.ends_with(kMarker) && image.size() >= kMarker.size() + kTrailerBytes) {
    const size_t trailer = image.size() - kMarker.size() - kTrailerBytes;
    const uint32_t signature_bytes = __builtin_bswap32(load_le<uint32_t>(image, trailer + 8));
    if (signature_bytes > trailer) return fail("{}: broken module signature", what);
    image.resize(trailer - signature_bytes);
  }
  const Sections sections = TRY(Sections::open(image, what));
  const size_t btf = sections.find(".BTF");
  if (btf != sections.count()) {
    // An empty section counts as none (kernel/module/main.c, find_module_sections).
    auto header = sections.header_at(btf);
    header.sh_size = 0;
    store_le(std::span<std::byte>(image), sections.offset_of_header(btf), header);
  }
  return {};
}

}  // namespace trapeze::kit
