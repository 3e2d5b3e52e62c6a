#include "vm/agent/session.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <deque>

#include "base/bytes.h"

namespace trapeze {
namespace {

using Bytes = std::vector<std::byte>;

Bytes to_bytes(std::string_view text) {
  const auto span = std::as_bytes(std::span(text.data(), text.size()));
  return {span.begin(), span.end()};
}

// The guest's end of one port: keeps what the host sends, up to a limit that a test may move.
class FakeGuest final : public ConsoleGuest {
 public:
  size_t send(std::span<const std::byte> bytes) override {
    const size_t taken = std::min(bytes.size(), room);
    received.insert(received.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(taken));
    room -= taken;
    return taken;
  }
  void output_ready() override { ++output_ready_calls; }
  void set_host_open(bool) override {}
  void resize(uint16_t, uint16_t) override {}

  Bytes received;
  size_t room = SIZE_MAX;
  int output_ready_calls = 0;
};

struct Recorder final : AgentListener {
  void agent_ready() override { events += "ready "; }
  void command_started() override { events += "started "; }
  void command_failed(const agent::ExecFailed& failure) override {
    events += fmt::format("failed:{} ", failure.os_error);
  }
  void command_ended(const agent::Exited& end) override {
    events += fmt::format("ended:{} ", end.value);
  }
  void agent_broken(const std::string&) override { events += "broken "; }
  void escape_typed() override { events += "escape "; }
  void output_lost(const char* stream, int) override { events += fmt::format("lost:{} ", stream); }
  std::string events;
};

struct PipeEnds {
  PipeEnds() {
    int ends[2];
    EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    read_end = Fd(ends[0]);
    write_end = Fd(ends[1]);
  }
  std::string take() const {
    char buffer[65536];
    const ssize_t size = ::read(read_end.get(), buffer, sizeof(buffer));
    return {buffer, static_cast<size_t>(size > 0 ? size : 0)};
  }
  Fd read_end;
  Fd write_end;
};

class AgentSessionTest : public testing::Test {
 protected:
  void SetUp() override {
    std::signal(SIGPIPE, SIG_IGN);
    start({.argv = {"cmd"}, .env = {}, .working_directory = ""});
  }
  void start(const CommandConfig& command) {
    session_.reset();
    guests_ = {};
    recorder_.events.clear();
    auto session = AgentSession::create(
        *loop_, command,
        {.in = in_.read_end.get(), .out = out_.write_end.get(), .err = err_.write_end.get()},
        recorder_);
    ASSERT_TRUE(session) << session.error().message;
    session_ = std::move(*session);
    ports_ = session_->ports();
    ASSERT_EQ(ports_.size(), 3U);
    for (size_t i = 0; i < 3; ++i) ports_[i].port->attach(&guests_[i]);
  }
  void greet() {
    for (uint16_t i = 0; i < 3; ++i) {
      const agent::Greeting greeting{.role = static_cast<agent::PortRole>(i + 1)};
      guest_sends(i, bytes_of_value(greeting));
    }
  }
  size_t guest_sends(size_t port, std::span<const std::byte> bytes) {
    return ports_[port].port->receive(bytes);
  }
  template <typename T>
  void guest_frame(agent::FrameType type, const T& payload) {
    const agent::FrameHeader header{.type = type, .payload_bytes = sizeof(T)};
    guest_sends(0, bytes_of_value(header));
    guest_sends(0, bytes_of_value(payload));
  }
  void guest_frame(agent::FrameType type) {
    const agent::FrameHeader header{.type = type};
    guest_sends(0, bytes_of_value(header));
  }
  void run_to_started() {
    greet();
    guest_frame(agent::FrameType::Ready);
    guest_frame(agent::FrameType::Started, agent::Started{.pid = 2});
  }
  void turn_loop() {
    loop_->post([this] { loop_->stop(); });
    loop_->run();
  }
  // Types of the frames that the host has sent, in order.
  std::vector<agent::FrameType> host_frames() const {
    std::vector<agent::FrameType> types;
    const auto& bytes = guests_[0].received;
    for (size_t at = 0; at < bytes.size();) {
      const auto header = load_le<agent::FrameHeader>(bytes, at);
      EXPECT_TRUE(agent::is_sound(header));
      types.push_back(header.type);
      at += sizeof(header) + header.payload_bytes;
    }
    return types;
  }

  std::unique_ptr<EventLoop> loop_ = std::move(*EventLoop::create());
  PipeEnds in_, out_, err_;
  Recorder recorder_;
  std::array<FakeGuest, 3> guests_;
  std::unique_ptr<AgentSession> session_;
  std::vector<ConsolePortConfig> ports_;
};

TEST_F(AgentSessionTest, WholeSession_GoesThroughItsStates) {
  run_to_started();
  guest_sends(1, to_bytes("out"));
  guest_sends(2, to_bytes("error"));
  guest_frame(agent::FrameType::Exited,
              agent::Exited{.value = 3, .stdout_bytes = 3, .stderr_bytes = 5});
  EXPECT_EQ(recorder_.events, "ready started ended:3 ");
  EXPECT_EQ(out_.take(), "out");
  EXPECT_EQ(err_.take(), "error");
  EXPECT_EQ(host_frames(), (std::vector{agent::FrameType::Exec}));
}

TEST_F(AgentSessionTest, ExitStatusWaitsForAnnouncedBytes) {
  run_to_started();
  guest_frame(agent::FrameType::Exited, agent::Exited{.stdout_bytes = 4});
  guest_sends(1, to_bytes("abc"));
  EXPECT_EQ(recorder_.events, "ready started ");
  guest_sends(1, to_bytes("d"));
  EXPECT_EQ(recorder_.events, "ready started ended:0 ");
}

TEST_F(AgentSessionTest, StdinGoesIn_AndItsEndIsCounted) {
  run_to_started();
  ASSERT_EQ(::write(in_.write_end.get(), "hello", 5), 5);
  in_.write_end.reset();
  turn_loop();
  turn_loop();
  turn_loop();
  EXPECT_EQ(guests_[1].received, to_bytes("hello"));
  ASSERT_EQ(host_frames(), (std::vector{agent::FrameType::Exec, agent::FrameType::StdinEnd}));
  const auto& control = guests_[0].received;
  EXPECT_EQ(load_le<agent::StdinEnd>(control, control.size() - sizeof(agent::StdinEnd)).total_bytes,
            5U);
}

TEST_F(AgentSessionTest, GuestWithoutRoom_GetsTheRestLater) {
  guests_[1].room = 2;
  run_to_started();
  ASSERT_EQ(::write(in_.write_end.get(), "hello", 5), 5);
  turn_loop();
  turn_loop();
  EXPECT_EQ(guests_[1].received, to_bytes("he"));
  guests_[1].room = SIZE_MAX;
  ports_[1].port->on_guest_ready();
  turn_loop();
  EXPECT_EQ(guests_[1].received, to_bytes("hello"));
}

TEST_F(AgentSessionTest, SlowReader_HoldsTheGuestAndLosesNothing) {
  run_to_started();
  const Bytes data(1 << 20, std::byte{'x'});
  size_t sent = guest_sends(1, data);
  EXPECT_LT(sent, data.size());
  std::string received;
  while (received.size() < data.size()) {
    received += out_.take();
    turn_loop();
    turn_loop();
    sent += guest_sends(1, std::span(data).subspan(sent));
  }
  EXPECT_GT(guests_[1].output_ready_calls, 0);
  EXPECT_EQ(received, std::string(data.size(), 'x'));
}

TEST_F(AgentSessionTest, ReaderThatLeaves_EndsTheStreamNotTheSession) {
  run_to_started();
  out_.read_end.reset();
  EXPECT_EQ(guest_sends(1, to_bytes("lost")), 4U);
  EXPECT_EQ(recorder_.events, "ready started lost:stdout ");
  EXPECT_EQ(host_frames(), (std::vector{agent::FrameType::Exec, agent::FrameType::OutputClosed}));
  guest_frame(agent::FrameType::Exited, agent::Exited{.value = 1, .stdout_bytes = 99});
  EXPECT_EQ(recorder_.events, "ready started lost:stdout ended:1 ");
}

TEST_F(AgentSessionTest, FramesInPieces_AreReadAsOne) {
  greet();
  const agent::FrameHeader header{.type = agent::FrameType::Ready};
  for (const std::byte byte : bytes_of_value(header)) guest_sends(0, std::span(&byte, 1));
  EXPECT_EQ(recorder_.events, "ready ");
}

TEST_F(AgentSessionTest, ControlPortWithoutRoom_GetsFramesLater) {
  guests_[0].room = 10;
  greet();
  guest_frame(agent::FrameType::Ready);
  EXPECT_EQ(guests_[0].received.size(), 10U);
  guests_[0].room = SIZE_MAX;
  ports_[0].port->on_guest_ready();
  EXPECT_EQ(host_frames(), (std::vector{agent::FrameType::Exec}));
}

TEST_F(AgentSessionTest, ExecFailure_IsReported) {
  greet();
  guest_frame(agent::FrameType::Ready);
  guest_frame(agent::FrameType::ExecFailed,
              agent::ExecFailed{.stage = agent::ExecStage::Exec, .os_error = ENOENT});
  EXPECT_EQ(recorder_.events, "ready failed:2 ");
}

TEST_F(AgentSessionTest, SenselessGuest_IsBrokenOnceAndForAll) {
  greet();
  guest_sends(0, Bytes(64, std::byte{0xff}));
  guest_sends(0, Bytes(64, std::byte{0xff}));
  EXPECT_EQ(recorder_.events, "broken ");
}

TEST_F(AgentSessionTest, FramesOutOfTurn_AreRefused) {
  greet();
  guest_frame(agent::FrameType::Exited, agent::Exited{});
  EXPECT_EQ(recorder_.events, "broken ");
}

TEST_F(AgentSessionTest, HugeGuestFrame_IsRefusedWithoutMemory) {
  greet();
  const agent::FrameHeader header{.type = agent::FrameType::Exited,
                                  .payload_bytes = agent::kMaxPayloadBytes};
  guest_sends(0, bytes_of_value(header));
  EXPECT_EQ(recorder_.events, "broken ");
}

TEST_F(AgentSessionTest, OtherProtocolVersion_IsRefused) {
  const agent::Greeting greeting{.version = agent::kVersion + 1};
  guest_sends(0, bytes_of_value(greeting));
  EXPECT_EQ(recorder_.events, "broken ");
}

TEST_F(AgentSessionTest, SignalsBeforeTheCommandRuns_AreNotSent) {
  greet();
  session_->send_signal(SIGINT);
  guest_frame(agent::FrameType::Ready);
  session_->send_signal(SIGINT);
  guest_frame(agent::FrameType::Started, agent::Started{.pid = 2});
  session_->send_signal(SIGINT);
  session_->resize(30, 90);
  EXPECT_EQ(host_frames(), (std::vector{agent::FrameType::Exec, agent::FrameType::Signal,
                                        agent::FrameType::WindowSize}));
}

TEST_F(AgentSessionTest, SizeFromBeforeTheCommandRuns_IsToldWhenItDoes) {
  session_->resize(10, 20);
  greet();
  guest_frame(agent::FrameType::Ready);
  session_->resize(30, 90);
  EXPECT_EQ(host_frames(), (std::vector{agent::FrameType::Exec}));
  guest_frame(agent::FrameType::Started, agent::Started{.pid = 2});
  EXPECT_EQ(host_frames(), (std::vector{agent::FrameType::Exec, agent::FrameType::WindowSize}));
  const auto& bytes = guests_[0].received;
  const auto size = load_le<agent::WindowSize>(bytes, bytes.size() - sizeof(agent::WindowSize));
  EXPECT_EQ(size.rows, 30);
  EXPECT_EQ(size.columns, 90);
}

TEST_F(AgentSessionTest, EscapeOnATerminal_IsNoticed) {
  start({.argv = {}, .env = {}, .working_directory = "", .on_terminal = true});
  run_to_started();
  ASSERT_EQ(::write(in_.write_end.get(), "\x1d\x1d.\x1d\x1d\x1d", 6), 6);
  turn_loop();
  turn_loop();
  EXPECT_EQ(recorder_.events, "ready started escape ");
}

TEST_F(AgentSessionTest, SharedFolders_AreOrderedBeforeTheCommand) {
  start({.argv = {"cmd"},
         .env = {},
         .working_directory = "",
         .mounts = {{"share0", "/src", true}, {"share1", "/out", false}}});
  greet();
  guest_frame(agent::FrameType::Ready);
  ASSERT_EQ(host_frames(), (std::vector{agent::FrameType::Mount, agent::FrameType::Mount,
                                        agent::FrameType::Exec}));
  const auto& bytes = guests_[0].received;
  const auto frame = load_le<agent::FrameHeader>(bytes, 0);
  agent::MountHeader header;
  std::string_view tag;
  std::string_view path;
  ASSERT_TRUE(
      agent::decode_mount(std::span(bytes).subspan(sizeof(agent::FrameHeader), frame.payload_bytes),
                          header, tag, path));
  EXPECT_EQ(tag, "share0");
  EXPECT_EQ(path, "/src");
  EXPECT_EQ(header.flags, agent::kMountReadOnly);
  guest_frame(agent::FrameType::ExecFailed,
              agent::ExecFailed{.stage = agent::ExecStage::Mount, .os_error = EROFS, .mount = 1});
  EXPECT_EQ(recorder_.events, "ready failed:30 ");
}

TEST(AgentSession, CommandTooLongForTheGuest_IsAnError) {
  const auto loop = std::move(*EventLoop::create());
  Recorder recorder;
  const CommandConfig command{
      .argv = {std::string(agent::kMaxPayloadBytes, 'x')}, .env = {}, .working_directory = ""};
  EXPECT_FALSE(AgentSession::create(*loop, command, {}, recorder));
}

}  // namespace
}  // namespace trapeze
