#include "backend/net/helper/user_network.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/clock.h"
#include "virtio/net/protocol.h"

namespace trapeze {

using user_wire::kMaxMessageBytes;

namespace {

constexpr uint32_t kJammedMs = 20;

int64_t now_ns() { return static_cast<int64_t>(HostClock().monotonic_ns()); }

in_addr place(uint32_t network, uint32_t host) { return {.s_addr = htonl(network | host)}; }

short poll_events(int events) {
  return static_cast<short>(((events & SLIRP_POLL_IN) != 0 ? POLLIN : 0) |
                            ((events & SLIRP_POLL_OUT) != 0 ? POLLOUT : 0) |
                            ((events & SLIRP_POLL_PRI) != 0 ? POLLPRI : 0));
}

int slirp_events(short events) {
  return ((events & POLLIN) != 0 ? SLIRP_POLL_IN : 0) |
         ((events & POLLOUT) != 0 ? SLIRP_POLL_OUT : 0) |
         ((events & POLLPRI) != 0 ? SLIRP_POLL_PRI : 0) |
         ((events & POLLERR) != 0 ? SLIRP_POLL_ERR : 0) |
         ((events & POLLHUP) != 0 ? SLIRP_POLL_HUP : 0);
}

}  // namespace

// What libslirp calls; `opaque` is the UserNetwork.
struct UserNetwork::Callbacks {
  static UserNetwork& self(void* opaque) { return *static_cast<UserNetwork*>(opaque); }

  static ssize_t send(const void* bytes, size_t size, void* opaque) {
    self(opaque).send_to_guest({static_cast<const std::byte*>(bytes), size});
    return static_cast<ssize_t>(size);
  }
  static void guest_error(const char*, void*) {}  // as often as the guest likes
  static int64_t clock(void*) { return now_ns(); }
  static void* new_timer(SlirpTimerId id, void* timer_opaque, void* opaque) {
    auto& timers = self(opaque).timers_;
    timers.push_back(std::make_unique<Timer>(Timer{id, timer_opaque, -1}));
    return timers.back().get();
  }
  static void free_timer(void* timer, void* opaque) {
    std::erase_if(self(opaque).timers_, [&](const auto& other) { return other.get() == timer; });
  }
  static void set_timer(void* timer, int64_t at_ms, void*) {
    static_cast<Timer*>(timer)->at_ms = at_ms;
  }
  static void ignore_fd(int, void*) {}
  static void ignore(void*) {}
  static int add_poll(int fd, int events, void* opaque) {
    auto& polled = self(opaque).polled_;
    polled.push_back({.fd = fd, .events = poll_events(events), .revents = 0});
    return static_cast<int>(polled.size() - 1);
  }
  static int polled_events(int index, void* opaque) {
    return slirp_events(self(opaque).polled_[static_cast<size_t>(index)].revents);
  }

  static constexpr SlirpCb kTable{.send_packet = send,
                                  .guest_error = guest_error,
                                  .clock_get_ns = clock,
                                  .timer_new = nullptr,
                                  .timer_free = free_timer,
                                  .timer_mod = set_timer,
                                  .register_poll_fd = ignore_fd,
                                  .unregister_poll_fd = ignore_fd,
                                  .notify = ignore,
                                  .init_completed = nullptr,
                                  .timer_new_opaque = new_timer};
};

UserNetwork::UserNetwork(const SlirpLibrary& slirp, const user_wire::UserNetworkOrder& order,
                         bool has_udp_ports, Fd guest, FrameRingWriter frames)
    : slirp_(slirp),
      guest_address_(place(order.network, user_wire::kGuestHost)),
      guest_(std::move(guest)),
      frames_(std::move(frames)),
      batch_(kBatch * kMaxMessageBytes) {
  SlirpConfig config{};
  config.version = 4;
  config.in_enabled = true;
  config.vnetwork = place(order.network, 0);
  config.vnetmask = {.s_addr = htonl(0xffff'ff00)};
  config.vhost = place(order.network, user_wire::kGatewayHost);
  config.vnameserver = place(order.network, user_wire::kDnsHost);
  config.vdhcp_start = guest_address_;
  config.vhostname = "trapeze";
  config.if_mtu = config.if_mru = order.mtu;
  if (order.may_reach_host_loopback == 0) {
    // libslirp would also keep back the answers to datagrams that came from this host.
    config.disable_host_loopback = !has_udp_ports;
    if (has_udp_ports) guard_.emplace(order.network);
  }
  network_ = slirp_.create(&config, &Callbacks::kTable, this);
}

UserNetwork::~UserNetwork() {
  if (network_ != nullptr) slirp_.destroy(network_);
}

Result<std::unique_ptr<UserNetwork>> UserNetwork::create(
    const SlirpLibrary& slirp, const user_wire::UserNetworkOrder& order,
    std::span<const user_wire::PublishedPort> ports, Fd guest, FrameRingWriter frames) {
  const bool has_udp_ports =
      std::any_of(ports.begin(), ports.end(), [](const auto& port) { return port.is_udp != 0; });
  std::unique_ptr<UserNetwork> network(
      new UserNetwork(slirp, order, has_udp_ports, std::move(guest), std::move(frames)));
  if (network->network_ == nullptr) return fail("libslirp refuses the configuration");
  for (const auto& port : ports) TRY(network->publish(port));
  return network;
}

Result<void> UserNetwork::publish(const user_wire::PublishedPort& port) {
  if (slirp_.add_forward(network_, port.is_udp != 0 ? 1 : 0, port.host_address, port.host_port,
                         guest_address_, port.guest_port) == 0) {
    return {};
  }
  const int os_error = errno;
  char address[INET_ADDRSTRLEN] = {};
  ::inet_ntop(AF_INET, &port.host_address, address, sizeof(address));
  return fail("cannot listen on {} port {} of {}: {}", port.is_udp != 0 ? "UDP" : "TCP",
              port.host_port, address, errno_text(os_error));
}

void UserNetwork::run() {
  while (!is_over_) {
    uint32_t timeout_ms = 60'000;
    polled_.clear();
    polled_.push_back({.fd = guest_.get(), .events = POLLIN, .revents = 0});
    send_waiting();
    frames_.flush();
    const bool is_jammed = !waiting_.empty();
    slirp_.fill_poll(network_, &timeout_ms, Callbacks::add_poll, this);
    if (is_jammed) {
      polled_.resize(1);
      timeout_ms = std::max(timeout_ms, kJammedMs);  // what is due now has to wait
    }
    wait(timer_delay_ms(timeout_ms));
    if ((polled_[0].revents & (POLLIN | POLLHUP | POLLERR)) != 0) is_over_ = !take_guest_frames();
    run_timers();
    if (!is_jammed) slirp_.handle_poll(network_, 0, Callbacks::polled_events, this);
  }
}

void UserNetwork::wait(uint32_t timeout_ms) {
  const int timeout = static_cast<int>(std::min<uint32_t>(timeout_ms, 60'000));
  if (::poll(polled_.data(), polled_.size(), timeout) < 0) {
    for (pollfd& slot : polled_) slot.revents = 0;
  }
}

void UserNetwork::run_timers() {
  const int64_t now_ms = now_ns() / 1'000'000;
  // Handlers may change the list.
  for (size_t i = 0; i < timers_.size(); ++i) {
    Timer& timer = *timers_[i];
    if (timer.at_ms < 0 || timer.at_ms > now_ms) continue;
    timer.at_ms = -1;
    slirp_.handle_timer(network_, timer.id, timer.opaque);
  }
}

uint32_t UserNetwork::timer_delay_ms(uint32_t limit_ms) const {
  const int64_t now_ms = now_ns() / 1'000'000;
  for (const auto& timer : timers_) {
    if (timer->at_ms < 0) continue;
    const int64_t delay = std::max<int64_t>(0, timer->at_ms - now_ms);
    limit_ms = static_cast<uint32_t>(std::min<int64_t>(limit_ms, delay));
  }
  return limit_ms;
}

// From the guest ----------------------------------------------------------------------------------

// False: the VMM is gone.
bool UserNetwork::take_guest_frames() {
  std::array<mmsghdr, kBatch> messages{};
  std::array<iovec, kBatch> parts;
  for (size_t i = 0; i < kBatch; ++i) {
    parts[i] = {batch_.data() + i * kMaxMessageBytes, kMaxMessageBytes};
    messages[i].msg_hdr.msg_iov = &parts[i];
    messages[i].msg_hdr.msg_iovlen = 1;
  }
  const int count = ::recvmmsg(guest_.get(), messages.data(), kBatch, MSG_DONTWAIT, nullptr);
  if (count < 0) return errno == EAGAIN || errno == EINTR || errno == ENOBUFS;
  for (int i = 0; i < count; ++i) {
    const auto index = static_cast<size_t>(i);
    // There are no empty messages: this is the end.
    if (messages[index].msg_len == 0) return false;
    handle_message(
        std::span(static_cast<std::byte*>(parts[index].iov_base), messages[index].msg_len));
  }
  return count != 0;
}

void UserNetwork::handle_message(std::span<std::byte> message) {
  if (message.size() == 1) {
    header_flags_ = static_cast<uint8_t>(message[0]);
    return;
  }
  if (message.size() == user_wire::kRoomMessageBytes) return;  // run() looks in any case
  if (message.size() <= net::kHeaderBytes || message.size() == kMaxMessageBytes) return;
  net::Header header;
  std::memcpy(&header, message.data(), sizeof(header));
  const auto frame = message.subspan(sizeof(header));
  // A segment that is larger than the MTU (TSO) is one large packet here: libslirp takes it so.
  if ((header.flags & net::kHeaderNeedsCsum) != 0 &&
      !complete_checksum(frame, header.csum_start, header.csum_offset)) {
    return;
  }
  switch (classify_frame(frame)) {
    case FrameKind::Forbidden:
      return;
    case FrameKind::Fragment:
      if (!fragments_.take(frame.size(), static_cast<uint64_t>(now_ns()) / 1'000'000)) return;
      break;
    case FrameKind::Ordinary:
      break;
  }
  if (guard_ && !guard_->may_pass(frame)) return;
  slirp_.input(network_, reinterpret_cast<const uint8_t*>(frame.data()),
               static_cast<int>(frame.size()));
}

// To the guest ------------------------------------------------------------------------------------

void UserNetwork::send_to_guest(std::span<const std::byte> frame) {
  if (frame.empty() || frame.size() > net::kMaxFrameBytes) return;
  if (guard_) guard_->note_to_guest(frame);
  if (waiting_.empty() && try_send(frame)) return;
  if (frame.size() > kMaxWaitingBytes - waiting_bytes_) return;  // as a full network does
  waiting_.emplace_back(frame.begin(), frame.end());
  waiting_bytes_ += frame.size();
}

// HOT. False: not now.
bool UserNetwork::try_send(std::span<const std::byte> frame) {
  net::Header header;
  header.flags = header_flags_;
  const std::array<iovec, 2> parts{iovec{&header, sizeof(header)},
                                   iovec{const_cast<std::byte*>(frame.data()), frame.size()}};
  return frames_.put(parts);
}

void UserNetwork::send_waiting() {
  while (!waiting_.empty() && try_send(waiting_.front())) {
    waiting_bytes_ -= waiting_.front().size();
    waiting_.pop_front();
  }
}

}  // namespace trapeze
