#include "accel/soft/mmu/code_map.h"

#include <algorithm>
#include <utility>

#include "accel/soft/core/cpu.h"
#include "accel/soft/core/env.h"
#include "base/fence.h"
#include "base/units.h"

namespace trapeze::soft {
namespace {

constexpr uint64_t kGranule = 64;
constexpr uint64_t kBytesPerPage = 8 + 8 + 1;  // granules_, epochs_, drops_
constexpr size_t kMaxRequests = 256;
// After that many drops a page is taken for one that holds code and data side by side: from then on
// only writes to the decoded granules themselves drop it.
constexpr uint8_t kMixedPageDrops = 4;

uint64_t granule_mask(uint64_t offset, uint64_t size) {
  const uint64_t first = offset / kGranule;
  const uint64_t last = (offset + size - 1) / kGranule;
  const uint64_t up_to_last = last == 63 ? ~uint64_t{0} : (uint64_t{1} << (last + 1)) - 1;
  return up_to_last & ~((uint64_t{1} << first) - 1);
}

}  // namespace

Result<std::unique_ptr<CodeMap>> CodeMap::create(GuestMemory& memory) {
  std::unique_ptr<CodeMap> map(new CodeMap(memory));
  map->pages_ = memory.top().raw() / kPageSize;
  map->mapping_ = TRY(Mapping::anonymous(map->pages_ * kBytesPerPage, "the map of code pages"));
  // Zero pages are valid arrays of zero atomics.
  map->granules_ = reinterpret_cast<std::atomic<uint64_t>*>(map->mapping_.data());
  map->epochs_ = reinterpret_cast<std::atomic<uint64_t>*>(map->mapping_.data() + map->pages_ * 8);
  map->drops_ = reinterpret_cast<std::atomic<uint8_t>*>(map->mapping_.data() + map->pages_ * 16);
  memory.set_write_observer(map.get());
  return map;
}

CodeMap::~CodeMap() { memory_.set_write_observer(nullptr); }

void CodeMap::add_cpu(Cpu& cpu) {
  auto member = std::make_unique<Member>();
  member->cpu = &cpu;
  const size_t index = cpu.env->id.raw();
  if (members_.size() <= index) members_.resize(index + 1);
  members_[index] = std::move(member);
}

CodeMap::Member& CodeMap::member(const Cpu& cpu) const { return *members_[cpu.env->id.raw()]; }

void CodeMap::mark(uint64_t gpa, unsigned size) {
  const uint64_t page = gpa / kPageSize;
  const uint64_t mask = granule_mask(gpa % kPageSize, size);
  const uint64_t before = granules_[page].load(std::memory_order_relaxed);
  if ((before & mask) != mask) {
    uint64_t epoch = 0;
    if (before == 0) {
      // Told before the mark is visible, so that whoever sees the mark also sees the epoch.
      epoch = epoch_.fetch_add(1, std::memory_order_relaxed) + 1;
      uint64_t known = epochs_[page].load(std::memory_order_relaxed);
      while (known < epoch && !epochs_[page].compare_exchange_weak(known, epoch)) {
      }
    }
    granules_[page].fetch_or(mask, std::memory_order_seq_cst);
    if (epoch != 0) post(page, false, epoch);
  }
  // Pairs with the fence in written(): marked before the bytes are read.
  full_fence();
}

uint64_t CodeMap::unsettled_epoch(uint64_t page) const {
  const uint64_t epoch = epochs_[page].load(std::memory_order_acquire);
  return is_settled(epoch) ? 0 : epoch;
}

bool CodeMap::is_settled(uint64_t epoch) const {
  for (const auto& member : members_) {
    if (member == nullptr) continue;
    // A vCPU outside the guest handles its inbox before it runs guest code again (enter_guest).
    if (!member->in_guest.load(std::memory_order_seq_cst)) continue;
    if (member->acknowledged.load(std::memory_order_acquire) < epoch) return false;
  }
  return true;
}

void CodeMap::post(uint64_t page, bool dropped, uint64_t epoch) {
  for (const auto& other : members_) {
    if (other == nullptr) continue;
    {
      const std::lock_guard lock(other->inbox.mutex_);
      CodeInbox::Requests& requests = other->inbox.requests_;
      auto& list = dropped ? requests.dropped_pages : requests.code_pages;
      if (list.size() < kMaxRequests) {
        list.push_back(page);
      } else {
        requests.everything = true;
      }
      if (epoch > requests.epoch) requests.epoch = epoch;
    }
    other->cpu->attention.fetch_or(kAttnCode, std::memory_order_seq_cst);
  }
}

void CodeMap::written(uint64_t gpa, uint64_t size) {
  // Pairs with the fence in mark(): the bytes are stored before the marks are read.
  full_fence();
  while (size > 0) {
    const uint64_t page = gpa / kPageSize;
    if (page >= pages_) return;
    const uint64_t here = std::min(size, kPageSize - gpa % kPageSize);
    const uint64_t marks = granules_[page].load(std::memory_order_relaxed);
    if (marks != 0) {
      const bool mixed = drops_[page].load(std::memory_order_relaxed) >= kMixedPageDrops;
      const bool hit = (marks & granule_mask(gpa % kPageSize, here)) != 0;
      if (hit || !mixed) {
        if (!mixed) drops_[page].fetch_add(1, std::memory_order_relaxed);
        granules_[page].store(0, std::memory_order_seq_cst);
        post(page, true, 0);
      }
    }
    gpa += here;
    size -= here;
  }
}

void CodeMap::guest_memory_written(GpaRange range) { written(range.start.raw(), range.size); }

CodeInbox::Requests CodeMap::take_requests(const Cpu& cpu) {
  CodeInbox& inbox = member(cpu).inbox;
  const std::lock_guard lock(inbox.mutex_);
  return std::exchange(inbox.requests_, {});
}

void CodeMap::acknowledge(const Cpu& cpu, uint64_t epoch) {
  Member& self = member(cpu);
  if (self.acknowledged.load(std::memory_order_relaxed) < epoch) {
    self.acknowledged.store(epoch, std::memory_order_release);
  }
}

void CodeMap::enter_guest(const Cpu& cpu) {
  member(cpu).in_guest.store(true, std::memory_order_seq_cst);
}
void CodeMap::leave_guest(const Cpu& cpu) {
  member(cpu).in_guest.store(false, std::memory_order_seq_cst);
}

}  // namespace trapeze::soft
