// Decompression of kernel payloads as a stream into a sink, so that a kernel goes straight to its
// place in guest memory. Hostile bytes: output is bounded by the sink, working memory by the
// limits below. Working memory is mapped and unmapped, never left in the heap: an idle VM should
// not pay for how its kernel was packed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/result.h"

namespace trapeze::boot {

// Takes the output in order.
class OutputSink {
 public:
  virtual ~OutputSink() = default;
  // Fails when no more output is wanted.
  virtual Result<void> put(std::span<const std::byte> bytes) = 0;
  // No more output than this is ever taken.
  virtual uint64_t limit_bytes() const = 0;
};

enum class Compression : uint8_t { None, Gzip, Xz, Lzma, Lz4, Zstd, Bzip2, Lzo, Unknown };
std::string_view name_of(Compression compression);
// By the magic number; None stands for an ELF file.
Compression detect_compression(std::span<const std::byte> packed);
bool can_decompress(Compression compression);

// `packed` starts with one stream of that format. Bytes after it are ignored: the kernel build
// appends the unpacked size as a 32-bit number. `name` stands in the errors.
Result<void> decompress(Compression compression, std::span<const std::byte> packed,
                        std::string_view name, OutputSink& sink);

}  // namespace trapeze::boot
