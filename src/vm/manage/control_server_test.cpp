#include "vm/manage/control_server.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>

#include "base/bytes.h"
#include "vm/manage/control_client.h"

namespace trapeze::manage {
namespace {

struct Machine final : ControlHandler {
  AgentState agent_state() const override { return state; }
  void stop_ordered(std::chrono::milliseconds timeout) override { stop_timeout = timeout; }
  Result<void> balloon_ordered(const BalloonOrder& order) override {
    if (order.sets_size == 0) return fail("no balloon");
    balloon_bytes = order.size_bytes;
    return {};
  }
  uint64_t balloon_bytes = 0;
  AgentState state = AgentState::Booting;
  std::optional<std::chrono::milliseconds> stop_timeout;
};

class ControlServerTest : public testing::Test {
 protected:
  ControlServerTest() {
    std::string pattern = testing::TempDir() + "trapeze-control-XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
    directory_.emplace(std::move(*RunDirectory::open_at(folder_ + "/run")));
    entry_.emplace(std::move(*directory_->claim("vm")));
    server_ = std::move(
        *ControlServer::create(entry_->path_of(kControlFile), *loop_, console_, machine_));
    console_.set_handlers({.input =
                               [this](std::span<const std::byte> bytes) {
                                 const size_t taken = std::min(bytes.size(), room_);
                                 typed_.append(reinterpret_cast<const char*>(bytes.data()), taken);
                                 room_ -= taken;
                                 return taken;
                               },
                           .resize = [this](uint16_t rows, uint16_t) { rows_ = rows; }});
  }
  ~ControlServerTest() override {
    server_.reset();
    entry_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  ControlClient connect() const {
    auto client = ControlClient::connect(*directory_->find("vm"));
    EXPECT_TRUE(client) << client.error().message;
    return std::move(*client);
  }
  void turn(int times = 4) {
    for (int i = 0; i < times; ++i) {
      loop_->post([this] { loop_->stop(); });
      loop_->run();
    }
  }
  void output(std::string_view text) {
    console_.write(std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
  }
  static constexpr std::chrono::milliseconds kSoon{200};
  // Text of the packets that are there.
  std::string take(ControlClient& client, PacketType type) {
    std::string text;
    for (;;) {
      turn();
      const auto packet = client.receive(std::chrono::milliseconds(1));
      if (!packet || !*packet) return text;
      EXPECT_EQ((*packet)->type, type);
      text.append(reinterpret_cast<const char*>((*packet)->payload.data()),
                  (*packet)->payload.size());
    }
  }
  bool is_closed(ControlClient& client) {
    turn();
    const auto packet = client.receive(kSoon);
    return packet && !*packet;
  }

  std::string folder_;
  std::unique_ptr<EventLoop> loop_ = std::move(*EventLoop::create());
  Machine machine_;
  ConsoleHub console_{*loop_, nullptr};
  std::optional<RunDirectory> directory_;
  std::optional<RunEntry> entry_;
  std::unique_ptr<ControlServer> server_;
  std::string typed_;
  size_t room_ = 1000;
  uint16_t rows_ = 0;
};

TEST_F(ControlServerTest, wait_for_the_agent_is_answered_when_it_is_there) {
  auto client = connect();
  ASSERT_TRUE(client.send(PacketType::WaitAgent, {}));
  turn();
  EXPECT_FALSE(client.receive(std::chrono::milliseconds(1))) << "still booting";
  machine_.state = AgentState::Ready;
  server_->agent_state_changed();
  const auto answer = client.receive(kSoon);
  ASSERT_TRUE(answer && *answer);
  EXPECT_EQ((*answer)->type, PacketType::Done);
}

TEST_F(ControlServerTest, machine_without_agent_says_so) {
  machine_.state = AgentState::None;
  auto client = connect();
  ASSERT_TRUE(client.send(PacketType::WaitAgent, {}));
  EXPECT_NE(take(client, PacketType::Failed).find("without an agent"), std::string::npos);
}

TEST_F(ControlServerTest, stop_is_passed_on) {
  auto client = connect();
  const StopOrder order{.timeout_ms = 1234};
  ASSERT_TRUE(client.send(PacketType::Stop, bytes_of_value(order)));
  turn();
  EXPECT_EQ(machine_.stop_timeout, std::chrono::milliseconds(1234));
}

TEST_F(ControlServerTest, viewer_gets_what_was_and_what_comes) {
  output("before\n");
  auto client = connect();
  const WindowSize size{.rows = 50, .columns = 100};
  ASSERT_TRUE(client.send(PacketType::Console, bytes_of_value(size)));
  EXPECT_EQ(take(client, PacketType::Data), "before\n");
  EXPECT_EQ(rows_, 50);
  output("after\n");
  EXPECT_EQ(take(client, PacketType::Data), "after\n");
  auto second = connect();
  ASSERT_TRUE(second.send(PacketType::Console, bytes_of_value(WindowSize{})));
  EXPECT_EQ(take(second, PacketType::Data), "before\nafter\n");
  EXPECT_EQ(rows_, 50) << "a viewer without a terminal has no size";
}

TEST_F(ControlServerTest, typed_bytes_wait_for_the_guest_in_their_order) {
  auto client = connect();
  ASSERT_TRUE(client.send(PacketType::Console, bytes_of_value(WindowSize{})));
  room_ = 3;
  const std::string first = "abcde";
  const std::string second = "fgh";
  ASSERT_TRUE(client.send(PacketType::Input, std::as_bytes(std::span(first))));
  ASSERT_TRUE(client.send(PacketType::Input, std::as_bytes(std::span(second))));
  turn();
  EXPECT_EQ(typed_, "abc");
  room_ = 1000;
  console_.room_available();
  turn();
  EXPECT_EQ(typed_, "abcdefgh");
}

TEST_F(ControlServerTest, viewer_that_reads_nothing_costs_no_more_than_its_socket) {
  auto client = connect();
  ASSERT_TRUE(client.send(PacketType::Console, bytes_of_value(WindowSize{})));
  turn();
  const std::string line(999, 'x');
  for (int i = 0; i < 4000; ++i) output(line + "\n");
  turn();
  EXPECT_EQ(server_->connections(), 1U);
  const std::string seen = take(client, PacketType::Data);
  EXPECT_LT(seen.size(), 2'000'000U) << "of 4,000,000";
  EXPECT_GE(seen.size(), ConsoleHub::kKeptBytes);
}

TEST_F(ControlServerTest, senseless_packets_end_the_connection) {
  const std::byte junk[3]{};
  const std::pair<PacketType, std::span<const std::byte>> bad[] = {
      {PacketType::Stop, junk},          {PacketType::Console, junk}, {PacketType::Input, junk},
      {PacketType::Resize, junk},        {PacketType::Balloon, junk}, {PacketType::Done, junk},
      {static_cast<PacketType>(999), {}}};
  for (const auto& [type, payload] : bad) {
    auto client = connect();
    ASSERT_TRUE(client.send(type, payload));
    EXPECT_TRUE(is_closed(client)) << static_cast<int>(type);
  }
  auto client = connect();
  ASSERT_GT(::send(client.fd(), "hello there", 11, 0), 0);
  EXPECT_NE(take(client, PacketType::Failed).find("another version"), std::string::npos);
  EXPECT_FALSE(machine_.stop_timeout);
  turn();
  EXPECT_EQ(server_->connections(), 0U);
}

TEST_F(ControlServerTest, connections_are_bounded) {
  std::vector<ControlClient> clients;
  for (size_t i = 0; i < ControlServer::kMaxConnections; ++i) {
    clients.push_back(connect());
    turn(1);
  }
  auto one_more = connect();
  EXPECT_TRUE(is_closed(one_more));
  clients.pop_back();
  turn();
  auto next = connect();
  turn();
  EXPECT_EQ(server_->connections(), ControlServer::kMaxConnections);
}

TEST_F(ControlServerTest, balloon_orders_are_answered) {
  auto client = connect();
  const BalloonOrder order{.sets_size = 1, .reserved = 0, .size_bytes = 77};
  ASSERT_TRUE(client.send(PacketType::Balloon, bytes_of_value(order)));
  turn();
  EXPECT_EQ(machine_.balloon_bytes, 77U);
  EXPECT_FALSE(client.receive(std::chrono::milliseconds(1))) << "the guest has not answered";
  server_->answer_balloon("actual 5\n");
  EXPECT_EQ(take(client, PacketType::Text), "actual 5\n");
  server_->answer_balloon("nobody asked\n");
  ASSERT_TRUE(client.send(PacketType::Balloon, bytes_of_value(BalloonOrder{})));
  EXPECT_EQ(take(client, PacketType::Failed), "no balloon");
}

TEST_F(ControlServerTest, last_words_reach_a_viewer) {
  auto client = connect();
  ASSERT_TRUE(client.send(PacketType::Console, bytes_of_value(WindowSize{})));
  turn();
  output("panic\n");
  server_->finish();
  server_.reset();
  const auto packet = client.receive(kSoon);
  ASSERT_TRUE(packet && *packet);
  EXPECT_EQ((*packet)->payload.size(), 6U);
}

}  // namespace
}  // namespace trapeze::manage
