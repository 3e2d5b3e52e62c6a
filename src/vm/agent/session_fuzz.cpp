// Whatever a hostile guest sends on the agent's ports, in whatever pieces: no crash, no hang, and
// bounded memory. Input: records of a port byte, a length byte and that many bytes.
#include <fcntl.h>

#include "vm/agent/session.h"

using namespace trapeze;

namespace {

class Guest final : public ConsoleGuest {
 public:
  size_t send(std::span<const std::byte> bytes) override { return bytes.size(); }
  void output_ready() override {}
  void set_host_open(bool) override {}
  void resize(uint16_t, uint16_t) override {}
};

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

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const int null_fd = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  static const auto loop = std::move(*EventLoop::create());
  Listener listener;
  Guest guest;
  auto session = AgentSession::create(*loop, {.argv = {"x"}, .env = {}, .working_directory = ""},
                                      {.in = null_fd, .out = null_fd, .err = null_fd}, listener);
  if (!session) return 0;
  const auto ports = (*session)->ports();
  for (const auto& port : ports) port.port->attach(&guest);
  // Past the greetings, which a fuzzer would rarely find.
  for (uint16_t role = 1; role <= 3; ++role) {
    const agent::Greeting greeting{.role = static_cast<agent::PortRole>(role)};
    ports[role - 1U].port->receive(std::as_bytes(std::span(&greeting, 1)));
  }
  std::span<const uint8_t> rest(data, size);
  while (rest.size() >= 2) {
    const auto& port = ports[rest[0] % ports.size()];
    const size_t length = std::min<size_t>(rest[1], rest.size() - 2);
    port.port->receive(std::as_bytes(rest.subspan(2, length)));
    port.port->on_guest_ready();
    rest = rest.subspan(2 + length);
  }
  return 0;
}
