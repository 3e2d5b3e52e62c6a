#include "vm/agent/session_sockets.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "agent/protocol.h"
#include "base/bytes.h"
#include "vm/agent/socket_port.h"

namespace trapeze {
namespace {

constexpr std::chrono::milliseconds kPatience{500};

// A machine's vsock socket with an agent behind it, which answers as a test says.
class FakeMachine {
 public:
  FakeMachine() {
    std::string pattern = testing::TempDir() + "trapeze-agent-XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path().c_str(), path().size());
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(::listen(listener_.get(), 4), 0);
  }
  ~FakeMachine() {
    ::unlink(path().c_str());
    ::rmdir(folder_.c_str());
  }
  std::string path() const { return folder_ + "/agent"; }

  // The port that was asked for.
  std::string accept(std::string_view answer) {
    sockets_.emplace_back(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    std::string line;
    for (char c = 0; ::read(sockets_.back().get(), &c, 1) == 1 && c != '\n';) line += c;
    send(std::as_bytes(std::span(answer)));
    return line;
  }
  void send(std::span<const std::byte> bytes) {
    EXPECT_EQ(::write(sockets_.back().get(), bytes.data(), bytes.size()),
              static_cast<ssize_t>(bytes.size()));
  }
  agent::SessionGreeting greeting() {
    agent::SessionGreeting greeting;
    EXPECT_EQ(::recv(sockets_.back().get(), &greeting, sizeof(greeting), MSG_WAITALL),
              static_cast<ssize_t>(sizeof(greeting)));
    return greeting;
  }
  void close_all() { sockets_.clear(); }

 private:
  std::string folder_;
  Fd listener_{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  std::vector<Fd> sockets_;
};

TEST(SessionSockets, three_connections_with_one_token) {
  FakeMachine machine;
  std::thread guest([&] {
    EXPECT_EQ(machine.accept("OK 7\n"), "CONNECT 1000");
    const auto control = machine.greeting();
    EXPECT_EQ(control.role, agent::PortRole::Control);
    machine.send(bytes_of_value(agent::SessionStreams{.port = 5555}));
    for (const auto role : {agent::PortRole::Stdio, agent::PortRole::Stderr}) {
      EXPECT_EQ(machine.accept("OK 8\n"), "CONNECT 5555");
      const auto stream = machine.greeting();
      EXPECT_EQ(stream.role, role);
      EXPECT_EQ(std::memcmp(stream.token, control.token, sizeof(stream.token)), 0);
    }
  });
  const auto sockets = connect_session(machine.path(), kPatience);
  guest.join();
  EXPECT_TRUE(sockets) << sockets.error().message;
}

TEST(SessionSockets, refusal_is_told) {
  FakeMachine machine;
  std::thread guest([&] {
    machine.accept("");
    machine.close_all();
  });
  const auto sockets = connect_session(machine.path(), kPatience);
  guest.join();
  ASSERT_FALSE(sockets);
  EXPECT_NE(sockets.error().message.find("does not take further commands"), std::string::npos);
}

TEST(SessionSockets, silence_ends_after_a_while) {
  FakeMachine machine;
  std::thread guest([&] { machine.accept("OK 1\n"); });
  const auto sockets = connect_session(machine.path(), std::chrono::milliseconds(50));
  guest.join();
  ASSERT_FALSE(sockets);
  EXPECT_NE(sockets.error().message.find("does not answer"), std::string::npos);
}

TEST(SessionSockets, senseless_answers_are_refused) {
  const std::string_view lines[] = {"NO 1\n", "OK 1\nxxxxxxxxxxxx",
                                    "0123456789012345678901234567890123"};
  for (const auto line : lines) {
    FakeMachine machine;
    std::thread guest([&] { machine.accept(line); });
    EXPECT_FALSE(connect_session(machine.path(), std::chrono::milliseconds(50))) << line;
    guest.join();
  }
}

// One stream between a socket and a port that takes as much as a test allows.
struct Stream final : ConsolePort {
  Stream() {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    peer = Fd(ends[0]);
    port.emplace(*loop, Fd(ends[1]), *this, [this] { ++ends_seen; });
    EXPECT_TRUE(port->start());
  }
  void attach(ConsoleGuest* to) override { guest = to; }
  size_t receive(std::span<const std::byte> bytes) override {
    const size_t taken = std::min(bytes.size(), room);
    received.append(reinterpret_cast<const char*>(bytes.data()), taken);
    room -= taken;
    return taken;
  }
  void on_guest_ready() override { ++ready_calls; }
  void on_guest_open(bool) override {}
  void turn() {
    for (int i = 0; i < 4; ++i) {
      loop->post([this] { loop->stop(); });
      loop->run();
    }
  }

  std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
  Fd peer;
  ConsoleGuest* guest = nullptr;
  std::string received;
  size_t room = 1000;
  int ready_calls = 0;
  int ends_seen = 0;
  std::optional<SocketPort> port;
};

TEST(SocketPort, bytes_that_are_not_taken_wait) {
  Stream stream;
  stream.room = 2;
  ASSERT_EQ(::write(stream.peer.get(), "abcde", 5), 5);
  stream.turn();
  EXPECT_EQ(stream.received, "ab");
  stream.room = 100;
  stream.guest->output_ready();
  stream.turn();
  EXPECT_EQ(stream.received, "abcde");
}

TEST(SocketPort, end_comes_after_all_bytes_and_once) {
  Stream stream;
  stream.room = 2;
  ASSERT_EQ(::write(stream.peer.get(), "abcde", 5), 5);
  stream.peer.reset();
  stream.turn();
  EXPECT_EQ(stream.ends_seen, 0);
  stream.room = 100;
  stream.guest->output_ready();
  stream.turn();
  EXPECT_EQ(stream.received, "abcde");
  EXPECT_EQ(stream.ends_seen, 1);
  EXPECT_EQ(stream.guest->send(std::as_bytes(std::span("x", 1))), 1U) << "dropped";
}

TEST(SocketPort, sender_goes_on_when_there_is_room) {
  Stream stream;
  const std::vector<std::byte> much(8 << 20);
  const size_t taken = stream.guest->send(much);
  EXPECT_LT(taken, much.size());
  stream.turn();
  EXPECT_EQ(stream.ready_calls, 0);
  std::vector<char> sink(much.size());
  size_t read = 0;
  while (read < taken) {
    const ssize_t got = ::read(stream.peer.get(), sink.data(), sink.size());
    ASSERT_GT(got, 0);
    read += static_cast<size_t>(got);
  }
  stream.turn();
  EXPECT_EQ(stream.ready_calls, 1);
}

TEST(SocketPort, port_is_told_of_the_end_of_the_connection_object) {
  Stream stream;
  stream.port.reset();
  EXPECT_EQ(stream.guest, nullptr);
}

}  // namespace
}  // namespace trapeze
