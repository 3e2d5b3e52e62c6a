// TestClient: drives a Disk as the device does, and waits for its answers. For tests.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/event_loop.h"
#include "virtio/block/disk.h"

namespace trapeze {

class TestClient final : public DiskClient {
 public:
  explicit TestClient(EventLoop& loop) : loop_(loop) {}
  void use(Disk* disk) {
    if (disk_ != nullptr) disk_->attach(nullptr);
    disk_ = disk;
    if (disk_ != nullptr) disk_->attach(this);
  }

  void disk_done(DiskRequest& request, int os_error) override {
    CHECK(!done.contains(&request));
    done[&request] = os_error;
  }
  void disk_done_end() override { loop_.stop(); }

  // 0 or an errno value.
  int run(DiskRequest& request) {
    if (tries_at_once && disk_->try_now(request)) {
      ++done_at_once;
      CHECK(done.contains(&request));
    } else {
      CHECK(!done.contains(&request));
      disk_->submit(request);
      disk_->end_of_batch();
    }
    while (!done.contains(&request)) loop_.run();
    const int os_error = done[&request];
    done.erase(&request);
    return os_error;
  }
  int run(DiskRequest::Kind kind, uint64_t offset = 0, uint64_t bytes = 0, bool may_unmap = false) {
    DiskRequest request;
    request.kind = kind;
    request.offset = offset;
    request.bytes = bytes;
    request.may_unmap = may_unmap;
    return run(request);
  }
  int write(uint64_t offset, std::string text, bool is_durable = false) {
    DiskRequest request;
    request.kind = DiskRequest::Kind::Write;
    request.offset = offset;
    request.bytes = text.size();
    request.is_durable = is_durable;
    request.parts = parts_of(text);
    return run(request);
  }
  // Empty when it fails.
  std::string read(uint64_t offset, uint64_t bytes) {
    std::string text(bytes, '?');
    DiskRequest request;
    request.offset = offset;
    request.bytes = bytes;
    request.parts = parts_of(text);
    return run(request) == 0 ? text : std::string();
  }

  // Of different lengths, so that their borders fall anywhere.
  static std::vector<iovec> parts_of(std::string& text) {
    std::vector<iovec> parts;
    size_t step = 300;
    for (size_t at = 0; at < text.size(); at += step, step = step * 3 / 2) {
      parts.push_back({text.data() + at, 0});
      parts.back().iov_len = std::min(step, text.size() - at);
    }
    return parts;
  }

  std::map<DiskRequest*, int> done;
  bool tries_at_once = false;
  int done_at_once = 0;

 private:
  EventLoop& loop_;
  Disk* disk_ = nullptr;
};

}  // namespace trapeze
