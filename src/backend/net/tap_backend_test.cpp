// Taps need a network namespace of one's own, and the right to make one: else the tests are
// skipped.
#include "backend/net/tap_backend.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <fstream>

#include "virtio/net/protocol.h"

namespace trapeze {
namespace {

struct Client final : NetClient {
  void net_ready(uint16_t pair, bool receive, bool) override {
    if (receive) ready_pairs.push_back(pair);
  }
  void net_gone() override { ++gone; }
  std::vector<uint16_t> ready_pairs;
  int gone = 0;
};

bool shell(const std::string& command) { return std::system(command.c_str()) == 0; }

// Each test is a process of its own under CTest; the namespace goes with it.
struct Tap : ::testing::Test {
  void SetUp() override {
    if (::unshare(CLONE_NEWNET) != 0 && ::unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) {
      GTEST_SKIP() << "may not make a network namespace";
    }
    if (::access("/dev/net/tun", R_OK | W_OK) != 0) GTEST_SKIP() << "no /dev/net/tun";
    // Nothing but what the tests send.
    shell("echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6 2>/dev/null");
    if (!shell("ip tuntap add dev tapt mode tap && ip link set tapt up")) {
      GTEST_SKIP() << "may not make a tap";
    }
  }
  // Frames that came out of the guest.
  uint64_t frames_from_guest() {
    std::ifstream file("/proc/self/net/dev");
    for (std::string line; std::getline(file, line);) {
      uint64_t bytes = 0;
      uint64_t frames = 0;
      if (std::sscanf(line.c_str(), " tapt: %lu %lu", &bytes, &frames) == 2) return frames;
    }
    return 0;
  }
  NetBackend::Sent send(NetBackend& tap, const std::string& frame) {
    const iovec part{const_cast<char*>(frame.data()), frame.size()};
    const NetBackend::Frame one(&part, 1);
    return tap.send(0, std::span(&one, 1));
  }
  void turn() {
    loop->start_timer(std::chrono::milliseconds(50), [this] { loop->stop(); });
    loop->run();
  }

  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create()).value();
  Client client;
};

// A header and a broadcast of a protocol that nobody knows.
std::string broadcast() {
  return std::string(12, '\0') + std::string(6, '\xff') + std::string(6, '\2') + "\x88\xb5" +
         std::string(60, 'x');
}

TEST_F(Tap, frames_go_out_and_come_in) {
  auto tap = TapBackend::create({.name = "tapt", .pairs = 1, .mtu = {}}, *loop);
  ASSERT_TRUE(tap.has_value()) << tap.error().message;
  EXPECT_EQ((*tap)->info().name, "tapt");
  EXPECT_EQ((*tap)->info().mtu, 1500);
  EXPECT_NE((*tap)->info().offloads & net::kFeatureGuestTso4, 0U);
  (*tap)->attach(&client);
  // What the kernel itself sent so far (reports of group memberships).
  std::array<std::byte, 2000> bytes{};
  const iovec room{bytes.data(), bytes.size()};
  while ((*tap)->receive(0, std::span(&room, 1)).status == NetBackend::Status::Ok) {
  }
  const uint64_t before = frames_from_guest();
  const auto sent = send(**tap, broadcast());
  EXPECT_EQ(sent.frames, 1U);
  EXPECT_EQ(sent.dropped, 0U);
  EXPECT_EQ(frames_from_guest(), before + 1);

  ASSERT_TRUE(shell("ip addr add 10.9.9.1/24 dev tapt"));
  (*tap)->want(0, true, false);
  shell(
      "ip neigh add 10.9.9.2 lladdr 02:00:00:00:00:02 dev tapt; "
      "bash -c 'echo hello > /dev/udp/10.9.9.2/9'");
  turn();
  ASSERT_FALSE(client.ready_pairs.empty());
  const auto received = (*tap)->receive(0, std::span(&room, 1));
  EXPECT_EQ(received.status, NetBackend::Status::Ok);
  EXPECT_EQ(received.bytes, 12U + 14 + 20 + 8 + 6);
}

TEST_F(Tap, senseless_header_is_a_frame_dropped) {
  auto tap = TapBackend::create({.name = "tapt", .pairs = 1, .mtu = {}}, *loop);
  ASSERT_TRUE(tap.has_value());
  std::string frame = broadcast();
  frame[1] = 0x7f;  // gso_type
  const auto sent = send(**tap, frame);
  EXPECT_EQ(sent.frames, 1U);
  EXPECT_EQ(sent.dropped, 1U);
  EXPECT_EQ(sent.status, NetBackend::Status::Ok);
}

TEST_F(Tap, interface_that_is_removed_is_noticed_while_waiting) {
  auto tap = TapBackend::create({.name = "tapt", .pairs = 1, .mtu = {}}, *loop);
  ASSERT_TRUE(tap.has_value());
  (*tap)->attach(&client);
  (*tap)->want(0, true, false);
  ASSERT_TRUE(shell("ip link del tapt"));
  turn();
  EXPECT_EQ(client.gone, 1);
  EXPECT_EQ(send(**tap, broadcast()).status, NetBackend::Status::Lost);
}

TEST_F(Tap, interface_that_is_removed_is_noticed_by_sending_and_receiving) {
  auto tap = TapBackend::create({.name = "tapt", .pairs = 1, .mtu = {}}, *loop);
  ASSERT_TRUE(tap.has_value());
  ASSERT_TRUE(shell("ip link del tapt"));
  EXPECT_EQ(send(**tap, broadcast()).status, NetBackend::Status::Lost);
  std::byte byte{};
  const iovec room{&byte, 1};
  EXPECT_EQ((*tap)->receive(0, std::span(&room, 1)).status, NetBackend::Status::Lost);
}

TEST_F(Tap, several_queues_need_a_tap_that_has_them) {
  auto refused = TapBackend::create({.name = "tapt", .pairs = 2, .mtu = {}}, *loop);
  ASSERT_FALSE(refused.has_value());
  EXPECT_NE(refused.error().message.find("multi_queue"), std::string::npos);
  ASSERT_TRUE(shell("ip tuntap add dev tapm mode tap multi_queue && ip link set tapm up"));
  auto tap = TapBackend::create({.name = "tapm", .pairs = 4, .mtu = 9000}, *loop);
  ASSERT_TRUE(tap.has_value()) << tap.error().message;
  EXPECT_EQ((*tap)->info().pairs, 4);
  EXPECT_EQ((*tap)->info().mtu, 9000);
  (*tap)->use_pairs(1);
  (*tap)->use_pairs(3);
  tap->reset();
  EXPECT_TRUE(TapBackend::create({.name = "tapm", .pairs = 1, .mtu = {}}, *loop).has_value());
}

TEST_F(Tap, interface_in_use_is_refused) {
  auto first = TapBackend::create({.name = "tapt", .pairs = 1, .mtu = {}}, *loop);
  ASSERT_TRUE(first.has_value());
  auto second = TapBackend::create({.name = "tapt", .pairs = 1, .mtu = {}}, *loop);
  ASSERT_FALSE(second.has_value());
  EXPECT_NE(second.error().message.find("tapt"), std::string::npos);
  EXPECT_NE(second.error().message.find("in use"), std::string::npos);
}

TEST_F(Tap, interface_without_a_name_is_made_and_goes_away) {
  std::string name;
  {
    auto tap = TapBackend::create({.name = "", .pairs = 1, .mtu = {}}, *loop);
    ASSERT_TRUE(tap.has_value()) << tap.error().message;
    name = (*tap)->info().name;
    EXPECT_TRUE(shell("ip link show " + name + " > /dev/null"));
  }
  EXPECT_FALSE(shell("ip link show " + name + " > /dev/null 2>&1"));
}

TEST_F(Tap, what_is_no_tap_is_refused) {
  const auto message = [&](const std::string& name) {
    auto tap = TapBackend::create({.name = name, .pairs = 1, .mtu = {}}, *loop);
    return tap ? std::string() : tap.error().message;
  };
  EXPECT_NE(message("lo").find("lo is no tap"), std::string::npos);
  EXPECT_NE(message("nothere").find("no interface nothere"), std::string::npos);
  EXPECT_NE(message("a-name-that-is-too-long").find("15"), std::string::npos);
}

}  // namespace
}  // namespace trapeze
