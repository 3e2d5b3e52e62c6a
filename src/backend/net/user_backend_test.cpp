#include "backend/net/user_backend.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <cstring>
#include <thread>

#include "backend/net/helper/helper_main.h"
#include "base/unix_socket.h"
#include "virtio/net/protocol.h"

namespace trapeze {
namespace {

struct Client final : NetClient {
  void net_ready(uint16_t, bool receive, bool) override {
    if (receive && on_receive) on_receive();
  }
  void net_gone() override {
    is_gone = true;
    if (on_gone) on_gone();
  }
  std::function<void()> on_receive;
  std::function<void()> on_gone;
  bool is_gone = false;
};

// The helper on a thread of this process, with all rights.
struct UserNetwork : ::testing::Test {
  ~UserNetwork() override {
    backend.reset();
    if (helper.joinable()) helper.join();
  }
  Result<void> start(const UserNetSettings& settings) {
    auto created = UserBackend::create(
        settings,
        [this](const Fd& socket) -> Result<HelperProcess> {
          const int theirs = ::dup(socket.get());
          helper = std::thread([theirs] { serve_user_network(theirs, HelperRights::Keep); });
          return HelperProcess();
        },
        *loop);
    if (!created) return Unexpected(std::move(created.error()));
    backend = std::move(*created);
    backend->attach(&client);
    return backend->wait_until_ready();
  }
  void send(std::span<const uint8_t> frame, net::Header header = {}) {
    const std::array<iovec, 2> parts{iovec{&header, sizeof(header)},
                                     iovec{const_cast<uint8_t*>(frame.data()), frame.size()}};
    const NetBackend::Frame one(parts);
    EXPECT_EQ(backend->send(0, std::span(&one, 1)).frames, 1U);
  }
  // The next frame of the network, with its header; empty when none comes.
  std::vector<uint8_t> receive() {
    std::vector<uint8_t> bytes(70000);
    size_t got = 0;
    client.on_receive = [&] {
      const iovec part{bytes.data(), bytes.size()};
      const auto received = backend->receive(0, std::span(&part, 1));
      if (received.status != NetBackend::Status::Ok) return;
      got = received.bytes;
      loop->stop();
    };
    const auto timer = loop->start_timer(std::chrono::seconds(10), [&] { loop->stop(); });
    backend->want(0, true, false);
    loop->run();
    backend->want(0, false, false);
    loop->cancel_timer(timer);
    bytes.resize(got);
    return bytes;
  }

  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create()).value();
  Client client;
  std::thread helper;
  std::unique_ptr<UserBackend> backend;
};

constexpr std::array<uint8_t, 6> kGuestMac{2, 0, 0, 0, 0, 9};

// "Who has 10.0.2.2? Tell 10.0.2.15"
std::vector<uint8_t> arp_request() {
  std::vector<uint8_t> frame(42, 0);
  std::fill_n(frame.begin(), 6, uint8_t{0xff});
  std::copy(kGuestMac.begin(), kGuestMac.end(), frame.begin() + 6);
  constexpr uint8_t kArp[] = {8, 6, 0, 1, 8, 0, 6, 4, 0, 1};
  std::copy(std::begin(kArp), std::end(kArp), frame.begin() + 12);
  std::copy(kGuestMac.begin(), kGuestMac.end(), frame.begin() + 22);
  constexpr uint8_t kFrom[] = {10, 0, 2, 15};
  constexpr uint8_t kTo[] = {10, 0, 2, 2};
  std::copy(std::begin(kFrom), std::end(kFrom), frame.begin() + 28);
  std::copy(std::begin(kTo), std::end(kTo), frame.begin() + 38);
  return frame;
}

TEST_F(UserNetwork, gateway_answers) {
  ASSERT_TRUE(start({}).has_value());
  send(arp_request());
  const auto reply = receive();
  ASSERT_GE(reply.size(), 12U + 42U);
  EXPECT_TRUE(std::equal(kGuestMac.begin(), kGuestMac.end(), reply.begin() + 12));
  EXPECT_EQ(reply[12 + 21], 2);  // an answer
  EXPECT_EQ(reply[0], 0);        // flags
}

TEST_F(UserNetwork, guest_that_trusts_checksums_is_told_that_they_are_good) {
  ASSERT_TRUE(start({}).has_value());
  backend->set_guest_offloads(net::kFeatureGuestCsum);
  send(arp_request());
  const auto reply = receive();
  ASSERT_FALSE(reply.empty());
  EXPECT_EQ(reply[0], net::kHeaderDataValid);
}

TEST_F(UserNetwork, senseless_frames_do_no_harm) {
  ASSERT_TRUE(start({}).has_value());
  for (const size_t size : {size_t{1}, size_t{13}, size_t{14}, size_t{33}, size_t{60000}}) {
    send(std::vector<uint8_t>(size, 0x45));
  }
  net::Header header;
  header.flags = net::kHeaderNeedsCsum;
  header.csum_start = header.csum_offset = 0xffff;
  send(arp_request(), header);
  send(arp_request());
  EXPECT_FALSE(receive().empty());
}

TEST_F(UserNetwork, published_port_that_is_taken_is_named) {
  const Fd holder(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(::bind(holder.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(::listen(holder.get(), 1), 0);
  socklen_t size = sizeof(address);
  ::getsockname(holder.get(), reinterpret_cast<sockaddr*>(&address), &size);
  UserNetSettings settings;
  settings.ports.push_back({.host_address = address.sin_addr,
                            .host_port = ntohs(address.sin_port),
                            .guest_port = 80,
                            .is_udp = 0});
  auto started = start(settings);
  ASSERT_FALSE(started.has_value());
  EXPECT_NE(started.error().message.find(std::to_string(ntohs(address.sin_port))),
            std::string::npos);
  EXPECT_NE(started.error().message.find("127.0.0.1"), std::string::npos);
}

TEST_F(UserNetwork, end_of_the_helper_is_noticed) {
  UserNetSettings settings;
  auto created = UserBackend::create(
      settings, [](const Fd&) -> Result<HelperProcess> { return HelperProcess(); }, *loop);
  // Nobody holds the other end.
  EXPECT_FALSE(created.has_value() && (*created)->wait_until_ready().has_value());
}

// A helper that the test plays.
struct PlayedHelper : ::testing::Test {
  PlayedHelper() {
    backend = std::move(UserBackend::create(
                            {},
                            [this](const Fd& theirs) -> Result<HelperProcess> {
                              socket = Fd(::dup(theirs.get()));
                              return HelperProcess();
                            },
                            *loop))
                  .value();
    backend->attach(&client);
    std::array<Fd, 2> fds;
    std::array<std::byte, 1024> order{};
    const iovec room{order.data(), order.size()};
    EXPECT_EQ(receive_with_fds(socket.get(), {&room, 1}, fds, 0),
              static_cast<ssize_t>(sizeof(user_wire::UserNetworkOrder)));
    memory = std::move(fds[0]);
    writer.emplace(std::move(FrameRingWriter::open(memory, std::move(fds[1]))).value());
  }
  bool put(std::string text) {
    const iovec part{text.data(), text.size()};
    return writer->put({&part, 1});
  }
  NetBackend::Received take() {
    const iovec room{bytes.data(), bytes.size()};
    return backend->receive(0, {&room, 1});
  }

  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create()).value();
  Client client;
  Fd socket;
  Fd memory;
  std::unique_ptr<UserBackend> backend;
  std::optional<FrameRingWriter> writer;
  std::array<char, 70000> bytes{};
};

TEST_F(PlayedHelper, frames_of_a_turn_are_told_together) {
  int calls = 0;
  int frames = 0;
  client.on_receive = [&] {
    ++calls;
    while (take().status == NetBackend::Status::Ok) ++frames;
    loop->stop();
  };
  backend->want(0, true, false);
  put("one");
  put("two");
  writer->flush();
  loop->run();
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(frames, 2);
}

TEST_F(PlayedHelper, a_full_ring_is_told_when_it_has_room) {
  while (put(std::string(60000, 'x'))) {
  }
  std::array<char, 16> message{};
  size_t taken = 0;
  while (::recv(socket.get(), message.data(), message.size(), MSG_DONTWAIT) < 0) {
    ASSERT_EQ(take().status, NetBackend::Status::Ok) << "after " << taken;
    ++taken;
  }
  EXPECT_GT(taken, 4U);
  EXPECT_TRUE(put("fits"));
}

TEST_F(PlayedHelper, its_end_is_the_end_of_the_link_also_while_nothing_is_wanted) {
  client.on_gone = [&] { loop->stop(); };
  backend->want(0, false, false);
  socket.reset();
  loop->run();
  EXPECT_TRUE(client.is_gone);
  EXPECT_EQ(take().status, NetBackend::Status::Lost);
}

TEST_F(PlayedHelper, helper_that_breaks_the_ring_is_the_end_of_the_link) {
  put("good");
  const auto shared = std::move(Mapping::create(frame_ring::kControlBytes, PROT_READ | PROT_WRITE,
                                                MAP_SHARED, memory.get(), 0, "test"))
                          .value();
  EXPECT_EQ(take().bytes, 4U);
  reinterpret_cast<frame_ring::Control*>(shared.data())->written.store(3);
  EXPECT_EQ(take().status, NetBackend::Status::Lost);
  EXPECT_EQ(take().status, NetBackend::Status::Lost);
}

TEST(HelperProcess, program_that_is_not_there_is_named) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  const Fd ours(ends[0]);
  const Fd theirs(ends[1]);
  auto started = HelperProcess::start("/nowhere/trapeze", "net-helper", theirs);
  ASSERT_FALSE(started.has_value());
  EXPECT_NE(started.error().message.find("/nowhere/trapeze"), std::string::npos);
}

TEST(HelperProcess, child_has_the_socket_and_is_waited_for) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  const Fd ours(ends[0]);
  Fd theirs(ends[1]);
  {
    auto started = HelperProcess::start("/bin/sh", "-c", theirs);  // ends at once: no argument
    ASSERT_TRUE(started.has_value());
    theirs.reset();
  }
  char byte = 0;
  EXPECT_EQ(::read(ours.get(), &byte, 1), 0);
}

}  // namespace
}  // namespace trapeze
