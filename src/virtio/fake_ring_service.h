// FakeRingService: a RingService that notes what it is told, for tests and fuzzers.
#pragma once

#include <cstdint>
#include <vector>

#include "virtio/ring_service.h"

namespace trapeze {

struct FakeRingService final : RingService {
  uint64_t features() const override { return offered; }
  Result<void> start(uint64_t features, std::span<const ServedMemory> table,
                     std::span<const ServedRing> wanted) override {
    if (is_refusing) return fail("refused");
    negotiated = features;
    memory.assign(table.begin(), table.end());
    running.assign(wanted.begin(), wanted.end());
    return {};
  }
  Result<void> set_call(uint16_t queue, const Fd& call) override {
    if (is_refusing) return fail("refused");
    running[queue].call = &call;
    return {};
  }
  uint16_t stop(uint16_t queue) override {
    stopped.push_back(queue);
    return 9;
  }

  uint64_t offered = ~uint64_t{0};
  bool is_refusing = false;
  uint64_t negotiated = 0;
  std::vector<ServedMemory> memory;
  std::vector<ServedRing> running;
  std::vector<uint16_t> stopped;
};

}  // namespace trapeze
