// FakeHost: a VsockHost whose streams are strings, for tests and fuzzers.
#pragma once

#include <algorithm>
#include <cstring>
#include <list>
#include <memory>
#include <string>

#include "virtio/vsock/host.h"

namespace trapeze {

// What the host's program sees of a stream; outlives it.
struct FakePeer {
  std::string to_guest;  // not read yet
  std::string from_guest;
  size_t room = ~size_t{0};  // how much more it takes
  bool has_ended = false;    // after to_guest comes end of file
  bool is_broken = false;
  bool saw_end = false;
  bool is_alive = true;
  uint32_t accepted_port = 0;
  int reads = 0;
  VsockStreamListener* listener = nullptr;
  bool wants_read = false;
  bool wants_write = false;
  // As the event loop would.
  void poll() {
    const bool is_readable = !to_guest.empty() || has_ended || is_broken;
    if (listener != nullptr && ((wants_read && is_readable) || (wants_write && room > 0))) {
      listener->stream_ready();
    }
  }
};

class FakeStream final : public VsockStream {
 public:
  explicit FakeStream(FakePeer& peer) : peer_(peer) {}
  ~FakeStream() override {
    peer_.is_alive = false;
    peer_.listener = nullptr;
  }
  void attach(VsockStreamListener* listener) override { peer_.listener = listener; }
  Outcome read(std::span<const iovec> to) override {
    ++peer_.reads;
    if (peer_.is_broken) return {0, Status::Failed};
    size_t done = 0;
    for (const iovec& part : to) {
      const size_t step = std::min(part.iov_len, peer_.to_guest.size() - done);
      std::memcpy(part.iov_base, peer_.to_guest.data() + done, step);
      done += step;
    }
    peer_.to_guest.erase(0, done);
    if (done != 0) return {done, Status::Ok};
    return {0, peer_.has_ended ? Status::End : Status::Blocked};
  }
  Outcome write(std::span<const iovec> from) override {
    if (peer_.is_broken) return {0, Status::Failed};
    size_t done = 0;
    for (const iovec& part : from) {
      const size_t step = std::min(part.iov_len, peer_.room);
      peer_.from_guest.append(static_cast<const char*>(part.iov_base), step);
      peer_.room -= step;
      done += step;
      if (step < part.iov_len) return {done, Status::Blocked};
    }
    return {done, Status::Ok};
  }
  void want(bool reading, bool writing) override {
    peer_.wants_read = reading;
    peer_.wants_write = writing;
  }
  void end_writing() override { peer_.saw_end = true; }
  void accepted(uint32_t host_port) override { peer_.accepted_port = host_port; }

 private:
  FakePeer& peer_;
};

class FakeHost final : public VsockHost {
 public:
  void attach(VsockGuest* to) override { guest = to; }
  std::unique_ptr<VsockStream> connect(uint32_t host_port) override {
    if (host_port != listening_port) return nullptr;
    return make_stream();
  }
  std::unique_ptr<VsockStream> make_stream() {
    peers.emplace_back();
    return std::make_unique<FakeStream>(peers.back());
  }

  VsockGuest* guest = nullptr;
  uint32_t listening_port = 1000;
  std::list<FakePeer> peers;
};

}  // namespace trapeze
