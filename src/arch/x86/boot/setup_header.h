// The setup header of a bzImage (Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header").
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/result.h"

namespace trapeze::boot {

// File offsets, which are also the offsets in the zero page.
namespace setup {
inline constexpr size_t kStart = 0x1f1;
inline constexpr size_t kBootFlag = 0x1fe;
inline constexpr size_t kJumpLength = 0x201;  // the header ends this many bytes after 0x202
inline constexpr size_t kMagic = 0x202;
inline constexpr size_t kVersion = 0x206;
inline constexpr size_t kTypeOfLoader = 0x210;
inline constexpr size_t kLoadFlags = 0x211;
inline constexpr size_t kRamdiskImage = 0x218;
inline constexpr size_t kRamdiskSize = 0x21c;
inline constexpr size_t kCmdLinePtr = 0x228;
inline constexpr size_t kInitrdAddrMax = 0x22c;
inline constexpr size_t kKernelAlignment = 0x230;
inline constexpr size_t kXloadFlags = 0x236;
inline constexpr size_t kCmdlineSize = 0x238;
inline constexpr size_t kPayloadOffset = 0x248;
inline constexpr size_t kPayloadLength = 0x24c;
inline constexpr size_t kSetupData = 0x250;
inline constexpr size_t kPrefAddress = 0x258;
inline constexpr size_t kInitSize = 0x260;
inline constexpr size_t kMaxEnd = 0x290;  // the zero page has other things from here

inline constexpr uint16_t kBootFlagValue = 0xaa55;
inline constexpr uint32_t kMagicValue = 0x5372'6448;  // "HdrS"
inline constexpr uint8_t kLoadedHigh = 1U << 0;
inline constexpr uint8_t kKaslrFlag = 1U << 1;
inline constexpr uint16_t kXlfKernel64 = 1U << 0;
}  // namespace setup

bool looks_like_bzimage(std::span<const std::byte> image);

class SetupHeader {
 public:
  // Fails below protocol 2.08, which brought the payload fields, and on a header that is cut off.
  static Result<SetupHeader> parse(std::span<const std::byte> image, std::string_view name);

  uint16_t version() const;
  uint64_t initrd_limit() const;  // first address that an initial RAM disk may not use
  uint64_t cmdline_max_bytes() const;
  bool has_64bit_entry() const;
  uint64_t preferred_address() const;
  uint64_t init_size() const;
  // The protected-mode part of the file, and the compressed kernel in it.
  std::span<const std::byte> protected_mode_code() const { return code_; }
  std::span<const std::byte> payload() const { return payload_; }
  // Bytes setup::kStart.. as they go to the same offset of the zero page.
  std::span<const std::byte> raw() const {
    return std::span(fields_).subspan(setup::kStart, end_ - setup::kStart);
  }

 private:
  std::array<std::byte, setup::kMaxEnd> fields_{};  // by file offset, zero outside of the header
  size_t end_ = 0;
  std::span<const std::byte> code_;
  std::span<const std::byte> payload_;
};

}  // namespace trapeze::boot
