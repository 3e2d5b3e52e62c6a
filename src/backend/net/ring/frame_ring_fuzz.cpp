// A writer that puts anything into the shared memory. The reader may find the ring broken, and
// nothing worse: no read behind the ring, no endless work.
#include <algorithm>
#include <cstring>
#include <vector>

#include "backend/net/ring/frame_ring.h"
#include "base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trapeze;
  using Status = FrameRingReader::Status;
  // The control words as they come, then bytes for the frames: at their begin, and at their end.
  constexpr size_t kWords = 4 * sizeof(uint64_t);
  if (size < kWords) return 0;
  auto reader = std::move(FrameRingReader::create()).value();
  auto shared = std::move(Mapping::create(frame_ring::kControlBytes + frame_ring::kBytes,
                                          PROT_READ | PROT_WRITE, MAP_SHARED, reader.memory().get(),
                                          0, "fuzz"))
                    .value();
  auto& control = *reinterpret_cast<frame_ring::Control*>(shared.data());
  std::byte* const frames = shared.data() + frame_ring::kControlBytes;
  const size_t bytes = std::min<size_t>(size - kWords, frame_ring::kBytes);
  std::memcpy(frames, data + kWords, bytes);
  std::memcpy(frames + frame_ring::kBytes - bytes, data + kWords, bytes);
  std::vector<std::byte> room(4096);
  const iovec part{room.data(), room.size()};
  bool is_broken = false;
  for (size_t word = 0; word < 4 && !is_broken; ++word) {
    uint64_t written = 0;
    std::memcpy(&written, data + word * sizeof(written), sizeof(written));
    control.written.store(written % (4 * frame_ring::kBytes));
    control.wants_room.store(static_cast<uint32_t>(written));
    // No more frames than the ring has room for records.
    for (size_t left = 2 * frame_ring::kBytes / 16; !is_broken; --left) {
      CHECK(left != 0);
      const auto taken = reader.take({&part, 1});
      CHECK(taken.bytes <= room.size());
      (void)reader.room_is_wanted();
      is_broken = taken.status == Status::Broken;
      if (taken.status == Status::Empty) break;
    }
  }
  return 0;
}
