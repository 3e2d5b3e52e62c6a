// FrameRing: frames from one process to another through shared memory; one writer, one reader.
//
//   writer                                        reader
//   put() a frame, and more                       take() one after the other, until Empty
//   flush(): the reader wakes up, if it waits     Empty: wake() becomes readable when there is more
//   put() says false: full; the reader is to say  room_is_wanted(): has to be told, now that half
//   of when there is room                            the ring is free
//
// The writer may be hostile. The reader believes nothing that it reads: not where the writer is,
// not how long a frame is. A frame may change while it is copied; it is the writer's anyway. The
// memory cannot be made smaller under the reader (sealed). The writer trusts the reader.
//
// Threads: each end on one thread of its own.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/fd.h"
#include "base/mapping.h"
#include "base/result.h"

namespace trapeze {

namespace frame_ring {

inline constexpr uint32_t kBytes = 1 << 20;  // of frames, a power of two
inline constexpr uint32_t kMaxFrameBytes = 128 * 1024;
inline constexpr uint32_t kControlBytes = 4096;

// The first page of the memory; the frames are behind it. Positions count bytes for ever.
struct Control {
  alignas(64) std::atomic<uint64_t> written;  // the writer's: release, acquire by the reader
  std::atomic<uint32_t> wants_room;           // set by the writer, cleared by the reader
  alignas(64) std::atomic<uint64_t> read;     // the reader's: release, acquire by the writer
  std::atomic<uint32_t> wants_wake;           // set by the reader, cleared by the writer
};

// In front of each frame. Records begin at multiples of its size.
struct Record {
  uint32_t bytes = 0;
  uint32_t reserved = 0;
};

}  // namespace frame_ring

class FrameRingReader {
 public:
  enum class Status : uint8_t { Ok, Empty, Broken };
  struct Taken {
    Status status = Status::Empty;
    size_t bytes = 0;  // of the frame, as far as there was room: what did not fit is lost
  };

  static Result<FrameRingReader> create();

  // HOT. Broken is for good: the writer does not keep to the rules.
  Taken take(std::span<const iovec> room);
  // Once for each wish of the writer.
  bool room_is_wanted();

  // What the writer needs.
  const Fd& memory() const { return memory_; }
  const Fd& wake() const { return wake_; }
  // wake() was found readable.
  void note_wake() { is_awake_ = true; }

 private:
  FrameRingReader(Fd memory, Fd wake, Mapping mapping);
  bool rest();
  frame_ring::Control& control() const;

  Fd memory_;
  Fd wake_;  // an eventfd
  Mapping mapping_;
  uint64_t read_ = 0;
  bool is_awake_ = false;
};

class FrameRingWriter {
 public:
  // What memory() and wake() of the reader gave.
  static Result<FrameRingWriter> open(const Fd& memory, Fd wake);

  // HOT. False when there is no room now. A frame has 1 to kMaxFrameBytes.
  bool put(std::span<const iovec> frame);
  // After some of them.
  void flush();

 private:
  FrameRingWriter(Fd wake, Mapping mapping);
  bool has_room(uint64_t bytes) const;
  frame_ring::Control& control() const;

  Fd wake_;
  Mapping mapping_;
  uint64_t written_ = 0;
  uint64_t flushed_ = 0;
};

}  // namespace trapeze
