// What goes over a machine's control socket (run_directory.h): packets (SOCK_SEQPACKET), each a
// header and a payload. A connection begins with a request of the client:
//
//   request        payload            answers
//   WaitAgent      -                  Done once the guest's agent takes commands, or Failed
//   Stop           StopOrder          Done; then the connection ends with the machine
//   Console        WindowSize         Data: the scrollback, then what comes; the client sends Input
//                                     and Resize; the connection ends with the machine
//   Balloon        BalloonOrder       Text: lines of a name and a number; or Failed
//
// Failed and Text carry a text. Both ends belong to one user (SO_PEERCRED), or the client is root;
// even so, each packet is checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

namespace trapeze::manage {

inline constexpr uint32_t kMagic = 0x4d5a'5254;  // "TRZM"
inline constexpr uint16_t kVersion = 1;
inline constexpr size_t kMaxPacketBytes = 32 * 1024;

enum class PacketType : uint16_t {
  // client to machine
  WaitAgent = 1,
  Stop = 2,
  Console = 3,
  Input = 4,
  Resize = 5,
  Balloon = 6,
  // machine to client
  Done = 32,
  Failed = 33,
  Data = 34,
  Text = 35,
};

struct PacketHeader {
  uint32_t magic = kMagic;
  uint16_t version = kVersion;
  PacketType type = PacketType::Done;
};
static_assert(sizeof(PacketHeader) == 8);
inline constexpr size_t kMaxPayloadBytes = kMaxPacketBytes - sizeof(PacketHeader);

struct StopOrder {
  uint32_t timeout_ms = 0;  // before force is used
};

struct WindowSize {
  uint16_t rows = 0;  // 0: the client has no terminal
  uint16_t columns = 0;
};

struct BalloonOrder {
  uint32_t sets_size = 0;  // 0: only tell
  uint32_t reserved = 0;
  uint64_t size_bytes = 0;
};

struct Packet {
  PacketType type = PacketType::Done;
  std::span<const std::byte> payload;
};

inline std::optional<Packet> parse_packet(std::span<const std::byte> bytes) {
  PacketHeader header;
  if (bytes.size() < sizeof(header)) return std::nullopt;
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.magic != kMagic || header.version != kVersion) return std::nullopt;
  return Packet{.type = header.type, .payload = bytes.subspan(sizeof(header))};
}

// A payload of fixed size; false when the size is not exactly right.
template <typename T>
bool decode(std::span<const std::byte> payload, T& value) {
  if (payload.size() != sizeof(T)) return false;
  std::memcpy(&value, payload.data(), sizeof(T));
  return true;
}

}  // namespace trapeze::manage
