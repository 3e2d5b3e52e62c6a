#include "backend/net/ring/frame_ring.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/event_fd.h"
#include "base/fence.h"
#include "base/units.h"

namespace trapeze {

using frame_ring::Control;
using frame_ring::kBytes;
using frame_ring::kControlBytes;
using frame_ring::kMaxFrameBytes;
using frame_ring::Record;

namespace {

static_assert(sizeof(Control) <= kControlBytes);
static_assert(std::atomic<uint64_t>::is_always_lock_free);

constexpr uint64_t kMemoryBytes = kControlBytes + kBytes;
// So that a reader with a CPU of its own begins before a long turn of the writer is over.
constexpr uint64_t kMaxUnflushedBytes = 128 * KiB;

constexpr uint64_t record_bytes(uint64_t frame_bytes) {
  return sizeof(Record) + align_up(frame_bytes, sizeof(Record));
}

// The control page, the frames, and the frames again: so none of them is in two pieces.
Result<Mapping> map_ring(const Fd& memory, int frame_protection) {
  Mapping mapping =
      TRY(Mapping::create(kMemoryBytes + kBytes, PROT_NONE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0, "a ring of frames"));
  struct Part {
    uint64_t at, bytes, offset;
    int protection;
  };
  const Part parts[] = {{0, kControlBytes, 0, PROT_READ | PROT_WRITE},
                        {kControlBytes, kBytes, kControlBytes, frame_protection},
                        {kMemoryBytes, kBytes, kControlBytes, frame_protection}};
  for (const Part& part : parts) {
    if (::mmap(mapping.data() + part.at, part.bytes, part.protection, MAP_SHARED | MAP_FIXED,
               memory.get(), static_cast<off_t>(part.offset)) == MAP_FAILED) {
      return fail_errno("cannot map a ring of frames");
    }
  }
  return mapping;
}

Control& control_of(const Mapping& mapping) { return *reinterpret_cast<Control*>(mapping.data()); }

std::byte* place_of(const Mapping& mapping, uint64_t position) {
  return mapping.data() + kControlBytes + position % kBytes;
}

}  // namespace

// Reader ------------------------------------------------------------------------------------------

FrameRingReader::FrameRingReader(Fd memory, Fd wake, Mapping mapping)
    : memory_(std::move(memory)), wake_(std::move(wake)), mapping_(std::move(mapping)) {
  control().wants_wake.store(1, std::memory_order_relaxed);
}

Result<FrameRingReader> FrameRingReader::create() {
  Fd memory(::memfd_create("frames", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memory.is_open()) return fail_errno("cannot create memory for frames");
  if (::ftruncate(memory.get(), static_cast<off_t>(kMemoryBytes)) != 0 ||
      ::fcntl(memory.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return fail_errno("cannot set up memory for frames");
  }
  Fd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake.is_open()) return fail_errno("cannot create an eventfd");
  Mapping mapping = TRY(map_ring(memory, PROT_READ));
  return FrameRingReader(std::move(memory), std::move(wake), std::move(mapping));
}

Control& FrameRingReader::control() const { return control_of(mapping_); }

// HOT
FrameRingReader::Taken FrameRingReader::take(std::span<const iovec> room) {
  uint64_t written = control().written.load(std::memory_order_acquire);
  if (written == read_) {
    if (rest()) return {};
    written = control().written.load(std::memory_order_acquire);
  }
  const uint64_t there = written - read_;
  const std::byte* const record = place_of(mapping_, read_);
  // Once: the writer may change it.
  const uint32_t bytes = *reinterpret_cast<const volatile uint32_t*>(record);
  const bool is_good = there <= kBytes && bytes != 0 && bytes <= kMaxFrameBytes &&
                       there % sizeof(Record) == 0 && record_bytes(bytes) <= there;
  if (!is_good) return {.status = Status::Broken, .bytes = 0};
  const std::byte* from = record + sizeof(Record);
  size_t done = 0;
  for (const iovec& part : room) {
    const size_t step = std::min<size_t>(part.iov_len, bytes - done);
    std::memcpy(part.iov_base, from + done, step);
    done += step;
    if (done == bytes) break;
  }
  read_ += record_bytes(bytes);
  control().read.store(read_, std::memory_order_release);
  return {.status = Status::Ok, .bytes = done};
}

// True: the ring is empty, and whoever changes that makes wake() readable. As long as the ring is
// not empty, wake() is readable or wants_wake is set and the writer has not flushed yet.
bool FrameRingReader::rest() {
  if (std::exchange(is_awake_, false)) {
    uint64_t count = 0;
    [[maybe_unused]] const auto got = ::read(wake_.get(), &count, sizeof(count));
  }
  control().wants_wake.store(1, std::memory_order_relaxed);
  full_fence();  // flush() has one, too: one of us sees what the other did
  if (control().written.load(std::memory_order_relaxed) == read_) return true;
  signal_event(wake_);  // the writer may have looked before
  return false;
}

bool FrameRingReader::room_is_wanted() {
  if (control().wants_room.load(std::memory_order_relaxed) == 0) return false;
  const uint64_t there = control().written.load(std::memory_order_relaxed) - read_;
  return there <= kBytes / 2 && control().wants_room.exchange(0, std::memory_order_relaxed) != 0;
}

// Writer ------------------------------------------------------------------------------------------

FrameRingWriter::FrameRingWriter(Fd wake, Mapping mapping)
    : wake_(std::move(wake)), mapping_(std::move(mapping)) {}

Result<FrameRingWriter> FrameRingWriter::open(const Fd& memory, Fd wake) {
  Mapping mapping = TRY(map_ring(memory, PROT_READ | PROT_WRITE));
  return FrameRingWriter(std::move(wake), std::move(mapping));
}

Control& FrameRingWriter::control() const { return control_of(mapping_); }

bool FrameRingWriter::has_room(uint64_t bytes) const {
  return bytes <= kBytes - (written_ - control().read.load(std::memory_order_acquire));
}

// HOT
bool FrameRingWriter::put(std::span<const iovec> frame) {
  uint64_t bytes = 0;
  for (const iovec& part : frame) bytes += part.iov_len;
  const uint64_t needed = record_bytes(bytes);
  if (!has_room(needed)) {
    control().wants_room.store(1, std::memory_order_relaxed);
    full_fence();  // room_is_wanted() may look just now
    if (!has_room(needed)) return false;
  }
  std::byte* to = place_of(mapping_, written_);
  const Record record{.bytes = static_cast<uint32_t>(bytes), .reserved = 0};
  std::memcpy(to, &record, sizeof(record));
  to += sizeof(record);
  for (const iovec& part : frame) {
    std::memcpy(to, part.iov_base, part.iov_len);
    to += part.iov_len;
  }
  written_ += needed;
  control().written.store(written_, std::memory_order_release);
  if (written_ - flushed_ >= kMaxUnflushedBytes) flush();
  return true;
}

void FrameRingWriter::flush() {
  if (flushed_ == written_) return;
  flushed_ = written_;
  full_fence();  // rest() has one, too
  if (control().wants_wake.load(std::memory_order_relaxed) == 0) return;
  control().wants_wake.store(0, std::memory_order_relaxed);
  signal_event(wake_);
}

}  // namespace trapeze
