// The agent protocol: how the host gives the guest's init its orders. Shared by both sides; no
// dependency but the language, no allocation, every length bounded.
//
// Three virtio-console ports carry it, found by name:
//   control  frames in both directions (below)
//   stdio    host to guest: the command's stdin, raw; guest to host: its stdout, raw
//   stderr   guest to host: its stderr, raw
// The guest begins each port with a Greeting; its first write blocks until the host's end is open,
// so nothing is lost. Streams have no framing, so that they can be spliced: how long each of them
// is comes over control (StdinEnd, Exited), and a receiver counts the bytes.
//
//   guest                          host
//   Greeting on each port   --->
//   Ready                   --->
//                           <---   Mount (any number), Exec
//   Started or ExecFailed   --->
//                           <---   Signal, WindowSize, StdinEnd, OutputClosed (any time)
//   Exited                  --->   waits for the announced bytes on stdio and stderr
//                           <---   PowerOff
//
// Further sessions (a command in a machine that runs one already) speak the same over three vsock
// connections, which the host makes:
//
//   host                           guest
//   connects to kSessionPort  --->
//   SessionGreeting(control)  --->
//                             <---  SessionStreams: a port that this session listens on
//   connects twice to it, SessionGreeting(stdio), SessionGreeting(stderr), the same token
//                             <---  Greeting on each, Ready; from here on as above
//
// Their end leaves the machine running: PowerOff, or closing the control connection, ends just the
// session, with a SIGHUP for a command that still runs.
//
// All integers are little-endian. Either side treats a bad frame as the end of the session.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

namespace trapeze::agent {

inline constexpr std::string_view kControlPort = "org.trapeze.control";
inline constexpr std::string_view kStdioPort = "org.trapeze.stdio";
inline constexpr std::string_view kStderrPort = "org.trapeze.stderr";

inline constexpr uint32_t kMagic = 0x5a50'5254;  // "TRPZ"
inline constexpr uint16_t kVersion = 1;
// Linux takes at most a quarter of an 8 MiB stack for arguments and environment.
inline constexpr uint32_t kMaxPayloadBytes = 2 * 1024 * 1024;
inline constexpr uint32_t kMaxStrings = 64 * 1024;
inline constexpr size_t kSeedBytes = 32;

enum class PortRole : uint16_t { Control = 1, Stdio = 2, Stderr = 3 };

struct Greeting {
  uint32_t magic = kMagic;
  uint16_t version = kVersion;
  PortRole role = PortRole::Control;
};
static_assert(sizeof(Greeting) == 8);

// Below 1024: in the guest only root may listen there. The guest accepts the host (CID 2) alone.
inline constexpr uint32_t kSessionPort = 1000;
inline constexpr size_t kTokenBytes = 16;

// The first bytes of the host on each connection of a further session. The token, random, says
// which connections belong together: whoever else may connect to the guest's ports cannot know it.
struct SessionGreeting {
  uint32_t magic = kMagic;
  uint16_t version = kVersion;
  PortRole role = PortRole::Control;
  uint8_t token[kTokenBytes] = {};
};
static_assert(sizeof(SessionGreeting) == 24);

struct SessionStreams {
  uint32_t magic = kMagic;
  uint16_t version = kVersion;
  uint16_t reserved = 0;
  uint32_t port = 0;
};
static_assert(sizeof(SessionStreams) == 12);

enum class FrameType : uint16_t {
  // host to guest
  Exec = 1,          // ExecHeader, then its strings
  StdinEnd = 2,      // StdinEnd
  Signal = 3,        // Signal
  WindowSize = 4,    // WindowSize
  PowerOff = 5,      // no payload
  OutputClosed = 6,  // OutputClosed
  Mount = 7,         // MountHeader, then its strings; before Exec, which reports what failed
  // guest to host
  Ready = 16,       // no payload: init runs, the ports are open
  Started = 17,     // Started: the command runs (its exec succeeded)
  ExecFailed = 18,  // ExecFailed
  Exited = 19,      // Exited
};

struct FrameHeader {
  uint32_t magic = kMagic;
  FrameType type = FrameType::Ready;
  uint16_t version = kVersion;
  uint32_t payload_bytes = 0;
  uint32_t reserved = 0;
};
static_assert(sizeof(FrameHeader) == 16);

enum ExecFlags : uint32_t {
  kExecOnTerminal = 1,    // run on a pseudo-terminal; stdout and stderr are one stream, on stdio
  kExecDefaultShell = 2,  // no arguments: init starts its shell
};

// Followed by argc + envc + 1 strings, each ended by a zero byte: argv, "KEY=value" pairs, cwd.
// An empty cwd means "the home directory". Exactly payload_bytes are used.
struct ExecHeader {
  uint32_t flags = 0;
  uint32_t argc = 0;
  uint32_t envc = 0;
  uint16_t rows = 0;
  uint16_t columns = 0;
  uint8_t seed[kSeedBytes] = {};  // credited to the guest's random pool before the command starts
};
static_assert(sizeof(ExecHeader) == 48);

enum MountFlags : uint32_t {
  kMountReadOnly = 1,
};

// A shared folder. Followed by two strings, each ended by a zero byte: its virtio-fs tag, and the
// absolute path in the guest where it is to be; folders on the way are made.
struct MountHeader {
  uint32_t flags = 0;
  uint32_t reserved = 0;
};
static_assert(sizeof(MountHeader) == 8);

struct StdinEnd {
  uint64_t total_bytes = 0;  // stdin ends after this many bytes in all
};
struct Signal {
  uint32_t number = 0;  // for the command's process group
};
struct WindowSize {
  uint16_t rows = 0;
  uint16_t columns = 0;
};
// Nobody reads that stream any more: the guest closes its end, so that whoever writes gets SIGPIPE,
// and the host no longer waits for the stream's bytes. Its role names the port.
struct OutputClosed {
  PortRole role = PortRole::Stdio;
  uint16_t reserved = 0;
};
struct Started {
  uint32_t pid = 0;
};
enum class ExecStage : uint32_t { Setup = 1, WorkingDirectory = 2, Exec = 3, Mount = 4 };
struct ExecFailed {
  ExecStage stage = ExecStage::Setup;
  uint32_t os_error = 0;  // Linux errno
  uint32_t mount = 0;     // ExecStage::Mount: which of the Mount orders, from 0
};
enum class EndKind : uint32_t { Exited = 1, Signaled = 2 };
struct Exited {
  EndKind kind = EndKind::Exited;
  uint32_t value = 0;  // exit status, or signal number
  uint64_t stdout_bytes = 0;
  uint64_t stderr_bytes = 0;
};
static_assert(sizeof(Exited) == 24);

// True when `header` may begin a frame. The payload length is then within bounds.
constexpr bool is_sound(const FrameHeader& header) {
  return header.magic == kMagic && header.version == kVersion && header.reserved == 0 &&
         header.payload_bytes <= kMaxPayloadBytes;
}

constexpr bool is_sound(const Greeting& greeting, PortRole role) {
  return greeting.magic == kMagic && greeting.version == kVersion && greeting.role == role;
}

constexpr bool is_sound(const SessionGreeting& greeting) {
  return greeting.magic == kMagic && greeting.version == kVersion;
}

constexpr bool is_sound(const SessionStreams& streams) {
  return streams.magic == kMagic && streams.version == kVersion && streams.reserved == 0;
}

// Copies a fixed-size payload; false when the size is not exactly right.
template <typename T>
bool decode(std::span<const std::byte> payload, T& value) {
  if (payload.size() != sizeof(T)) return false;
  std::memcpy(&value, payload.data(), sizeof(T));
  return true;
}

// Walks zero-ended strings in a payload.
class StringCursor {
 public:
  explicit StringCursor(std::span<const std::byte> bytes) : rest_(bytes) {}
  // The next string (without its zero), or a view with a null data() when there is none.
  std::string_view next() {
    const void* end = rest_.empty() ? nullptr : std::memchr(rest_.data(), 0, rest_.size());
    if (end == nullptr) return {};
    const auto length = static_cast<size_t>(static_cast<const std::byte*>(end) - rest_.data());
    const std::string_view text(reinterpret_cast<const char*>(rest_.data()), length);
    rest_ = rest_.subspan(length + 1);
    return text;
  }
  bool is_at_end() const { return rest_.empty(); }

 private:
  std::span<const std::byte> rest_;
};

// Checks an Exec payload as a whole: header, string count, exact length. On success `strings` walks
// argv, environment and working directory.
inline bool decode_exec(std::span<const std::byte> payload, ExecHeader& header,
                        std::span<const std::byte>& strings) {
  if (payload.size() < sizeof(ExecHeader)) return false;
  std::memcpy(&header, payload.data(), sizeof(header));
  strings = payload.subspan(sizeof(header));
  if (header.argc > kMaxStrings || header.envc > kMaxStrings) return false;
  if (header.argc == 0 && (header.flags & kExecDefaultShell) == 0) return false;
  StringCursor cursor(strings);
  const uint32_t count = header.argc + header.envc + 1;
  for (uint32_t i = 0; i < count; ++i) {
    if (cursor.next().data() == nullptr) return false;
  }
  return cursor.is_at_end();
}

// Checks a Mount payload as a whole.
inline bool decode_mount(std::span<const std::byte> payload, MountHeader& header,
                         std::string_view& tag, std::string_view& path) {
  if (payload.size() < sizeof(MountHeader)) return false;
  std::memcpy(&header, payload.data(), sizeof(header));
  StringCursor cursor(payload.subspan(sizeof(header)));
  tag = cursor.next();
  path = cursor.next();
  return cursor.is_at_end() && path.data() != nullptr && !tag.empty() && path.starts_with('/') &&
         header.reserved == 0 && (header.flags & ~uint32_t{kMountReadOnly}) == 0;
}

}  // namespace trapeze::agent
