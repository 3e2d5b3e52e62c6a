#include "virtio/balloon/device.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/units.h"
#include "virtio/queue/iov.h"

namespace trapeze {

using balloon::kPageBytes;

// Configuration -----------------------------------------------------------------------------------

void BalloonDevice::read_config(uint32_t offset, std::span<std::byte> to) {
  const balloon::Config config{.num_pages = static_cast<uint32_t>(load(target_pages_)),
                               .actual = static_cast<uint32_t>(load(actual_pages_)),
                               .free_page_hint_cmd_id = 0,
                               .poison_val = static_cast<uint32_t>(load(poison_value_))};
  std::memcpy(to.data(), reinterpret_cast<const std::byte*>(&config) + offset, to.size());
}

// The two fields that are the driver's, whole (§5.5.4).
void BalloonDevice::write_config(uint32_t offset, std::span<const std::byte> from) {
  uint32_t value = 0;
  if (from.size() != sizeof(value)) return;
  std::memcpy(&value, from.data(), sizeof(value));
  if (offset == offsetof(balloon::Config, actual)) {
    actual_pages_.store(value, std::memory_order_relaxed);
  } else if (offset == offsetof(balloon::Config, poison_val)) {
    poison_value_.store(value, std::memory_order_relaxed);
  }
}

void BalloonDevice::set_target(uint64_t bytes) {
  const uint64_t pages = std::min<uint64_t>(bytes / kPageBytes, UINT32_MAX);
  target_pages_.store(static_cast<uint32_t>(pages), std::memory_order_relaxed);
  if (active_ != nullptr) active_->interrupt.config_changed();
}

// Life --------------------------------------------------------------------------------------------

void BalloonDevice::activate(ActiveState& state) {
  active_ = &state;
  // Linux puts its statistics buffer there before it is ready, and kicks only then.
  state.kick_again(balloon::kFirstOptionalQueue);
}

void BalloonDevice::reset() {
  active_ = nullptr;
  has_stats_buffer_ = false;
  on_stats_ = nullptr;
  // A driver that starts anew has an empty balloon: its pages are the guest's again.
  actual_pages_.store(0, std::memory_order_relaxed);
  poison_value_.store(0, std::memory_order_relaxed);
}

BalloonState BalloonDevice::save() const {
  return {.target_pages = static_cast<uint32_t>(load(target_pages_)),
          .actual_pages = static_cast<uint32_t>(load(actual_pages_)),
          .poison_value = static_cast<uint32_t>(load(poison_value_))};
}

void BalloonDevice::restore(const BalloonState& state) {
  target_pages_.store(state.target_pages, std::memory_order_relaxed);
  actual_pages_.store(state.actual_pages, std::memory_order_relaxed);
  poison_value_.store(state.poison_value, std::memory_order_relaxed);
}

bool BalloonDevice::is_stats_queue(uint16_t index) const {
  return index == balloon::kFirstOptionalQueue && has_feature(balloon::kFeatureStats);
}

bool BalloonDevice::is_reporting_queue(uint16_t index) const {
  const uint16_t before = has_feature(balloon::kFeatureStats) ? 1 : 0;
  return index == balloon::kFirstOptionalQueue + before && has_feature(balloon::kFeatureReporting);
}

bool BalloonDevice::on_kick(uint16_t index) {
  if (active_ == nullptr) return false;
  VirtQueue* queue = active_->queue(index);
  if (queue == nullptr) return false;
  if (is_stats_queue(index)) return take_stats(index);
  const bool is_reporting = is_reporting_queue(index);
  const bool has_more =
      serve(*queue, chain_, is_reporting ? 1 : kMaxChainsPerTurn, [&](Chain& chain) {
        if (index == balloon::kInflateQueue) inflate(chain);
        if (index == balloon::kDeflateQueue) {
          metrics_.deflated_pages.add(chain.readable_bytes() / sizeof(uint32_t));
        }
        if (is_reporting) give_back_blocks(chain);
        queue->push_used(chain, 0);
        return true;
      });
  active_->notify_used(index);
  return has_more;
}

// Memory ------------------------------------------------------------------------------------------

// §5.5.6.1: an array of page numbers.
void BalloonDevice::inflate(const Chain& chain) {
  ChainReader reader(chain);
  std::array<uint32_t, kPagesPerPart> part;
  for (size_t done = 0; done < kMaxPagesPerChain;) {
    const size_t bytes = reader.read(std::as_writable_bytes(std::span(part)));
    const size_t count = bytes / sizeof(uint32_t);
    if (count == 0) return;
    give_back_pages(std::span(part).first(count));
    done += count;
  }
}

// Neighbours together: a system call a page would cost more than the page is worth.
void BalloonDevice::give_back_pages(std::span<uint32_t> pages) {
  std::sort(pages.begin(), pages.end());
  for (size_t i = 0; i < pages.size();) {
    size_t end = i + 1;
    while (end < pages.size() && pages[end] - pages[end - 1] <= 1) ++end;
    const Gpa start{uint64_t{pages[i]} * kPageBytes};
    const uint64_t bytes = (uint64_t{pages[end - 1]} - pages[i] + 1) * kPageBytes;
    if (active_->memory.give_back({start, bytes})) {
      metrics_.inflated_pages.add(bytes / kPageBytes);
      metrics_.returned_bytes.add(bytes);
    } else {
      metrics_.bad_pages.add(end - i);
    }
    i = end;
  }
}

// §5.5.6.5: free blocks of memory are the buffers themselves. With a poison value the guest wants
// to find it there afterwards (§5.5.6.5.2), and we only have zeroes.
void BalloonDevice::give_back_blocks(const Chain& chain) {
  if (has_feature(balloon::kFeaturePagePoison) && load(poison_value_) != 0) return;
  const std::byte* const base = active_->memory.host_base();
  uint64_t left = active_->memory.size_bytes();
  for (const iovec& block : chain.writable()) {
    const auto start = static_cast<uint64_t>(static_cast<std::byte*>(block.iov_base) - base);
    const uint64_t first = align_up(start, kPageBytes);
    const uint64_t end = (start + block.iov_len) / kPageBytes * kPageBytes;
    if (first >= end || end - first > left) continue;
    left -= end - first;
    metrics_.reported_bytes.add(end - first);
    if (active_->memory.give_back({Gpa{first}, end - first})) {
      metrics_.returned_bytes.add(end - first);
    }
  }
}

// Statistics --------------------------------------------------------------------------------------

// §5.5.6.3: the driver fills a buffer; giving it back asks for the next filling.
bool BalloonDevice::take_stats(uint16_t index) {
  VirtQueue& queue = *active_->queue(index);
  // One buffer is in use at a time; a driver that sends more gets the older ones back.
  const bool has_more = serve(queue, chain_, kMaxChainsPerTurn, [&](Chain& chain) {
    if (has_stats_buffer_) queue.push_used(stats_chain_, 0);
    std::swap(chain, stats_chain_);
    has_stats_buffer_ = true;
    read_stats(stats_chain_);
    return true;
  });
  active_->notify_used(index);
  return has_more;
}

void BalloonDevice::read_stats(const Chain& chain) {
  ChainReader reader(chain);
  BalloonStats stats;
  while (reader.position() < kMaxStatsBytes) {
    const auto stat = reader.read_value<balloon::Stat>();
    if (!stat) break;
    const uint64_t value = stat->value;  // no reference to a packed field
    if (stat->tag < stats.size()) stats[stat->tag] = value;
  }
  if (const auto handler = std::exchange(on_stats_, nullptr)) handler(stats);
}

bool BalloonDevice::request_stats(StatsHandler on_stats) {
  if (active_ == nullptr || !has_stats_buffer_) return false;
  VirtQueue* queue = active_->queue(balloon::kFirstOptionalQueue);
  if (queue == nullptr) return false;
  has_stats_buffer_ = false;
  on_stats_ = std::move(on_stats);
  queue->push_used(stats_chain_, 0);
  active_->notify_used(balloon::kFirstOptionalQueue);
  return true;
}

}  // namespace trapeze
