#include "virtio/block/device.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/units.h"
#include "virtio/queue/iov.h"

namespace trapeze {

using block::RequestType;
using block::Status;

namespace {

constexpr uint16_t kQueueSize = 256;
// Header and status take a descriptor each.
constexpr uint32_t kMaxSegments = kQueueSize - 2;
constexpr uint32_t kMaxSegmentBytes = 4 * MiB;
// A turn of one queue: then other queues, completions and timers get theirs.
constexpr uint16_t kMaxChainsPerTurn = 128;
// What a vCPU copies itself: longer copies are better made while it does something else.
constexpr uint64_t kMaxVcpuBytes = 32 * KiB;
// Requests that came alone, in a row, before the vCPU runs the next: a guest that has many under
// way is better off with a thread beside it, also for those that happen to be alone.
constexpr uint32_t kAloneToTrust = 8;
// So that one request of a guest keeps a host thread busy for a bounded time.
constexpr uint32_t kMaxDiscardSectors = 2 * GiB / kSectorBytes;
constexpr uint32_t kMaxWriteZeroesSectors = 64 * MiB / kSectorBytes;
constexpr uint8_t kPhysicalBlockExp = 3;  // 4 KiB
constexpr uint32_t kWritebackOffset = offsetof(block::Config, writeback);

uint64_t features_of(const DiskInfo& info, uint16_t queues) {
  uint64_t features = block::kFeatureSizeMax | block::kFeatureSegMax | block::kFeatureBlkSize |
                      block::kFeatureFlush | block::kFeatureTopology | block::kFeatureConfigWce;
  if (queues > 1) features |= block::kFeatureMultiQueue;
  if (info.is_read_only) return features | block::kFeatureReadOnly;
  if (info.can_discard) features |= block::kFeatureDiscard;
  return features | block::kFeatureWriteZeroes;
}

block::Config config_of(const DiskInfo& info, uint16_t queues) {
  block::Config config;
  config.capacity_sectors = info.size_bytes / kSectorBytes;
  config.size_max = kMaxSegmentBytes;
  config.seg_max = kMaxSegments;
  config.blk_size = kSectorBytes;
  config.physical_block_exp = kPhysicalBlockExp;
  config.min_io_size = static_cast<uint16_t>(info.block_bytes / kSectorBytes);
  config.num_queues = queues;
  if (info.is_read_only) return config;
  if (info.can_discard) {
    config.max_discard_sectors = kMaxDiscardSectors;
    config.max_discard_seg = 1;
    config.discard_sector_alignment = static_cast<uint32_t>(info.block_bytes / kSectorBytes);
  }
  config.max_write_zeroes_sectors = kMaxWriteZeroesSectors;
  config.max_write_zeroes_seg = 1;
  config.write_zeroes_may_unmap = info.can_discard ? 1 : 0;
  return config;
}

// The parts of `from` without the first `skip` bytes, up to `bytes`.
void copy_parts(std::span<const iovec> from, uint64_t skip, uint64_t bytes,
                std::vector<iovec>& to) {
  to.clear();
  for (const iovec& part : from) {
    if (skip >= part.iov_len) {
      skip -= part.iov_len;
      continue;
    }
    if (bytes == 0) return;
    const uint64_t take = std::min<uint64_t>(part.iov_len - skip, bytes);
    to.push_back({static_cast<std::byte*>(part.iov_base) + skip, take});
    bytes -= take;
    skip = 0;
  }
}

}  // namespace

struct BlockDevice::Slot : DiskRequest {
  Chain chain;
  uint16_t queue = 0;
  std::byte* status = nullptr;  // in guest RAM
};

BlockDevice::BlockDevice(const BlockConfig& config, Disk& disk, EventLoop& loop, const Clock& clock)
    : disk_(disk),
      loop_(loop),
      clock_(clock),
      serial_(config.serial.substr(0, block::kIdBytes)),
      queue_sizes_(config.queues, kQueueSize),
      features_(features_of(disk.info(), config.queues)),
      config_(config_of(disk.info(), config.queues)),
      limiter_(config.limits, clock.monotonic_ns()) {
  CHECK(config.queues >= 1 && config.queues <= BlockConfig::kMaxQueues);
  disk_.attach(this);
}

BlockDevice::~BlockDevice() {
  reset();
  disk_.attach(nullptr);
}

void BlockDevice::read_config(uint32_t offset, std::span<std::byte> to) {
  block::Config config = config_;
  config.writeback = is_writeback_.load(std::memory_order_relaxed) ? 1 : 0;
  std::memcpy(to.data(), reinterpret_cast<const std::byte*>(&config) + offset, to.size());
}

// §5.2.5: the driver may change `writeback` and nothing else.
void BlockDevice::write_config(uint32_t offset, std::span<const std::byte> from) {
  if (offset > kWritebackOffset || kWritebackOffset - offset >= from.size()) return;
  is_writeback_.store(from[kWritebackOffset - offset] != std::byte{0}, std::memory_order_relaxed);
}

void BlockDevice::activate(ActiveState& state) { active_ = &state; }

void BlockDevice::reset() {
  if (throttle_timer_) loop_.cancel_timer(*throttle_timer_);
  throttle_timer_.reset();
  submit_left();
  disk_.drain();
  active_ = nullptr;
  queues_to_notify_ = queues_throttled_ = 0;
  is_writeback_.store(true, std::memory_order_relaxed);
}

BlockState BlockDevice::save() {
  submit_left();
  disk_.drain();
  notify();
  return {.is_writeback = is_writeback_.load(std::memory_order_relaxed),
          .bandwidth = limiter_.bandwidth().save(),
          .operations = limiter_.operations().save()};
}

void BlockDevice::restore(const BlockState& state) {
  is_writeback_.store(state.is_writeback, std::memory_order_relaxed);
  limiter_.bandwidth().restore(state.bandwidth);
  limiter_.operations().restore(state.operations);
}

// Requests ----------------------------------------------------------------------------------------

BlockDevice::Slot& BlockDevice::acquire() {
  if (free_slots_.empty()) {
    slots_.push_back(std::make_unique<Slot>());
    free_slots_.push_back(slots_.back().get());
  }
  Slot& slot = *free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

void BlockDevice::release(Slot& slot) { free_slots_.push_back(&slot); }

// HOT: no allocation once there are enough slots.
bool BlockDevice::on_kick(uint16_t index) {
  VirtQueue* queue = active_ != nullptr ? active_->queue(index) : nullptr;
  if (queue == nullptr || (queues_throttled_ & (uint64_t{1} << index)) != 0) return false;
  submit_left();
  const bool has_more =
      serve(*queue, chain_, kMaxChainsPerTurn, [&](Chain& chain) { return handle(index, chain); });
  disk_.end_of_batch();
  notify();
  return has_more;
}

// HOT
bool BlockDevice::on_vcpu_kick(uint16_t index) {
  VirtQueue* queue = active_ != nullptr ? active_->queue(index) : nullptr;
  if (queue == nullptr) return false;
  if (!is_idle() || queue->pending() > 1) alone_ = 0;
  if (alone_ < kAloneToTrust) {
    ++alone_;
    return false;
  }
  const bool is_all = serve_one(
      *queue, chain_,
      [](const Chain& chain) {
        return chain.readable_bytes() + chain.writable_bytes() <= kMaxVcpuBytes;
      },
      [&](Chain& chain) { handle_now(index, chain); });
  notify();
  return is_all && left_ == nullptr;
}

void BlockDevice::handle_now(uint16_t index, Chain& chain) {
  Slot& slot = acquire();
  std::swap(slot.chain, chain);
  slot.queue = index;
  const Parsed parsed = parse(*active_->queue(index), slot);
  if (parsed == Parsed::Broken) release(slot);
  if (parsed == Parsed::Submit && !disk_.try_now(slot)) left_ = &slot;
}

void BlockDevice::submit_left() {
  if (left_ != nullptr) disk_.submit(*std::exchange(left_, nullptr));
}

// False: the rate limiter says "not now", and `chain` is untouched.
bool BlockDevice::handle(uint16_t index, Chain& chain) {
  Slot& slot = acquire();
  std::swap(slot.chain, chain);
  slot.queue = index;
  switch (parse(*active_->queue(index), slot)) {
    case Parsed::Submit:
      disk_.submit(slot);
      return true;
    case Parsed::Answered:
      return true;
    case Parsed::Broken:
      release(slot);
      return true;
    case Parsed::Throttled:
      std::swap(slot.chain, chain);
      release(slot);
      return false;
  }
  return true;
}

BlockDevice::Parsed BlockDevice::parse(VirtQueue& queue, Slot& slot) {
  const auto writable = slot.chain.writable();
  if (writable.empty()) {
    // Nowhere to put a status: the driver would wait for ever.
    metrics_.bad_requests.add();
    queue.mark_broken(QueueFault::WrongDirection);
    return Parsed::Broken;
  }
  slot.status = static_cast<std::byte*>(writable.back().iov_base) + writable.back().iov_len - 1;
  slot.is_durable = slot.may_unmap = false;
  slot.offset = slot.bytes = 0;
  slot.parts.clear();
  ChainReader reader(slot.chain);
  const auto header = reader.read_value<block::RequestHeader>();
  if (!header) return refuse(slot, Status::IoError);
  // No `default`, but the number is the guest's: what is none of these comes out below.
  switch (static_cast<RequestType>(header->type)) {
    case RequestType::In:
      return parse_data(slot, header->sector, false);
    case RequestType::Out:
      return parse_data(slot, header->sector, true);
    case RequestType::Flush:
      slot.kind = DiskRequest::Kind::Flush;
      if (throttle(slot)) return Parsed::Throttled;
      metrics_.flushes.add();
      return Parsed::Submit;
    case RequestType::GetId:
      if (throttle(slot)) return Parsed::Throttled;
      return answer_id(slot);
    case RequestType::Discard:
      return parse_segment(slot, true);
    case RequestType::WriteZeroes:
      return parse_segment(slot, false);
  }
  return refuse(slot, Status::Unsupported);
}

bool BlockDevice::is_within_disk(uint64_t sector, uint64_t bytes) const {
  const uint64_t sectors = config_.capacity_sectors;
  return bytes % kSectorBytes == 0 && sector <= sectors && bytes / kSectorBytes <= sectors - sector;
}

// §5.2.6.2: a driver that cannot flush, or has switched the cache off, counts on every write.
bool BlockDevice::must_be_durable() const {
  if (!active_->has_feature(block::kFeatureFlush)) return true;
  return active_->has_feature(block::kFeatureConfigWce) &&
         !is_writeback_.load(std::memory_order_relaxed);
}

BlockDevice::Parsed BlockDevice::parse_data(Slot& slot, uint64_t sector, bool is_write) {
  const uint64_t bytes = is_write ? slot.chain.readable_bytes() - sizeof(block::RequestHeader)
                                  : slot.chain.writable_bytes() - 1;
  if (!is_within_disk(sector, bytes)) return refuse(slot, Status::IoError);
  if (is_write && disk_.info().is_read_only) return refuse(slot, Status::IoError);
  slot.kind = is_write ? DiskRequest::Kind::Write : DiskRequest::Kind::Read;
  slot.offset = sector * kSectorBytes;
  slot.bytes = bytes;
  if (throttle(slot)) return Parsed::Throttled;
  if (is_write) {
    slot.is_durable = must_be_durable();
    copy_parts(slot.chain.readable(), sizeof(block::RequestHeader), bytes, slot.parts);
    metrics_.writes.add();
    metrics_.write_bytes.add(bytes);
  } else {
    copy_parts(slot.chain.writable(), 0, bytes, slot.parts);
    metrics_.reads.add();
    metrics_.read_bytes.add(bytes);
  }
  return bytes == 0 ? answer(slot, Status::Ok) : Parsed::Submit;
}

// §5.2.6: one segment, as the configuration says.
BlockDevice::Parsed BlockDevice::parse_segment(Slot& slot, bool is_discard) {
  const uint64_t needed = is_discard ? block::kFeatureDiscard : block::kFeatureWriteZeroes;
  if ((features_ & needed) == 0) {
    return refuse(slot, disk_.info().is_read_only ? Status::IoError : Status::Unsupported);
  }
  ChainReader reader(slot.chain);
  reader.skip(sizeof(block::RequestHeader));
  const auto segment = reader.read_value<block::DiscardSegment>();
  if (!segment || reader.remaining() != 0) return refuse(slot, Status::IoError);
  const uint32_t known_flags = is_discard ? 0 : block::kSegmentUnmap;
  if ((segment->flags & ~known_flags) != 0) return refuse(slot, Status::Unsupported);
  const uint32_t most = is_discard ? kMaxDiscardSectors : kMaxWriteZeroesSectors;
  const uint64_t bytes = uint64_t{segment->sectors} * kSectorBytes;
  if (segment->sectors > most || !is_within_disk(segment->sector, bytes)) {
    return refuse(slot, Status::IoError);
  }
  slot.kind = is_discard ? DiskRequest::Kind::Discard : DiskRequest::Kind::WriteZeroes;
  slot.offset = segment->sector * kSectorBytes;
  slot.bytes = bytes;
  slot.may_unmap = (segment->flags & block::kSegmentUnmap) != 0;
  slot.is_durable = must_be_durable();
  if (throttle(slot)) return Parsed::Throttled;
  metrics_.discards.add();
  return bytes == 0 ? answer(slot, Status::Ok) : Parsed::Submit;
}

BlockDevice::Parsed BlockDevice::answer_id(Slot& slot) {
  std::array<std::byte, block::kIdBytes> id{};
  std::memcpy(id.data(), serial_.data(), serial_.size());
  const uint64_t room = std::min<uint64_t>(id.size(), slot.chain.writable_bytes() - 1);
  ChainWriter writer(slot.chain);
  writer.write(std::span(id).first(room));
  return answer(slot, Status::Ok);
}

BlockDevice::Parsed BlockDevice::answer(Slot& slot, Status status) {
  finish(slot, status, status == Status::Ok ? slot.chain.writable_bytes() : 0);
  return Parsed::Answered;
}

BlockDevice::Parsed BlockDevice::refuse(Slot& slot, Status status) {
  metrics_.bad_requests.add();
  return answer(slot, status);
}

// Rate limits -------------------------------------------------------------------------------------

// True: not now; all throttled queues are looked at again when the timer says so. Data counts, in
// both directions, as do operations of all kinds.
bool BlockDevice::throttle(const Slot& slot) {
  if (!limiter_.is_limited()) return false;
  const bool is_data =
      slot.kind == DiskRequest::Kind::Read || slot.kind == DiskRequest::Kind::Write;
  const uint64_t wait_ns =
      limiter_.take_or_wait_ns(is_data ? slot.bytes : 0, clock_.monotonic_ns());
  if (wait_ns == 0) return false;
  metrics_.throttled.add();
  queues_throttled_ |= uint64_t{1} << slot.queue;
  if (!throttle_timer_) {
    throttle_timer_ = loop_.start_timer(std::chrono::nanoseconds(wait_ns), [this] {
      throttle_timer_.reset();
      for (uint64_t left = std::exchange(queues_throttled_, 0); left != 0; left &= left - 1) {
        active_->kick_again(static_cast<uint16_t>(std::countr_zero(left)));
      }
    });
  }
  return true;
}

// Completion --------------------------------------------------------------------------------------

void BlockDevice::disk_done(DiskRequest& request, int os_error) {
  Slot& slot = static_cast<Slot&>(request);
  if (os_error != 0) {
    metrics_.host_errors.add();
    if (log_limiter_.allow()) {
      log(LogLevel::Warning, "{}: {} (the guest sees an I/O error)", disk_.info().name,
          errno_text(os_error));
    }
  }
  const bool is_read = slot.kind == DiskRequest::Kind::Read;
  const uint64_t all = slot.chain.writable_bytes();
  // Guest memory may have changed even when the read failed.
  if (is_read) slot.chain.note_written(all);
  const bool has_all_written = os_error == 0 && (is_read || all == 1);
  finish(slot, os_error == 0 ? Status::Ok : Status::IoError, has_all_written ? all : 0);
}

void BlockDevice::finish(Slot& slot, Status status, uint64_t written) {
  // One store; the guest may look at the byte before the used ring says that it is there.
  *reinterpret_cast<volatile uint8_t*>(slot.status) = static_cast<uint8_t>(status);
  // The status is the last byte, so where it is written all before it counts as written, too.
  slot.chain.note_written(slot.chain.writable_bytes());
  active_->queue(slot.queue)->push_used(slot.chain, written);
  queues_to_notify_ |= uint64_t{1} << slot.queue;
  release(slot);
}

void BlockDevice::notify() {
  if (active_ == nullptr) return;
  for (; queues_to_notify_ != 0; queues_to_notify_ &= queues_to_notify_ - 1) {
    active_->notify_used(static_cast<uint16_t>(std::countr_zero(queues_to_notify_)));
  }
}

}  // namespace trapeze
