// A client that sends anything to a machine's control socket, in any order, on several connections,
// while the console talks. Nothing may crash, hang or grow. Input: records of a connection byte, a
// packet type byte, a length byte and that many bytes.
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "vm/manage/control_server.h"

using namespace trapeze;
using namespace trapeze::manage;

namespace {

struct Machine final : ControlHandler {
  AgentState agent_state() const override { return state; }
  void stop_ordered(std::chrono::milliseconds) override {}
  Result<void> balloon_ordered(const BalloonOrder& order) override {
    if (order.reserved != 0) return fail("no");
    return {};
  }
  AgentState state = AgentState::Booting;
};

std::string make_folder() {
  std::string pattern = "/tmp/trapeze-control-fuzz-XXXXXX";
  if (::mkdtemp(pattern.data()) == nullptr) std::abort();
  return pattern;
}

Fd connect_to(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size());
  Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  (void)::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address));
  return socket;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::string path = make_folder() + "/control";
  static const auto loop = std::move(*EventLoop::create());
  ::unlink(path.c_str());
  ConsoleHub console(*loop, nullptr);
  Machine machine;
  const auto server = std::move(*ControlServer::create(path, *loop, console, machine));
  size_t room = 0;
  console.set_handlers({.input = [&](std::span<const std::byte> bytes) {
                          return std::min(bytes.size(), room);
                        },
                        .resize = [](uint16_t, uint16_t) {}});
  Fd clients[4];
  std::span<const uint8_t> rest(data, size);
  while (rest.size() >= 3) {
    Fd& client = clients[rest[0] % 4];
    if (!client.is_open()) client = connect_to(path);
    const size_t length = std::min<size_t>(rest[2], rest.size() - 3);
    const auto payload = rest.subspan(3, length);
    switch (rest[0] >> 5) {
      case 0:
        client.reset();
        break;
      case 1:
        console.write(payload);
        break;
      case 2:
        room = length;
        console.room_available();
        break;
      case 3:
        machine.state = static_cast<AgentState>(length % 3);
        server->agent_state_changed();
        break;
      case 4:
        server->answer_balloon("text");
        break;
      case 5:
        (void)::send(client.get(), payload.data(), payload.size(), MSG_NOSIGNAL);
        break;
      default: {
        const PacketHeader header{.type = static_cast<PacketType>(rest[1] % 40)};
        iovec parts[2] = {{const_cast<PacketHeader*>(&header), sizeof(header)},
                          {const_cast<uint8_t*>(payload.data()), payload.size()}};
        msghdr message{};
        message.msg_iov = parts;
        message.msg_iovlen = 2;
        (void)::sendmsg(client.get(), &message, MSG_NOSIGNAL);
        break;
      }
    }
    rest = rest.subspan(3 + length);
    for (int i = 0; i < 2; ++i) {
      loop->post([] { loop->stop(); });
      loop->run();
    }
    CHECK(server->connections() <= 8);
  }
  return 0;
}
