// FakeDisk: a Disk in memory, for tests and fuzzers. It answers at once, or when told.
#pragma once

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/units.h"
#include "virtio/block/disk.h"

namespace trapeze {

class FakeDisk final : public Disk {
 public:
  explicit FakeDisk(uint64_t size_bytes, bool is_read_only = false) : bytes(size_bytes) {
    info_.size_bytes = size_bytes;
    info_.is_read_only = is_read_only;
    info_.can_discard = !is_read_only;
    info_.name = "fake";
  }

  const DiskInfo& info() const override { return info_; }
  void attach(DiskClient* client) override { client_ = client; }
  void submit(DiskRequest& request) override {
    CHECK(request.offset % kSectorBytes == 0 && request.bytes % kSectorBytes == 0);
    CHECK(request.offset <= bytes.size() && request.bytes <= bytes.size() - request.offset);
    seen.push_back(request.kind);
    last_was_durable = request.is_durable;
    if (is_holding) {
      held.push_back(&request);
    } else {
      finish(request);
    }
  }
  bool try_now(DiskRequest& request) override {
    if (!can_do_now) return false;
    seen.push_back(request.kind);
    ++done_now;
    finish(request);
    return true;
  }
  void end_of_batch() override {}
  void drain() override {
    for (DiskRequest* request : std::exchange(held, {})) finish(*request);
  }
  // What it holds, as if it had just become ready.
  void complete_held() {
    drain();
    client_->disk_done_end();
  }

  std::vector<std::byte> bytes;
  std::vector<DiskRequest*> held;
  std::vector<DiskRequest::Kind> seen;
  bool is_holding = false;
  bool can_do_now = false;
  int done_now = 0;
  bool last_was_durable = false;
  int os_error = 0;  // the answer to everything

 private:
  void finish(DiskRequest& request) {
    if (os_error == 0) run(request);
    client_->disk_done(request, os_error);
  }
  void run(DiskRequest& request) {
    std::byte* at = bytes.data() + request.offset;
    if (request.kind == DiskRequest::Kind::WriteZeroes) std::memset(at, 0, request.bytes);
    uint64_t done = 0;
    for (const iovec& part : request.parts) {
      if (request.kind == DiskRequest::Kind::Read) std::memcpy(part.iov_base, at, part.iov_len);
      if (request.kind == DiskRequest::Kind::Write) std::memcpy(at, part.iov_base, part.iov_len);
      at += part.iov_len;
      done += part.iov_len;
    }
    const bool is_data =
        request.kind == DiskRequest::Kind::Read || request.kind == DiskRequest::Kind::Write;
    CHECK(done == (is_data ? request.bytes : 0));
  }

  DiskInfo info_;
  DiskClient* client_ = nullptr;
};

}  // namespace trapeze
