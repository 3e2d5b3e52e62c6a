// AddressBus: who answers at which port, or at which guest physical address. One class for both;
// PortBus and MemoryBus only give it typed addresses.
//
// Threads: read() and write() come from all vCPU threads at once and take no lock; attach, detach
// and move may happen meanwhile (a PCI BAR that the guest moves, also from inside a device's own
// callback). The device is called with nothing locked. So a call may still be under way when
// detach() returns: a device must live until all vCPU threads are stopped.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/strong.h"
#include "bus/io_device.h"
#include "memory/guest_addr.h"

namespace trapeze {

class AddressBus {
 public:
  // Enough for every legacy device and six BARs of each of 32 PCI functions.
  static constexpr size_t kMaxRanges = 256;

  // `kind` ("port", "memory") is for messages; addresses are 0 to `last_address`.
  AddressBus(std::string_view kind, uint64_t last_address)
      : kind_(kind), last_address_(last_address) {}

  // Refused when the range is empty, too long or overlaps another one; the message names both.
  Result<void> attach(uint64_t start, uint64_t size, IoDevice& device, std::string name);
  // Takes away the range that starts at `start`; false when there is none.
  bool detach(uint64_t start);
  // Detach and attach in one step: no lookup sees the device at both places. When the new place is
  // taken, nothing changes.
  Result<void> move(uint64_t start, uint64_t new_start);

  // An access that one range does not hold completely is split into bytes, each of which finds its
  // own device; a device never sees an offset beyond its range. Nobody there: ones, or dropped.
  uint64_t read(uint64_t address, Width width);
  void write(uint64_t address, Width width, uint64_t value);

 private:
  // What a lookup reads. Guarded by version_ (a seqlock): every store is a release and every load
  // an acquire, which costs nothing on x86 and needs no fences (ThreadSanitizer does not know
  // them).
  struct Slot {
    std::atomic<uint64_t> start{0};
    std::atomic<uint64_t> size{0};
    std::atomic<IoDevice*> device{nullptr};
  };
  struct Range {
    uint64_t start;
    uint64_t size;
    IoDevice* device;
    std::string name;
  };
  struct Hit {
    IoDevice* device = nullptr;
    uint64_t offset = 0;
    uint64_t left = 0;  // bytes to the end of the range, or of the gap when there is no device
  };

  Hit find(uint64_t address) const;
  Hit search(uint64_t address) const;
  Result<void> check_free(const Range& wanted, const Range* ignore) const;
  void insert(Range range);
  void publish();

  const std::string kind_;
  const uint64_t last_address_;
  std::mutex mutex_;                  // one writer at a time
  std::vector<Range> ranges_;         // sorted by start; the writers' copy
  std::atomic<uint32_t> version_{0};  // odd while slots_ change
  std::atomic<size_t> count_{0};
  std::array<Slot, kMaxRanges> slots_;
};

class PortBus final : public AddressBus {
 public:
  PortBus() : AddressBus("port", 0xffff) {}
  Result<void> attach(Port first, uint32_t count, IoDevice& device, std::string name) {
    return AddressBus::attach(first.raw(), count, device, std::move(name));
  }
};

class MemoryBus final : public AddressBus {
 public:
  MemoryBus() : AddressBus("memory", ~uint64_t{0}) {}
  Result<void> attach(GpaRange range, IoDevice& device, std::string name) {
    return AddressBus::attach(range.start.raw(), range.size, device, std::move(name));
  }
};

}  // namespace trapeze
