#include "arch/x86/boot/setup_header.h"

#include <algorithm>
#include <cstring>

#include "base/bytes.h"

namespace trapeze::boot {
namespace {

constexpr uint64_t kSectorBytes = 512;
constexpr uint64_t kDefaultSetupSectors = 4;  // "if the setup_sects field contains 0"
constexpr uint16_t kVersion208 = 0x208;
constexpr uint16_t kVersion210 = 0x20a;  // brought pref_address and init_size
constexpr uint16_t kVersion212 = 0x20c;  // brought xloadflags

}  // namespace

bool looks_like_bzimage(std::span<const std::byte> image) {
  return image.size() >= setup::kMagic + sizeof(uint32_t) &&
         load_le<uint16_t>(image, setup::kBootFlag) == setup::kBootFlagValue &&
         load_le<uint32_t>(image, setup::kMagic) == setup::kMagicValue;
}

Result<SetupHeader> SetupHeader::parse(std::span<const std::byte> image, std::string_view name) {
  if (!looks_like_bzimage(image)) return fail("{}: not a Linux bzImage", name);
  SetupHeader header;
  const uint64_t claimed_end =
      setup::kMagic + uint64_t{load_le<uint8_t>(image, setup::kJumpLength)};
  header.end_ = std::min<uint64_t>({claimed_end, setup::kMaxEnd, image.size()});
  if (header.end_ < setup::kVersion + sizeof(uint16_t)) {
    return fail("{}: the setup header of the bzImage is cut off", name);
  }
  std::memcpy(header.fields_.data() + setup::kStart, image.data() + setup::kStart,
              header.end_ - setup::kStart);
  const uint16_t version = header.version();
  if (version < kVersion208) {
    return fail("{}: boot protocol {}.{:02}, but at least 2.08 (Linux 2.6.26) is needed", name,
                version >> 8, version & 0xff);
  }
  if (header.end_ < setup::kPayloadLength + sizeof(uint32_t)) {
    return fail("{}: the setup header of the bzImage is cut off", name);
  }

  const uint64_t sectors = load_le<uint8_t>(header.fields_, setup::kStart);
  const uint64_t code_at = ((sectors != 0 ? sectors : kDefaultSetupSectors) + 1) * kSectorBytes;
  if (code_at >= image.size()) {
    return fail("{}: truncated: the kernel starts at byte {}, the file has {}", name, code_at,
                image.size());
  }
  header.code_ = image.subspan(code_at);
  const uint64_t payload_at = load_le<uint32_t>(header.fields_, setup::kPayloadOffset);
  const uint64_t payload_bytes = load_le<uint32_t>(header.fields_, setup::kPayloadLength);
  if (!fits(header.code_.size(), payload_at, payload_bytes)) {
    return fail("{}: truncated: the compressed kernel ends at byte {}, the file has {}", name,
                code_at + payload_at + payload_bytes, image.size());
  }
  header.payload_ = header.code_.subspan(payload_at, payload_bytes);
  return header;
}

uint16_t SetupHeader::version() const { return load_le<uint16_t>(fields_, setup::kVersion); }

uint64_t SetupHeader::initrd_limit() const {
  return uint64_t{load_le<uint32_t>(fields_, setup::kInitrdAddrMax)} + 1;
}

uint64_t SetupHeader::cmdline_max_bytes() const {
  return load_le<uint32_t>(fields_, setup::kCmdlineSize);
}

bool SetupHeader::has_64bit_entry() const {
  return version() >= kVersion212 &&
         (load_le<uint16_t>(fields_, setup::kXloadFlags) & setup::kXlfKernel64) != 0;
}

uint64_t SetupHeader::preferred_address() const {
  return version() >= kVersion210 ? load_le<uint64_t>(fields_, setup::kPrefAddress) : 0;
}

uint64_t SetupHeader::init_size() const {
  return version() >= kVersion210 ? load_le<uint32_t>(fields_, setup::kInitSize) : 0;
}

}  // namespace trapeze::boot
