// A back end that answers anything to anything. Nothing may crash, hang, or grow.
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "backend/vhost_user/socket_backend.h"
#include "base/check.h"

namespace trapeze {
namespace {

using vhost_user::Header;
using vhost_user::Request;

constexpr uint32_t kConfigBytes = 60;

class Input {
 public:
  Input(const uint8_t* data, size_t size) : left_(data, size) {}
  bool is_empty() const { return left_.empty(); }
  template <typename T>
  T take() {
    T value{};
    const auto bytes = take_bytes(sizeof(T));
    if (!bytes.empty()) std::memcpy(&value, bytes.data(), bytes.size());
    return value;
  }
  std::span<const uint8_t> take_bytes(size_t size) {
    const auto bytes = left_.first(std::min(size, left_.size()));
    left_ = left_.subspan(bytes.size());
    return bytes;
  }

 private:
  std::span<const uint8_t> left_;
};

// The other end of the newest connection.
struct Peer {
  void send(std::span<const std::byte> bytes) {
    [[maybe_unused]] const auto sent =
        ::send(socket.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  }
  void reply(Request request, std::span<const std::byte> payload) {
    const Header header{static_cast<uint32_t>(request),
                        vhost_user::kVersion | vhost_user::kFlagReply,
                        static_cast<uint32_t>(payload.size())};
    send(std::as_bytes(std::span(&header, 1)));
    send(payload);
  }
  template <typename T>
  void reply_value(Request request, const T& value) {
    reply(request, std::as_bytes(std::span<const T, 1>(&value, 1)));
  }
  void drain() {
    std::array<char, 4096> buffer;
    while (::recv(socket.get(), buffer.data(), buffer.size(), MSG_DONTWAIT) > 0) {
    }
  }
  Fd socket;
};

// The answers to what a connection begins with, some of them wrong.
void answer_questions(Peer& peer, Input& input) {
  const auto odd = input.take<uint8_t>();  // which one is replaced by anything
  const auto is_odd = [&](uint8_t number) {
    if (odd != number) return false;
    const auto size = input.take<uint8_t>();
    peer.send(std::as_bytes(input.take_bytes(size)));
    return true;
  };
  uint64_t features = input.take<uint64_t>();
  if ((odd & 0x80) == 0) features |= vhost_user::kFeatureProtocol;
  const uint64_t protocol = input.take<uint16_t>() | vhost_user::kProtocolConfig;
  if (!is_odd(0)) peer.reply_value(Request::GetFeatures, features);
  if (!is_odd(1)) peer.reply_value(Request::GetProtocolFeatures, protocol);
  if ((protocol & vhost_user::kProtocolReplyAck) != 0 && !is_odd(2)) {
    peer.reply_value(Request::SetOwner, uint64_t{0});
  }
  if ((protocol & vhost_user::kProtocolMultiQueue) != 0 && !is_odd(3)) {
    peer.reply_value(Request::GetQueueNum, input.take<uint64_t>());
  }
  std::array<std::byte, sizeof(vhost_user::ConfigHeader) + kConfigBytes> config{};
  if (!is_odd(4)) peer.reply(Request::GetConfig, config);
}

struct Client final : VhostUserClient {
  bool backend_ready(const VhostUserInfo& info) override {
    CHECK(info.config.size() == kConfigBytes);
    return true;
  }
  void backend_started() override {}
  void backend_lost() override {}
};

void step(SocketBackend& backend, EventLoop& loop, Peer& peer, Input& input, int fd) {
  const std::array<std::byte, 4> bytes{};
  switch (input.take<uint8_t>() % 7) {
    case 0:
      if (backend.is_ready()) {
        backend.start({.features = input.take<uint64_t>(),
                       .regions = {{0, 4096, 4096, 0, fd}},
                       .rings = {{0, 1024, 0, 0, 0, fd, fd}, {1, 1024, 0, 0, 0, fd, fd}}});
      }
      break;
    case 1:
      backend.stop();
      break;
    case 2:
      backend.write_config(input.take<uint8_t>(), bytes);
      break;
    case 3:
      peer.send(std::as_bytes(input.take_bytes(input.take<uint8_t>())));
      break;
    case 4:
      peer.reply_value(static_cast<Request>(input.take<uint8_t>() % 32), input.take<uint64_t>());
      break;
    case 5:
      peer.reply_value(static_cast<Request>(2 + input.take<uint8_t>() % 20), uint64_t{0});
      break;
    default:
      peer.socket.reset();
      break;
  }
  if (peer.socket.is_open()) peer.drain();
  loop.start_timer(std::chrono::microseconds(1), [&loop] { loop.stop(); });
  loop.run();
}

}  // namespace
}  // namespace trapeze

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trapeze;
  set_log_level(LogLevel::Error);
  Input input(data, size);
  auto loop = std::move(EventLoop::create()).value();
  const Fd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  Peer peer;
  int connections = 0;
  SocketBackendConfig config;
  config.name = "fuzzed";
  config.config_bytes = kConfigBytes;
  config.reply_limit = config.stop_limit = std::chrono::milliseconds(1);
  config.first_retry = config.last_retry = std::chrono::milliseconds(1);
  config.connect = [&]() -> Result<vhost_user::Channel> {
    if (++connections > 4) return fail("enough");
    int ends[2];
    CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    peer.socket = Fd(ends[1]);
    answer_questions(peer, input);
    return vhost_user::Channel(Fd(ends[0]));
  };
  auto backend = SocketBackend::create(config, *loop);
  if (!backend) return 0;
  Client client;
  (*backend)->attach(&client);
  for (int i = 0; i < 40 && !input.is_empty(); ++i) {
    step(**backend, *loop, peer, input, event.get());
  }
  return 0;
}
