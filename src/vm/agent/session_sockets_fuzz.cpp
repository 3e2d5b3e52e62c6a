// A hostile guest behind a further session: whatever its agent answers, in whatever pieces, the
// host neither crashes nor hangs, and whatever it sends on the three connections goes through
// SocketPort into AgentSession. Input: a byte that says how far the handshake goes, then records of
// a connection byte, a length byte and that many bytes.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <optional>
#include <thread>

#include "agent/protocol.h"
#include "vm/agent/session.h"
#include "vm/agent/session_sockets.h"
#include "vm/agent/socket_port.h"

using namespace trapeze;

namespace {

class Listener final : public AgentListener {
 public:
  void agent_ready() override {}
  void command_started() override {}
  void command_failed(const agent::ExecFailed&) override {}
  void command_ended(const agent::Exited&) override {}
  void agent_broken(const std::string&) override {}
  void escape_typed() override {}
  void output_lost(const char*, int) override {}
};

struct Pair {
  Pair() {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) return;
    guest = Fd(ends[0]);
    host = Fd(ends[1]);
  }
  Fd guest;
  Fd host;
};

void send(const Fd& to, std::span<const uint8_t> bytes) {
  [[maybe_unused]] const auto sent =
      ::send(to.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

void fuzz_handshake(std::span<const uint8_t> input) {
  Pair pair;
  send(pair.guest, input);
  ::shutdown(pair.guest.get(), SHUT_WR);
  (void)finish_handshake(std::move(pair.host),
                         [](uint32_t) -> Result<Fd> { return fail("enough"); });
}

void fuzz_streams(std::span<const uint8_t> input) {
  static const int null_fd = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  static const auto loop = std::move(*EventLoop::create());
  Listener listener;
  Pair pairs[3];
  std::optional<SocketPort> ports[3];
  auto session = AgentSession::create(*loop, {.argv = {"x"}, .env = {}, .working_directory = ""},
                                      {.in = null_fd, .out = null_fd, .err = null_fd}, listener);
  if (!session) return;
  const auto configs = (*session)->ports();
  for (uint16_t i = 0; i < 3; ++i) {
    ports[i].emplace(*loop, std::move(pairs[i].host), *configs[i].port, [] {});
    if (!ports[i]->start()) return;
    const agent::Greeting greeting{.role = static_cast<agent::PortRole>(i + 1)};
    send(pairs[i].guest, {reinterpret_cast<const uint8_t*>(&greeting), sizeof(greeting)});
  }
  while (input.size() >= 2) {
    Pair& pair = pairs[input[0] % 3];
    const size_t length = std::min<size_t>(input[1], input.size() - 2);
    if ((input[0] & 0x80) != 0) {
      pair.guest.reset();
    } else if (pair.guest.is_open()) {
      send(pair.guest, input.subspan(2, length));
    }
    input = input.subspan(2 + length);
    loop->post([] { loop->stop(); });
    loop->run();
  }
  // The ports go before the session that they are joined with.
  for (auto& port : ports) port.reset();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::span<const uint8_t> input(data + 1, size - 1);
  if (data[0] % 8 == 0) {
    fuzz_handshake(input);
  } else {
    fuzz_streams(input);
  }
  return 0;
}
