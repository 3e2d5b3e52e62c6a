// Frames of a hostile guest, as the helper looks at them before libslirp does.
#include <cstring>
#include <vector>

#include "backend/net/helper/guest_frame.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trapeze;
  uint16_t place[2] = {};
  std::memcpy(place, data, size < sizeof(place) ? size : sizeof(place));
  std::vector<std::byte> frame(size);
  if (size != 0) std::memcpy(frame.data(), data, size);
  (void)complete_checksum(frame, place[0], place[1]);
  (void)classify_frame(frame);
  GatewayGuard guard(0x0a00'0200);
  guard.note_to_guest(frame);
  (void)guard.may_pass(frame);
  return 0;
}
