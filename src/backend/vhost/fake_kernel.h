// FakeKernel: takes the ioctls of vhost, remembers what it was told, and refuses one of them. For
// tests.
#pragma once

#define VIRTIO_RING_NO_LEGACY  // what follows else is C
#include <linux/vhost.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <vector>

namespace trapeze {

class FakeKernel {
 public:
  struct Told {
    unsigned long request;
    std::array<uint64_t, 5> words{};
    uint32_t index() const { return static_cast<uint32_t>(words[0]); }
  };

  explicit FakeKernel(uint64_t features) : features_(features) { current = this; }
  ~FakeKernel() { current = nullptr; }
  FakeKernel(const FakeKernel&) = delete;
  FakeKernel& operator=(const FakeKernel&) = delete;

  // KernelVhost takes a plain function, so there is one fake at a time.
  static int ioctl(int, unsigned long request, void* argument) {
    return current->answer(request, argument);
  }
  const Told* find(unsigned long request, uint32_t index) const {
    const auto found = std::find_if(told.begin(), told.end(), [&](const Told& entry) {
      return entry.request == request && entry.index() == index;
    });
    return found != told.end() ? &*found : nullptr;
  }
  std::vector<unsigned long> requests() const {
    std::vector<unsigned long> result;
    for (const Told& entry : told) result.push_back(entry.request);
    return result;
  }

  // What VHOST_GET_VRING_BASE says of ring 0; 1 more of the next.
  static constexpr uint32_t kFirstBase = 70;

  std::vector<Told> told;
  unsigned long refused_request = 0;
  int refusal = EINVAL;

 private:
  int answer(unsigned long request, void* argument) {
    if (request == refused_request) {
      errno = refusal;
      return -1;
    }
    if (request == VHOST_GET_FEATURES) std::memcpy(argument, &features_, sizeof(features_));
    Told entry{.request = request};
    // A table with its length in front, of which one entry is enough.
    const size_t bytes =
        request == VHOST_SET_MEM_TABLE ? sizeof(entry.words) : size_t{_IOC_SIZE(request)};
    if (argument != nullptr) {
      std::memcpy(entry.words.data(), argument, std::min(bytes, sizeof(entry.words)));
    }
    if (request == VHOST_GET_VRING_BASE) {
      auto* const state = static_cast<vhost_vring_state*>(argument);
      state->num = kFirstBase + state->index;
    }
    told.push_back(entry);
    return 0;
  }

  static inline FakeKernel* current = nullptr;
  const uint64_t features_;
};

}  // namespace trapeze
