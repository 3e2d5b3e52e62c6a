// Crafted kernel images for the tests and fuzzers of this folder.
#pragma once

#include <elf.h>
#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "arch/x86/boot/boot.h"
#include "arch/x86/boot/setup_header.h"
#include "arch/x86/layout.h"
#include "base/bytes.h"
#include "base/units.h"

namespace trapeze::boot::test {

using Bytes = std::vector<std::byte>;

inline Bytes bytes_of_text(std::string_view text) {
  const auto view = std::as_bytes(std::span(text));
  return {view.begin(), view.end()};
}

// Reproducible bytes that compress a little.
inline Bytes pattern(size_t size, uint32_t seed) {
  Bytes bytes(size);
  uint32_t state = seed * 2654435761U + 1;
  for (std::byte& byte : bytes) {
    state = state * 1664525U + 1013904223U;
    byte = static_cast<std::byte>((state >> 24) & 0x3f);
  }
  return bytes;
}

template <typename T>
void put(Bytes& bytes, size_t at, const T& value) {
  if (bytes.size() < at + sizeof(T)) bytes.resize(at + sizeof(T));
  std::memcpy(bytes.data() + at, &value, sizeof(T));
}

inline void append(Bytes& to, const Bytes& from) { to.insert(to.end(), from.begin(), from.end()); }

struct TestSegment {
  uint64_t paddr = 0;
  Bytes content;
  uint64_t bss_bytes = 0;
  uint64_t vaddr_offset = 0;  // vaddr = paddr + this
};

struct TestNote {
  std::string owner;
  uint32_t type = 0;
  Bytes value;
};

inline Bytes encode_notes(const std::vector<TestNote>& notes) {
  Bytes bytes;
  for (const TestNote& note : notes) {
    const Elf64_Nhdr header{static_cast<uint32_t>(note.owner.size() + 1),
                            static_cast<uint32_t>(note.value.size()), note.type};
    put(bytes, bytes.size(), header);
    append(bytes, bytes_of_text(note.owner));
    bytes.push_back(std::byte{0});
    bytes.resize(align_up(bytes.size(), 4));
    append(bytes, note.value);
    bytes.resize(align_up(bytes.size(), 4));
  }
  return bytes;
}

// Segments start at multiples of 4 KiB in the file, the notes follow them.
template <typename Ehdr, typename Phdr, uint8_t Class, uint16_t Machine>
Bytes make_elf(uint64_t entry, const std::vector<TestSegment>& segments,
               const std::vector<TestNote>& notes = {}) {
  Bytes file(kPageSize);
  Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = Class;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  header.e_type = ET_EXEC;
  header.e_machine = Machine;
  header.e_version = EV_CURRENT;
  header.e_entry = static_cast<decltype(header.e_entry)>(entry);
  header.e_phoff = sizeof(Ehdr);
  header.e_ehsize = sizeof(Ehdr);
  header.e_phentsize = sizeof(Phdr);
  size_t at = sizeof(Ehdr);
  const auto add = [&](uint32_t type, const Bytes& content, const TestSegment& segment) {
    Phdr phdr{};
    phdr.p_type = type;
    phdr.p_offset = static_cast<decltype(phdr.p_offset)>(file.size());
    phdr.p_paddr = static_cast<decltype(phdr.p_paddr)>(segment.paddr);
    phdr.p_vaddr = static_cast<decltype(phdr.p_vaddr)>(segment.paddr + segment.vaddr_offset);
    phdr.p_filesz = static_cast<decltype(phdr.p_filesz)>(content.size());
    phdr.p_memsz = static_cast<decltype(phdr.p_memsz)>(content.size() + segment.bss_bytes);
    phdr.p_align = type == PT_NOTE ? 4 : kPageSize;
    put(file, at, phdr);
    at += sizeof(Phdr);
    ++header.e_phnum;
    append(file, content);
    file.resize(align_up(file.size(), kPageSize));
  };
  for (const TestSegment& segment : segments) add(PT_LOAD, segment.content, segment);
  if (!notes.empty()) add(PT_NOTE, encode_notes(notes), {});
  put(file, 0, header);
  return file;
}

inline Bytes make_elf64(uint64_t entry, const std::vector<TestSegment>& segments,
                        const std::vector<TestNote>& notes = {}) {
  return make_elf<Elf64_Ehdr, Elf64_Phdr, ELFCLASS64, EM_X86_64>(entry, segments, notes);
}
inline Bytes make_elf32(uint64_t entry, const std::vector<TestSegment>& segments,
                        const std::vector<TestNote>& notes = {}) {
  return make_elf<Elf32_Ehdr, Elf32_Phdr, ELFCLASS32, EM_386>(entry, segments, notes);
}

inline TestNote pvh_note(uint32_t entry) {
  Bytes value;
  put(value, 0, entry);
  return {"Xen", 18, value};
}
inline TestNote linux_note() { return {"Linux", 0x100, bytes_of_text("salt")}; }

inline Bytes pack_gzip(const Bytes& plain) {
  z_stream stream{};
  deflateInit2(&stream, 9, Z_DEFLATED, 16 + MAX_WBITS, 9, Z_DEFAULT_STRATEGY);
  Bytes packed(plain.size() + 1024);
  stream.next_in = const_cast<Bytef*>(reinterpret_cast<const Bytef*>(plain.data()));
  stream.avail_in = static_cast<uInt>(plain.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  deflate(&stream, Z_FINISH);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

// As the kernel build does: BCJ x86 and LZMA2, CRC32 (scripts/xz_wrap.sh). With `alone`, the old
// .lzma format.
inline Bytes pack_lzma(const Bytes& plain, bool alone) {
  lzma_options_lzma options;
  lzma_lzma_preset(&options, 1);
  options.dict_size = 32 << 20;
  lzma_filter filters[] = {
      {LZMA_FILTER_X86, nullptr}, {LZMA_FILTER_LZMA2, &options}, {LZMA_VLI_UNKNOWN, nullptr}};
  lzma_stream stream = LZMA_STREAM_INIT;
  const lzma_ret status = alone ? lzma_alone_encoder(&stream, &options)
                                : lzma_stream_encoder(&stream, filters, LZMA_CHECK_CRC32);
  Bytes packed(plain.size() * 2 + 4096);
  if (status != LZMA_OK) return {};
  stream.next_in = reinterpret_cast<const uint8_t*>(plain.data());
  stream.avail_in = plain.size();
  stream.next_out = reinterpret_cast<uint8_t*>(packed.data());
  stream.avail_out = packed.size();
  CHECK(lzma_code(&stream, LZMA_FINISH) == LZMA_STREAM_END);
  packed.resize(stream.total_out);
  lzma_end(&stream);
  return packed;
}
inline Bytes pack_xz(const Bytes& plain) { return pack_lzma(plain, false); }
inline Bytes pack_lzma_alone(const Bytes& plain) { return pack_lzma(plain, true); }

inline Bytes pack_lz4(const Bytes& plain) {
  Bytes packed;
  put(packed, 0, uint32_t{0x184c2102});
  for (size_t done = 0; done < plain.size(); done += 8 * MiB) {
    const auto size = static_cast<int>(std::min<size_t>(plain.size() - done, 8 * MiB));
    Bytes block(static_cast<size_t>(LZ4_compressBound(size)));
    const int length = LZ4_compress_default(reinterpret_cast<const char*>(plain.data() + done),
                                            reinterpret_cast<char*>(block.data()), size,
                                            static_cast<int>(block.size()));
    block.resize(static_cast<size_t>(length));
    put(packed, packed.size(), static_cast<uint32_t>(length));
    append(packed, block);
  }
  return packed;
}

// Without the content size in the frame, as `zstd` writes it from a pipe.
inline Bytes pack_zstd(const Bytes& plain) {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
  Bytes packed(ZSTD_compressBound(plain.size()));
  packed.resize(ZSTD_compress2(context, packed.data(), packed.size(), plain.data(), plain.size()));
  ZSTD_freeCCtx(context);
  return packed;
}

// The build appends the unpacked size to all formats but gzip, which ends with it anyway.
inline Bytes with_size(Bytes packed, const Bytes& plain) {
  put(packed, packed.size(), static_cast<uint32_t>(plain.size()));
  return packed;
}

struct BzImageOptions {
  uint16_t version = 0x20f;
  uint16_t xloadflags = 1;  // XLF_KERNEL_64
  uint32_t cmdline_size = 2047;
  uint32_t initrd_addr_max = 0x7fff'ffff;
  uint64_t pref_address = 0x100'0000;
  uint32_t init_size = 0x80'0000;
};

inline constexpr size_t kTestSetupBytes = 5 * 512;
inline constexpr size_t kTestPayloadOffset = 0x400;  // in the protected-mode part

inline Bytes make_bzimage(const Bytes& payload, const BzImageOptions& options = {}) {
  Bytes image(kTestSetupBytes + kTestPayloadOffset);
  put(image, setup::kStart, uint8_t{4});
  put(image, setup::kBootFlag, uint16_t{0xaa55});
  put(image, 0x200, uint8_t{0xeb});
  put(image, setup::kJumpLength, uint8_t{0x6a});
  put(image, setup::kMagic, setup::kMagicValue);
  put(image, setup::kVersion, options.version);
  put(image, setup::kLoadFlags, uint8_t{0x03});
  put(image, setup::kInitrdAddrMax, options.initrd_addr_max);
  put(image, setup::kKernelAlignment, uint32_t{0x20'0000});
  put(image, setup::kXloadFlags, options.xloadflags);
  put(image, setup::kCmdlineSize, options.cmdline_size);
  put(image, setup::kPayloadOffset, static_cast<uint32_t>(kTestPayloadOffset));
  put(image, setup::kPayloadLength, static_cast<uint32_t>(payload.size()));
  put(image, setup::kSetupData, uint64_t{0x1234});
  put(image, setup::kPrefAddress, options.pref_address);
  put(image, setup::kInitSize, options.init_size);
  append(image, payload);
  return image;
}

// Two segments, BSS behind the second, with trailing bytes as relocations are.
inline std::vector<TestSegment> linux_segments() {
  return {{0x100'0000, pattern(300'000, 1), 0, 0xffff'ffff'8000'0000},
          {0x120'0000, pattern(50'000, 2), 70'000, 0xffff'ffff'8000'0000}};
}
inline Bytes linux_elf() {
  Bytes elf = make_elf64(0x100'0000, linux_segments(), {linux_note(), pvh_note(0x100'0040)});
  append(elf, pattern(10'000, 3));
  return elf;
}

inline std::unique_ptr<GuestMemory> make_memory(uint64_t size_bytes) {
  const auto ranges = layout::ram_ranges(size_bytes);
  auto memory = GuestMemory::create(ranges);
  CHECK(memory.has_value());
  return std::move(memory).value();
}

inline Bytes read_guest(const GuestMemory& memory, Gpa gpa, size_t size) {
  Bytes bytes(size);
  CHECK(memory.read(gpa, bytes));
  return bytes;
}

inline std::string error_of(const Result<LoadedKernel>& result) {
  return result ? "(no error)" : result.error().message;
}

}  // namespace trapeze::boot::test
