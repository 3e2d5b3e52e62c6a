// FakeProcess: the other side of a vhost-user socket, on a thread of its own: speaks the protocol
// and serves rings by copying what it reads into what it may write. It can be told to misbehave.
// For tests only.
#pragma once

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <atomic>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/vhost_user/protocol.h"
#include "base/check.h"
#include "base/fd.h"
#include "base/mapping.h"
#include "base/thread.h"

namespace trapeze::vhost_user {

struct FakeBehaviour {
  uint64_t features = (uint64_t{1} << 32) | kFeatureProtocol;
  uint64_t protocol = kProtocolMultiQueue | kProtocolReplyAck | kProtocolConfig;
  uint64_t queues = 4;
  std::vector<std::byte> config = std::vector<std::byte>(60);
  // Messages of this kind are never answered / are refused / are answered with this.
  std::optional<Request> mute{};
  std::optional<Request> refuse{};
  std::function<std::vector<std::byte>(Request)> answer_raw{};  // whole bytes; empty: as usual
  bool is_holding = false;  // takes requests, and does not finish them
  // What to put into the used ring instead.
  std::optional<uint32_t> used_id{};
  std::optional<uint32_t> used_len{};
};

class FakeProcess {
 public:
  FakeProcess(const std::string& path, FakeBehaviour behaviour)
      : behaviour_(std::move(behaviour)),
        listener_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)),
        stop_(::eventfd(0, EFD_CLOEXEC)) {
    ::unlink(path.c_str());
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    CHECK(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
    CHECK(::listen(listener_.get(), 4) == 0);
    thread_ = Thread("fake-backend", [this] { run(); });
  }
  // As if it were killed.
  ~FakeProcess() {
    const uint64_t one = 1;
    CHECK(::write(stop_.get(), &one, sizeof(one)) == sizeof(one));
    thread_.join();
  }

  uint64_t requests() const { return requests_.load(std::memory_order_acquire); }
  uint64_t accepted_features() const { return accepted_.load(std::memory_order_acquire); }
  int written_config() const { return written_config_.load(std::memory_order_acquire); }
  int stopped_rings() const { return stopped_rings_.load(std::memory_order_acquire); }

 private:
  struct Region {
    MemRegion where;
    Mapping mapping;
  };
  struct Ring {
    uint32_t size = 0;
    VringAddr addr;
    Fd kick;
    Fd call;
    uint16_t next_avail = 0;
    uint16_t next_used = 0;
    bool is_enabled = false;
  };

  void run() {
    while (true) {
      pollfd waits[2] = {{listener_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
      ::poll(waits, 2, -1);
      if (waits[1].revents != 0) return;
      socket_ = Fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      while (serve_once()) {
      }
      socket_.reset();
      rings_.clear();
      regions_.clear();
    }
  }

  // False when the connection or this process is to end.
  bool serve_once() {
    std::vector<pollfd> waits{{socket_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
    std::vector<uint32_t> numbers;
    for (auto& [number, ring] : rings_) {
      const bool is_on = ring.is_enabled || (behaviour_.features & kFeatureProtocol) == 0;
      if (!ring.kick.is_open() || !is_on) continue;
      waits.push_back({ring.kick.get(), POLLIN, 0});
      numbers.push_back(number);
    }
    ::poll(waits.data(), waits.size(), -1);
    if (waits[1].revents != 0) return false;
    for (size_t i = 0; i < numbers.size(); ++i) {
      if (waits[i + 2].revents == 0) continue;
      uint64_t count = 0;
      [[maybe_unused]] const auto got = ::read(waits[i + 2].fd, &count, sizeof(count));
      serve_ring(rings_[numbers[i]]);
    }
    return waits[0].revents == 0 || take_message();
  }

  bool take_message() {
    Header header;
    std::array<char, 512> control{};
    iovec part{&header, sizeof(header)};
    msghdr envelope{};
    envelope.msg_iov = &part;
    envelope.msg_iovlen = 1;
    envelope.msg_control = control.data();
    envelope.msg_controllen = control.size();
    if (::recvmsg(socket_.get(), &envelope, MSG_WAITALL | MSG_CMSG_CLOEXEC) != sizeof(header)) {
      return false;
    }
    std::vector<Fd> fds;
    for (cmsghdr* rights = CMSG_FIRSTHDR(&envelope); rights != nullptr;
         rights = CMSG_NXTHDR(&envelope, rights)) {
      for (size_t at = CMSG_LEN(0); at < rights->cmsg_len; at += sizeof(int)) {
        int fd = -1;
        std::memcpy(&fd, reinterpret_cast<char*>(rights) + at, sizeof(fd));
        fds.emplace_back(fd);
      }
    }
    std::vector<std::byte> payload(header.size);
    if (header.size != 0 && ::recv(socket_.get(), payload.data(), payload.size(), MSG_WAITALL) !=
                                static_cast<ssize_t>(payload.size())) {
      return false;
    }
    return handle(header, payload, fds);
  }

  template <typename T>
  static T value_of(const std::vector<std::byte>& payload, size_t offset = 0) {
    T value{};
    CHECK(offset + sizeof(T) <= payload.size());
    std::memcpy(&value, payload.data() + offset, sizeof(T));
    return value;
  }
  template <typename T>
  static std::vector<std::byte> bytes(const T& value) {
    std::vector<std::byte> result(sizeof(T));
    std::memcpy(result.data(), &value, sizeof(T));
    return result;
  }

  bool handle(const Header& header, const std::vector<std::byte>& payload, std::vector<Fd>& fds) {
    const auto request = static_cast<Request>(header.request);
    if (behaviour_.mute == request) return true;
    if (behaviour_.answer_raw) {
      const auto raw = behaviour_.answer_raw(request);
      if (!raw.empty()) {
        [[maybe_unused]] const auto sent =
            ::send(socket_.get(), raw.data(), raw.size(), MSG_NOSIGNAL);
        return true;
      }
    }
    const auto reply = act(request, payload, fds);
    const bool is_refused = behaviour_.refuse == request;
    if (!reply.empty()) return send(request, reply);
    if ((header.flags & kFlagNeedReply) != 0) {
      return send(request, bytes(uint64_t{is_refused ? 1U : 0U}));
    }
    return true;
  }

  bool send(Request request, const std::vector<std::byte>& payload) {
    const Header header{static_cast<uint32_t>(request), kVersion | kFlagReply,
                        static_cast<uint32_t>(payload.size())};
    auto all = bytes(header);
    all.insert(all.end(), payload.begin(), payload.end());
    return ::send(socket_.get(), all.data(), all.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(all.size());
  }

  // The answer, where the message has one.
  std::vector<std::byte> act(Request request, const std::vector<std::byte>& payload,
                             std::vector<Fd>& fds) {
    switch (request) {
      case Request::GetFeatures:
        return bytes(behaviour_.features);
      case Request::GetProtocolFeatures:
        return bytes(behaviour_.protocol);
      case Request::GetQueueNum:
        return bytes(behaviour_.queues);
      case Request::SetFeatures:
        accepted_.store(value_of<uint64_t>(payload), std::memory_order_release);
        return {};
      case Request::GetConfig: {
        auto reply = payload;
        reply.resize(sizeof(ConfigHeader));
        reply.insert(reply.end(), behaviour_.config.begin(), behaviour_.config.end());
        return reply;
      }
      case Request::SetConfig:
        written_config_.store(static_cast<int>(payload.back()), std::memory_order_release);
        return {};
      case Request::SetMemTable:
        map_memory(payload, fds);
        return {};
      case Request::SetVringNum: {
        const auto state = value_of<VringState>(payload);
        rings_[state.index].size = state.num;
        return {};
      }
      case Request::SetVringAddr: {
        const auto addr = value_of<VringAddr>(payload);
        rings_[addr.index].addr = addr;
        return {};
      }
      case Request::SetVringBase: {
        Ring& ring = rings_[value_of<VringState>(payload).index];
        ring.next_avail = ring.next_used = 0;
        return {};
      }
      case Request::SetVringKick:
        rings_[static_cast<uint32_t>(value_of<uint64_t>(payload) & 0xff)].kick =
            std::move(fds.at(0));
        return {};
      case Request::SetVringCall:
        rings_[static_cast<uint32_t>(value_of<uint64_t>(payload) & 0xff)].call =
            std::move(fds.at(0));
        return {};
      case Request::SetVringEnable: {
        const auto state = value_of<VringState>(payload);
        rings_[state.index].is_enabled = state.num == 1;
        return {};
      }
      case Request::GetVringBase: {
        const auto state = value_of<VringState>(payload);
        rings_.erase(state.index);
        stopped_rings_.fetch_add(1, std::memory_order_acq_rel);
        return bytes(VringState{state.index, 0});
      }
      case Request::SetOwner:
      case Request::SetProtocolFeatures:
        return {};
    }
    return {};
  }

  void map_memory(const std::vector<std::byte>& payload, std::vector<Fd>& fds) {
    const auto table = value_of<MemTableHeader>(payload);
    CHECK(fds.size() == table.regions);
    regions_.clear();
    for (uint32_t i = 0; i < table.regions; ++i) {
      const auto where =
          value_of<MemRegion>(payload, sizeof(MemTableHeader) + i * sizeof(MemRegion));
      auto mapping = Mapping::create(where.size, PROT_READ | PROT_WRITE, MAP_SHARED, fds[i].get(),
                                     where.file_offset, "a region");
      CHECK(mapping.has_value());
      regions_.push_back({where, std::move(*mapping)});
    }
  }

  std::byte* at_user(uint64_t address) {
    for (Region& region : regions_) {
      const uint64_t offset = address - region.where.user_address;
      if (offset < region.where.size) return region.mapping.data() + offset;
    }
    CHECK(false);
    return nullptr;
  }
  std::byte* at_guest(uint64_t address, uint64_t len) {
    for (Region& region : regions_) {
      const uint64_t offset = address - region.where.guest_address;
      if (offset < region.where.size && len <= region.where.size - offset) {
        return region.mapping.data() + offset;
      }
    }
    CHECK(false);
    return nullptr;
  }

  struct Descriptor {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next;
  };

  void serve_ring(Ring& ring) {
    std::byte* const avail = at_user(ring.addr.avail);
    std::byte* const used = at_user(ring.addr.used);
    const auto* const avail_idx = reinterpret_cast<const uint16_t*>(avail + 2);
    bool has_done = false;
    while (__atomic_load_n(avail_idx, __ATOMIC_ACQUIRE) != ring.next_avail) {
      uint16_t head = 0;
      std::memcpy(&head, avail + 4 + (ring.next_avail % ring.size) * size_t{2}, 2);
      ++ring.next_avail;
      requests_.fetch_add(1, std::memory_order_acq_rel);
      if (behaviour_.is_holding) continue;
      const uint32_t len = echo(ring, head);
      const uint32_t element[2] = {behaviour_.used_id.value_or(head),
                                   behaviour_.used_len.value_or(len)};
      std::memcpy(used + 4 + (ring.next_used % ring.size) * size_t{8}, element, sizeof(element));
      ++ring.next_used;
      __atomic_store_n(reinterpret_cast<uint16_t*>(used + 2), ring.next_used, __ATOMIC_RELEASE);
      has_done = true;
    }
    const uint64_t one = 1;
    if (has_done) CHECK(::write(ring.call.get(), &one, sizeof(one)) == sizeof(one));
  }

  // Writes the bytes that it reads, in order, and zeros behind them; how much it wrote.
  uint32_t echo(Ring& ring, uint16_t head) {
    std::vector<std::byte> content;
    size_t taken = 0;
    uint32_t written = 0;
    const std::byte* const table = at_user(ring.addr.desc);
    for (uint16_t index = head;;) {
      Descriptor descriptor;
      std::memcpy(&descriptor, table + index * sizeof(descriptor), sizeof(descriptor));
      std::byte* const host = at_guest(descriptor.addr, descriptor.len);
      if ((descriptor.flags & 2) == 0) {
        content.insert(content.end(), host, host + descriptor.len);
      } else {
        for (uint32_t i = 0; i < descriptor.len; ++i) {
          host[i] = taken < content.size() ? content[taken++] : std::byte{0};
        }
        written += descriptor.len;
      }
      if ((descriptor.flags & 1) == 0) return written;
      index = descriptor.next;
    }
  }

  const FakeBehaviour behaviour_;
  Fd listener_;
  Fd stop_;
  Fd socket_;
  std::vector<Region> regions_;
  std::map<uint32_t, Ring> rings_;
  std::atomic<uint64_t> requests_{0};
  std::atomic<uint64_t> accepted_{0};
  std::atomic<int> written_config_{-1};
  std::atomic<int> stopped_rings_{0};
  Thread thread_;
};

}  // namespace trapeze::vhost_user
