// FakeNetBackend: a NetBackend in memory, for tests and fuzzers.
#pragma once

#include <algorithm>
#include <cstring>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "virtio/net/backend.h"

namespace trapeze {

class FakeNetBackend final : public NetBackend {
 public:
  struct Wanted {
    bool receiving = false;
    bool sending = false;
  };

  explicit FakeNetBackend(uint16_t pairs = 1, uint64_t offloads = 0)
      : wanted(pairs), queued(pairs) {
    info_.name = "fake";
    info_.pairs = pairs;
    info_.offloads = offloads;
  }

  const NetInfo& info() const override { return info_; }
  void attach(NetClient* to) override { client = to; }
  void set_guest_offloads(uint64_t value) override { guest_offloads = value; }
  void use_pairs(uint16_t pairs) override {
    CHECK(pairs >= 1 && pairs <= info_.pairs);
    pairs_in_use = pairs;
  }
  Sent send(uint16_t pair, std::span<const Frame> frames) override {
    CHECK(pair < info_.pairs && !frames.empty());
    Sent result;
    for (const Frame frame : frames) {
      if (is_lost) return {result.frames, result.dropped, Status::Lost};
      if (room == 0) return {result.frames, result.dropped, Status::Blocked};
      --room;
      std::string bytes;
      for (const iovec& part : frame) {
        bytes.append(static_cast<const char*>(part.iov_base), part.iov_len);
      }
      ++result.frames;
      result.dropped += is_refusing ? 1 : 0;
      if (!is_refusing && is_keeping) sent.push_back(std::move(bytes));
    }
    return result;
  }
  Received receive(uint16_t pair, Frame to) override {
    CHECK(pair < info_.pairs && to.size() <= 1024);
    if (is_lost) return {0, Status::Lost};
    if (queued[pair].empty()) return {0, Status::Blocked};
    const std::string frame = std::move(queued[pair].front());
    queued[pair].pop_front();
    size_t done = 0;
    for (const iovec& part : to) {
      const size_t step = std::min(part.iov_len, frame.size() - done);
      std::memcpy(part.iov_base, frame.data() + done, step);
      done += step;
    }
    return {done, Status::Ok};
  }
  void want(uint16_t pair, bool receiving, bool sending) override {
    wanted[pair] = {receiving, sending};
  }

  RingService* rings() override { return ring_service; }

  // A frame for the guest: a zero header and `text`.
  void arrive(const std::string& text, uint16_t pair = 0) {
    queued[pair].push_back(std::string(12, '\0') + text);
  }
  void tell_ready(uint16_t pair = 0) {
    if (client != nullptr) client->net_ready(pair, wanted[pair].receiving, wanted[pair].sending);
  }
  void set_mtu(uint16_t mtu) { info_.mtu = mtu; }

  NetClient* client = nullptr;
  RingService* ring_service = nullptr;
  std::vector<Wanted> wanted;
  std::vector<std::deque<std::string>> queued;
  std::vector<std::string> sent;  // with headers
  size_t room = ~size_t{0};       // frames until it blocks
  bool is_refusing = false;       // drops everything
  bool is_keeping = true;
  bool is_lost = false;
  uint64_t guest_offloads = 0;
  uint16_t pairs_in_use = 1;

 private:
  NetInfo info_;
};

}  // namespace trapeze
