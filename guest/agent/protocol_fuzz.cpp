// Whatever the other side sends, decoding stays within the payload.
#include <cstdlib>

#include "agent/protocol.h"

using namespace trapeze::agent;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> payload(reinterpret_cast<const std::byte*>(data), size);
  ExecHeader header;
  std::span<const std::byte> strings;
  if (decode_exec(payload, header, strings)) {
    StringCursor cursor(strings);
    for (uint32_t i = 0; i < header.argc + header.envc + 1; ++i) {
      const auto text = cursor.next();
      if (text.data() == nullptr) std::abort();
    }
    if (!cursor.is_at_end()) std::abort();
  }
  MountHeader mount;
  std::string_view tag;
  std::string_view path;
  if (decode_mount(payload, mount, tag, path) && (tag.empty() || path.front() != '/')) std::abort();
  return 0;
}
