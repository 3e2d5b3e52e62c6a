// CodeMap: which pages of guest RAM hold bytes that some vCPU has decoded, so that writes to them
// drop what was decoded. One for the VM, shared by its vCPUs.
//
// How a write never goes unnoticed:
//  - A page with code has no write tag in any TLB: writes to it take the slow path, which stores
//    first and then calls written(). A decoder marks first and then reads the bytes. With a full
//    fence between the two steps on both sides, one of them sees the other.
//  - When a page becomes a code page, other vCPUs may still hold write tags for it. They are told
//  to
//    drop them, and until each of them has done so ("settled"), blocks of that page are checked
//    against the bytes whenever they are entered (cache/block_cache.h).
//  - Writes by devices come through GuestMemory's WriteObserver.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "base/mapping.h"
#include "base/result.h"
#include "memory/guest_memory.h"

namespace trapeze::soft {

struct Cpu;

// What other threads ask of a vCPU: drop blocks or write tags of pages. Bounded: beyond a limit it
// degrades to "drop everything".
class CodeInbox {
 public:
  struct Requests {
    std::vector<uint64_t> dropped_pages;  // page numbers whose blocks are stale
    std::vector<uint64_t> code_pages;     // page numbers that must lose their write tags
    bool everything = false;
    uint64_t epoch = 0;  // acknowledge with this
  };

 private:
  friend class CodeMap;
  std::mutex mutex_;
  Requests requests_;
};

class CodeMap final : public WriteObserver {
 public:
  // `memory` must outlive this object.
  static Result<std::unique_ptr<CodeMap>> create(GuestMemory& memory);
  ~CodeMap() override;

  // vCPUs take part from here on. `cpu` must outlive this object; before any vCPU runs.
  void add_cpu(Cpu& cpu);

  // True when the page may hold code: no write tag may be given out.
  bool has_code(uint64_t page) const {
    return granules_[page].load(std::memory_order_relaxed) != 0;
  }

  // Somebody is about to decode [gpa, gpa+size) (within one page). When that makes it a code page,
  // all vCPUs, the calling one too, are asked to drop their write tags for it.
  void mark(uint64_t gpa, unsigned size);
  // The epoch that all vCPUs must have acknowledged before code of that page is safe from unseen
  // writes; 0 when they have.
  uint64_t unsettled_epoch(uint64_t page) const;
  bool is_settled(uint64_t epoch) const;

  // Bytes were written. Asks all vCPUs, the writing one too, to drop the code that they held.
  void written(uint64_t gpa, uint64_t size);
  void guest_memory_written(GpaRange range) override;

  // A vCPU takes what is asked of it and acknowledges when done. Between leave_guest() and
  // enter_guest() a vCPU runs no guest code and counts as up to date.
  CodeInbox::Requests take_requests(const Cpu& cpu);
  void acknowledge(const Cpu& cpu, uint64_t epoch);
  void enter_guest(const Cpu& cpu);
  void leave_guest(const Cpu& cpu);

 private:
  struct Member {
    Cpu* cpu = nullptr;
    CodeInbox inbox;
    std::atomic<uint64_t> acknowledged{0};
    std::atomic<bool> in_guest{false};
  };

  explicit CodeMap(GuestMemory& memory) : memory_(memory) {}
  void post(uint64_t page, bool dropped, uint64_t epoch);
  Member& member(const Cpu& cpu) const;

  GuestMemory& memory_;
  Mapping mapping_;
  std::atomic<uint64_t>* granules_ = nullptr;  // per page: bit i: bytes 64*i.. were decoded
  std::atomic<uint64_t>* epochs_ = nullptr;    // per page: see unsettled_epoch()
  std::atomic<uint8_t>* drops_ = nullptr;      // per page: how often it was dropped as a whole
  uint64_t pages_ = 0;
  std::vector<std::unique_ptr<Member>> members_;
  std::atomic<uint64_t> epoch_{0};
};

}  // namespace trapeze::soft
