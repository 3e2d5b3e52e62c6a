#include "arch/x86/boot/decompress.h"

#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <vector>

#include "base/bytes.h"
#include "base/mapping.h"
#include "base/units.h"

namespace trapeze::boot {
namespace {

using Bytes = std::span<const std::byte>;

struct Magic {
  std::array<uint8_t, 6> bytes;
  size_t length;
  Compression compression;
};
constexpr Magic kMagics[] = {
    {{0x7f, 'E', 'L', 'F'}, 4, Compression::None},
    {{0x1f, 0x8b}, 2, Compression::Gzip},
    {{0xfd, '7', 'z', 'X', 'Z', 0x00}, 6, Compression::Xz},
    {{0x5d, 0x00, 0x00}, 3, Compression::Lzma},
    {{0x02, 0x21, 0x4c, 0x18}, 4, Compression::Lz4},  // the legacy frame
    {{0x28, 0xb5, 0x2f, 0xfd}, 4, Compression::Zstd},
    {{'B', 'Z', 'h'}, 3, Compression::Bzip2},
    {{0x89, 'L', 'Z', 'O'}, 4, Compression::Lzo},
};

// The dictionary of a kernel packed with xz is 32 MiB, since Linux 6.12 128 MiB.
constexpr uint64_t kLzmaMemoryLimit = 256 * MiB;
// What the streaming decoders hand on at a time: small enough to stay in the processor's cache.
constexpr size_t kChunkBytes = 128 * KiB;
// Block size of the LZ4 legacy frame (LZ4 frame format, "Legacy frame").
constexpr uint64_t kLz4BlockBytes = 8 * MiB;

auto damaged(std::string_view name, Compression compression, std::string_view why) {
  return fail("{}: the {} payload is damaged: {}", name, name_of(compression), why);
}

uInt zlib_size(size_t size) {
  return static_cast<uInt>(std::min<size_t>(size, std::numeric_limits<uInt>::max()));
}

Result<void> inflate_all(z_stream& stream, Bytes packed, std::string_view name, OutputSink& sink) {
  std::vector<std::byte> chunk(kChunkBytes);
  for (;;) {
    if (stream.avail_in == 0) {
      stream.avail_in = zlib_size(packed.size());
      packed = packed.subspan(stream.avail_in);
    }
    stream.next_out = reinterpret_cast<Bytef*>(chunk.data());
    stream.avail_out = static_cast<uInt>(chunk.size());
    const int status = ::inflate(&stream, Z_NO_FLUSH);
    TRY(sink.put(std::span(chunk).first(chunk.size() - stream.avail_out)));
    if (status == Z_STREAM_END) return {};
    if (status == Z_BUF_ERROR) return damaged(name, Compression::Gzip, "it ends too early");
    if (status != Z_OK) {
      return damaged(name, Compression::Gzip, stream.msg != nullptr ? stream.msg : "bad data");
    }
  }
}

Result<void> decompress_gzip(Bytes packed, std::string_view name, OutputSink& sink) {
  z_stream stream{};
  // zlib does not write to its input, it only lacks the const.
  stream.next_in = const_cast<Bytef*>(reinterpret_cast<const Bytef*>(packed.data()));
  // 16: expect a gzip header and check the CRC (zlib.h, inflateInit2).
  if (::inflateInit2(&stream, 16 + MAX_WBITS) != Z_OK) {
    return fail("{}: no memory to unpack the kernel", name);
  }
  Result<void> result = inflate_all(stream, packed, name, sink);
  ::inflateEnd(&stream);
  return result;
}

// Allocator for liblzma: a mapping each, with its size in the page before it. The dictionary is
// large, and a freed block of that size would raise malloc's mmap threshold for good.
void* lzma_map(void* /*opaque*/, size_t count, size_t size) {
  const size_t total = count * size + kPageSize;  // liblzma passes count 1
  void* block = ::mmap(nullptr, total, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (block == MAP_FAILED) return nullptr;
  std::memcpy(block, &total, sizeof(total));
  return static_cast<std::byte*>(block) + kPageSize;
}
void lzma_unmap(void* /*opaque*/, void* data) {
  if (data == nullptr) return;
  std::byte* block = static_cast<std::byte*>(data) - kPageSize;
  size_t total = 0;
  std::memcpy(&total, block, sizeof(total));
  ::munmap(block, total);
}

std::string_view lzma_reason(lzma_ret status) {
  if (status == LZMA_MEM_ERROR) return "no memory";
  if (status == LZMA_MEMLIMIT_ERROR) return "its dictionary is too large";
  if (status == LZMA_BUF_ERROR) return "it ends too early";
  if (status == LZMA_OPTIONS_ERROR) return "it uses unknown options";
  return "bad data";
}

Result<void> lzma_all(lzma_stream& stream, Compression compression, std::string_view name,
                      OutputSink& sink) {
  std::vector<std::byte> chunk(kChunkBytes);
  for (;;) {
    stream.next_out = reinterpret_cast<uint8_t*>(chunk.data());
    stream.avail_out = chunk.size();
    const lzma_ret status = ::lzma_code(&stream, LZMA_FINISH);
    TRY(sink.put(std::span(chunk).first(chunk.size() - stream.avail_out)));
    if (status == LZMA_STREAM_END) return {};
    if (status != LZMA_OK) return damaged(name, compression, lzma_reason(status));
  }
}

Result<void> decompress_lzma(Compression compression, Bytes packed, std::string_view name,
                             OutputSink& sink) {
  const lzma_allocator allocator = {lzma_map, lzma_unmap, nullptr};
  lzma_stream stream = LZMA_STREAM_INIT;
  stream.allocator = &allocator;
  stream.next_in = reinterpret_cast<const uint8_t*>(packed.data());
  stream.avail_in = packed.size();
  const lzma_ret status = compression == Compression::Xz
                              ? ::lzma_stream_decoder(&stream, kLzmaMemoryLimit, 0)
                              : ::lzma_alone_decoder(&stream, kLzmaMemoryLimit);
  Result<void> result = status == LZMA_OK
                            ? lzma_all(stream, compression, name, sink)
                            : Result<void>(damaged(name, compression, lzma_reason(status)));
  ::lzma_end(&stream);
  return result;
}

Result<void> decompress_lz4(Bytes packed, std::string_view name, OutputSink& sink) {
  const Mapping block = TRY(Mapping::anonymous(kLz4BlockBytes, "unpacking the kernel"));
  ::madvise(block.data(), block.size(), MADV_HUGEPAGE);  // 4 faults instead of 2048
  uint64_t at = sizeof(uint32_t);                        // behind the magic number
  // The frame has no end mark. Four last bytes are the unpacked size that the build appends.
  while (packed.size() > at + sizeof(uint32_t)) {
    const auto packed_bytes = load_le<uint32_t>(packed, at);
    at += sizeof(uint32_t);
    if (packed_bytes == 0 || packed_bytes > LZ4_COMPRESSBOUND(kLz4BlockBytes) ||
        !fits(packed.size(), at, packed_bytes)) {
      return damaged(name, Compression::Lz4, "a block is longer than what is there");
    }
    const int size = ::LZ4_decompress_safe(reinterpret_cast<const char*>(packed.data() + at),
                                           reinterpret_cast<char*>(block.data()),
                                           static_cast<int>(packed_bytes), kLz4BlockBytes);
    if (size < 0) return damaged(name, Compression::Lz4, "bad data");
    TRY(sink.put(block.bytes().first(static_cast<size_t>(size))));
    at += packed_bytes;
  }
  return {};
}

// In one piece: the build packs with a window of up to 128 MiB, which a streaming decoder would
// have to hold besides. The size is in the frame, or appended by the build.
Result<void> decompress_zstd(Bytes packed, std::string_view name, OutputSink& sink) {
  const size_t frame_bytes = ::ZSTD_findFrameCompressedSize(packed.data(), packed.size());
  if (::ZSTD_isError(frame_bytes) != 0) {
    return damaged(name, Compression::Zstd, ::ZSTD_getErrorName(frame_bytes));
  }
  uint64_t size = ::ZSTD_getFrameContentSize(packed.data(), frame_bytes);
  if (size == ZSTD_CONTENTSIZE_UNKNOWN || size == ZSTD_CONTENTSIZE_ERROR) {
    const bool has_trailer = packed.size() - frame_bytes >= sizeof(uint32_t);
    size = has_trailer ? load_le<uint32_t>(packed, frame_bytes) : sink.limit_bytes();
  }
  if (size > sink.limit_bytes()) {
    return fail(
        "{}: the payload unpacks to {} bytes, which does not fit into the memory of the "
        "virtual machine",
        name, size);
  }
  if (size == 0) return damaged(name, Compression::Zstd, "it is empty");
  const Mapping staging = TRY(Mapping::anonymous(size, "unpacking the kernel"));
  ::madvise(staging.data(), staging.size(), MADV_HUGEPAGE);
  const size_t unpacked =
      ::ZSTD_decompress(staging.data(), staging.size(), packed.data(), frame_bytes);
  if (::ZSTD_isError(unpacked) != 0) {
    return damaged(name, Compression::Zstd, ::ZSTD_getErrorName(unpacked));
  }
  return sink.put(staging.bytes().first(unpacked));
}

}  // namespace

std::string_view name_of(Compression compression) {
  switch (compression) {
    case Compression::None:
      return "uncompressed";
    case Compression::Gzip:
      return "gzip";
    case Compression::Xz:
      return "xz";
    case Compression::Lzma:
      return "lzma";
    case Compression::Lz4:
      return "lz4";
    case Compression::Zstd:
      return "zstd";
    case Compression::Bzip2:
      return "bzip2";
    case Compression::Lzo:
      return "lzo";
    case Compression::Unknown:
      return "unknown";
  }
  return "unknown";
}

Compression detect_compression(Bytes packed) {
  for (const Magic& magic : kMagics) {
    if (packed.size() >= magic.length &&
        std::memcmp(packed.data(), magic.bytes.data(), magic.length) == 0) {
      return magic.compression;
    }
  }
  return Compression::Unknown;
}

bool can_decompress(Compression compression) {
  return compression != Compression::Bzip2 && compression != Compression::Lzo &&
         compression != Compression::Unknown;
}

Result<void> decompress(Compression compression, Bytes packed, std::string_view name,
                        OutputSink& sink) {
  switch (compression) {
    case Compression::None:
      return sink.put(packed);
    case Compression::Gzip:
      return decompress_gzip(packed, name, sink);
    case Compression::Xz:
    case Compression::Lzma:
      return decompress_lzma(compression, packed, name, sink);
    case Compression::Lz4:
      return decompress_lz4(packed, name, sink);
    case Compression::Zstd:
      return decompress_zstd(packed, name, sink);
    case Compression::Bzip2:
    case Compression::Lzo:
    case Compression::Unknown:
      break;
  }
  return fail("{}: the payload is packed with a method ({}) that cannot be unpacked here", name,
              name_of(compression));
}

}  // namespace trapeze::boot
