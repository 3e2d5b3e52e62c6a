#include "virtio/vsock/device.h"

#include <gtest/gtest.h>
#include <sched.h>

#include "virtio/queue/test_driver.h"
#include "virtio/vsock/fake_host.h"

namespace trapeze {
namespace {

using vsock::Header;
using vsock::Op;

constexpr uint64_t kCid = 42;
constexpr Gpa kOut{0x8000};  // packets of the guest
constexpr Gpa kIn{2 * MiB};  // buffers for packets to the guest
constexpr uint32_t kInBytes = 4096;
constexpr uint32_t kGuestPort = 77;
constexpr uint32_t kHostPort = 1000;

struct FakeInterrupt final : DeviceInterrupt {
  void queue_used(uint16_t queue) override { told.push_back(queue); }
  void config_changed() override {}
  void needs_reset() override {}
  bool is_shared(uint16_t, uint16_t) const override { return is_one; }
  std::vector<uint16_t> told;
  bool is_one = false;
};

struct Packet {
  Header header;
  std::string data;
  Op op() const { return static_cast<Op>(header.op); }
};

struct VsockTest : ::testing::Test {
  explicit VsockTest(bool waits_in_streams = false) : device(kCid, host, *loop, waits_in_streams) {
    for (TestDriver* driver : {&receive, &transmit, &events}) {
      active.queues.emplace_back(std::in_place, *memory);
      EXPECT_EQ(active.queues.back()->configure(driver->config(), {}, 256), QueueFault::None);
    }
    device.activate(active);
    give_buffers(16);
  }
  void TearDown() override { device.reset(); }

  void give_buffers(uint32_t count) {
    for (uint32_t i = 0; i < count; ++i) {
      const uint32_t slot = next_buffer++ % 64;
      const uint16_t head = receive.add({kIn + slot * kInBytes, kInBytes, true});
      buffers[head] = kIn + slot * kInBytes;
    }
    receive.publish();
  }
  // Does what the loop would do until nothing happens any more; gives what the guest received.
  std::vector<Packet> settle() {
    std::vector<Packet> packets;
    for (int round = 0; round < 50; ++round) {
      for (FakePeer& peer : host.peers) peer.poll();
      for (const uint16_t queue : std::exchange(again, {})) (void)device.on_kick(queue);
      while (const auto used = receive.take_used()) {
        const Gpa at = buffers[static_cast<uint16_t>(used->id)];
        Packet packet{*memory->load<Header>(at), {}};
        EXPECT_EQ(used->len, sizeof(Header) + packet.header.len);
        packet.data = text_at(*memory, at + sizeof(Header), packet.header.len);
        EXPECT_EQ(packet.header.src_cid, 2U);
        EXPECT_EQ(packet.header.dst_cid, kCid);
        packets.push_back(packet);
        if (gives_back) give_buffers(1);
      }
    }
    return packets;
  }
  void send(Op op, const std::string& data = {}, uint32_t host_port = kHostPort,
            uint32_t flags = 0) {
    Header header;
    header.src_cid = kCid;
    header.dst_cid = 2;
    header.src_port = kGuestPort;
    header.dst_port = host_port;
    header.op = static_cast<uint16_t>(op);
    header.len = static_cast<uint32_t>(data.size());
    header.flags = flags;
    header.buf_alloc = credit;
    header.fwd_cnt = forwarded;
    send(header, data);
  }
  void send(const Header& header, const std::string& data = {}) {
    memory->store(kOut, header);
    memory->write(kOut + sizeof(Header), std::as_bytes(std::span(data)));
    transmit.add({kOut, static_cast<uint32_t>(sizeof(Header) + data.size()), false});
    transmit.publish();
    (void)device.on_kick(vsock::kTransmitQueue);
    while (transmit.take_used()) {
    }
  }
  // Answers of the host until the guest trusts in them; then nothing is told yet.
  void talk(FakePeer& peer, int turns = 20) {
    for (int i = 0; i < turns; ++i) {
      send(Op::Data, "question");
      peer.to_guest = "answer";
      forwarded += static_cast<uint32_t>(peer.to_guest.size());
      (void)settle();
    }
    interrupt.told.clear();
  }
  void run_loop_for(std::chrono::milliseconds time) {
    loop->start_timer(time, [this] { loop->stop(); });
    loop->run();
  }
  FakePeer& connect() {
    send(Op::Request);
    const auto packets = settle();
    EXPECT_EQ(packets.size(), 1U);
    EXPECT_EQ(packets.at(0).op(), Op::Response);
    return host.peers.back();
  }

  std::unique_ptr<GuestMemory> memory = make_test_memory();
  TestDriver receive{*memory, 64, Gpa{0x1000}};
  TestDriver transmit{*memory, 64, Gpa{0x3000}};
  TestDriver events{*memory, 16, Gpa{0x5000}};
  FakeInterrupt interrupt;
  std::vector<uint16_t> again;
  ActiveState active{*memory, interrupt, 0, [this](uint16_t queue) { again.push_back(queue); }, {}};
  std::map<uint16_t, Gpa> buffers;
  uint32_t next_buffer = 0;
  bool gives_back = true;
  uint32_t credit = 64 * KiB;
  uint32_t forwarded = 0;
  FakeHost host;
  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create()).value();
  VsockDevice device;
};

TEST_F(VsockTest, guest_connects_and_both_talk) {
  FakePeer& peer = connect();
  send(Op::Data, "hello");
  EXPECT_EQ(peer.from_guest, "hello");
  peer.to_guest = "world";
  const auto packets = settle();
  ASSERT_EQ(packets.size(), 1U);
  EXPECT_EQ(packets[0].op(), Op::Data);
  EXPECT_EQ(packets[0].data, "world");
  EXPECT_EQ(packets[0].header.fwd_cnt, 5U);
  EXPECT_EQ(packets[0].header.src_port, kHostPort);
  EXPECT_EQ(packets[0].header.dst_port, kGuestPort);
}

TEST_F(VsockTest, port_without_listener_is_refused) {
  send(Op::Request, {}, 999);
  const auto packets = settle();
  ASSERT_EQ(packets.size(), 1U);
  EXPECT_EQ(packets[0].op(), Op::Reset);
  EXPECT_EQ(device.connections(), 0U);
}

TEST_F(VsockTest, host_connects_when_the_guest_accepts) {
  host.guest->host_connects(kGuestPort, host.make_stream());
  auto packets = settle();
  ASSERT_EQ(packets.size(), 1U);
  EXPECT_EQ(packets[0].op(), Op::Request);
  const uint32_t port = packets[0].header.src_port;
  FakePeer& peer = host.peers.back();
  peer.to_guest = "early";
  EXPECT_TRUE(settle().empty());
  EXPECT_EQ(peer.accepted_port, 0U);
  send(Op::Response, {}, port);
  EXPECT_EQ(peer.accepted_port, port);
  packets = settle();
  ASSERT_EQ(packets.size(), 1U);
  EXPECT_EQ(packets[0].data, "early");
}

TEST_F(VsockTest, refusal_of_the_guest_closes_the_stream) {
  host.guest->host_connects(kGuestPort, host.make_stream());
  const uint32_t port = settle().at(0).header.src_port;
  send(Op::Reset, {}, port);
  EXPECT_FALSE(host.peers.back().is_alive);
  EXPECT_TRUE(settle().empty());
}

TEST_F(VsockTest, no_more_is_sent_than_the_guest_has_room_for) {
  credit = 1000;
  FakePeer& peer = connect();
  peer.to_guest = std::string(2500, 'x');
  uint32_t got = 0;
  for (const auto& packet : settle()) got += packet.header.len;
  EXPECT_EQ(got, 1000U);
  forwarded = 700;
  send(Op::CreditUpdate);
  for (const auto& packet : settle()) got += packet.header.len;
  EXPECT_EQ(got, 1700U);
}

TEST_F(VsockTest, slow_host_makes_the_guest_wait_and_gets_everything) {
  FakePeer& peer = connect();
  peer.room = 0;
  std::string sent;
  for (int i = 0; i < 64; ++i) {
    const std::string part(4096, static_cast<char>('a' + i % 26));
    send(Op::Data, part);
    sent += part;
  }
  EXPECT_TRUE(settle().empty());
  peer.room = ~size_t{0};
  const auto packets = settle();
  EXPECT_TRUE(peer.from_guest == sent);
  ASSERT_FALSE(packets.empty());
  EXPECT_EQ(packets.back().op(), Op::CreditUpdate);
  EXPECT_EQ(packets.back().header.fwd_cnt, sent.size());
}

TEST_F(VsockTest, guest_that_overruns_its_credit_is_reset) {
  FakePeer& peer = connect();
  peer.room = 0;
  for (uint32_t i = 0; i <= VsockConnection::kBufferBytes / 16384; ++i) {
    send(Op::Data, std::string(16384, 'x'));
  }
  EXPECT_FALSE(peer.is_alive);
  EXPECT_EQ(settle().back().op(), Op::Reset);
}

TEST_F(VsockTest, end_of_the_hosts_side_is_a_shutdown_after_the_data) {
  FakePeer& peer = connect();
  peer.to_guest = "last";
  peer.has_ended = true;
  const auto packets = settle();
  ASSERT_EQ(packets.size(), 2U);
  EXPECT_EQ(packets[0].data, "last");
  EXPECT_EQ(packets[1].op(), Op::Shutdown);
  EXPECT_EQ(packets[1].header.flags, vsock::kShutdownSend);
  send(Op::Data, "still");
  EXPECT_EQ(peer.from_guest, "still");
}

TEST_F(VsockTest, shutdown_of_the_guest_waits_for_its_bytes) {
  FakePeer& peer = connect();
  peer.room = 2;
  send(Op::Data, "bytes");
  send(Op::Shutdown, {}, kHostPort, vsock::kShutdownBoth);
  EXPECT_TRUE(settle().empty());
  EXPECT_FALSE(peer.saw_end);
  peer.room = 100;
  const auto packets = settle();
  EXPECT_EQ(peer.from_guest, "bytes");
  EXPECT_TRUE(peer.saw_end);
  EXPECT_FALSE(peer.is_alive);
  ASSERT_EQ(packets.size(), 1U);
  EXPECT_EQ(packets[0].op(), Op::Reset);
}

TEST_F(VsockTest, bytes_of_a_connection_that_the_guest_resets_are_delivered) {
  FakePeer& peer = connect();
  peer.room = 2;
  send(Op::Data, "bytes");
  send(Op::Reset);
  EXPECT_TRUE(settle().empty());
  EXPECT_TRUE(peer.is_alive);
  EXPECT_EQ(device.connections(), 1U);  // or a guest could have any number of them
  EXPECT_EQ(device.undelivered_bytes(), 3U);
  peer.room = 2;
  (void)settle();
  EXPECT_EQ(device.undelivered_bytes(), 1U);
  peer.room = 100;
  (void)settle();
  EXPECT_EQ(peer.from_guest, "bytes");
  EXPECT_FALSE(peer.is_alive);
  EXPECT_EQ(device.connections(), 0U);
}

TEST_F(VsockTest, bytes_are_delivered_though_the_device_is_reset) {
  FakePeer& peer = connect();
  peer.room = 0;
  send(Op::Data, "bytes");
  device.reset();
  EXPECT_TRUE(peer.is_alive);
  peer.room = 100;
  peer.poll();
  EXPECT_EQ(peer.from_guest, "bytes");
  EXPECT_FALSE(peer.is_alive);
  device.activate(active);
}

TEST_F(VsockTest, finish_takes_what_the_guest_has_sent_and_waits_for_its_readers) {
  FakePeer& slow = connect();
  slow.room = 0;
  send(Op::Data, "waits, ");
  Header header{.src_cid = kCid, .dst_cid = 2, .src_port = kGuestPort, .dst_port = kHostPort};
  header.op = static_cast<uint16_t>(Op::Data);
  header.len = 7;
  memory->store(kOut, header);
  memory->write(kOut + sizeof(Header), std::as_bytes(std::span("unseen", 7)));
  transmit.add({kOut, sizeof(Header) + 7, false});
  transmit.publish();
  int done = 0;
  device.finish([&] { ++done; });
  EXPECT_EQ(device.undelivered_bytes(), 14U);
  EXPECT_EQ(done, 0);
  slow.room = 100;
  slow.poll();
  EXPECT_EQ(slow.from_guest, std::string("waits, unseen\0", 14));
  EXPECT_FALSE(slow.is_alive);
  EXPECT_EQ(done, 1);
  device.finish([&] { ++done; });
  EXPECT_EQ(done, 2);
}

TEST_F(VsockTest, finish_does_not_wait_for_a_reader_that_is_gone) {
  FakePeer& peer = connect();
  peer.room = 0;
  send(Op::Data, "bytes");
  int done = 0;
  device.finish([&] { ++done; });
  peer.is_broken = true;
  peer.room = 1;
  peer.poll();
  EXPECT_EQ(done, 1);
  EXPECT_EQ(device.undelivered_bytes(), 0U);
}

TEST_F(VsockTest, broken_stream_resets_the_connection) {
  FakePeer& peer = connect();
  peer.is_broken = true;
  send(Op::Data, "x");
  EXPECT_EQ(settle().back().op(), Op::Reset);
  EXPECT_EQ(device.connections(), 0U);
}

TEST_F(VsockTest, stream_that_breaks_with_bytes_under_way_is_not_kept_for_them) {
  FakePeer& peer = connect();
  peer.room = 0;
  send(Op::Data, "bytes");
  peer.is_broken = true;
  peer.poll();
  EXPECT_EQ(settle().back().op(), Op::Reset);
  EXPECT_FALSE(peer.is_alive);
  EXPECT_EQ(device.connections(), 0U);
}

TEST_F(VsockTest, senseless_packets_are_refused) {
  connect();
  send(Op::Request);  // a second time
  EXPECT_EQ(settle().back().op(), Op::Reset);
  EXPECT_EQ(device.connections(), 0U);
  send(Op::Data, "to nobody");
  EXPECT_EQ(settle().back().op(), Op::Reset);
  send(Op::Reset);
  EXPECT_TRUE(settle().empty());  // or resets would never end
  Header header;
  header.src_cid = 999;
  header.op = static_cast<uint16_t>(Op::Request);
  send(header);
  EXPECT_TRUE(settle().empty());
  header.src_cid = kCid;
  header.dst_cid = 2;
  header.len = 100;  // more than there is
  send(header);
  EXPECT_TRUE(settle().empty());
  EXPECT_GE(device.metrics().bad_packets.get(), 3U);
}

TEST_F(VsockTest, without_buffers_nothing_is_lost) {
  gives_back = false;
  FakePeer& peer = connect();
  for (int i = 0; i < 30; ++i) {
    peer.to_guest += std::string(100, static_cast<char>('a' + i % 26));
    (void)settle();
  }
  const std::string rest = peer.to_guest;
  EXPECT_FALSE(rest.empty());
  give_buffers(1);
  (void)device.on_kick(vsock::kReceiveQueue);
  const auto packets = settle();
  ASSERT_EQ(packets.size(), 1U);
  EXPECT_EQ(packets[0].data, rest.substr(0, packets[0].data.size()));
}

TEST_F(VsockTest, bytes_of_the_host_go_straight_into_a_buffer) {
  FakePeer& peer = connect();
  peer.to_guest = "now";
  peer.poll();
  EXPECT_TRUE(again.empty());
  EXPECT_TRUE(peer.wants_read);
  const auto used = receive.take_used();
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->len, sizeof(Header) + 3);
}

TEST_F(VsockTest, much_data_is_read_into_many_buffers_at_once) {
  credit = MiB;
  FakePeer& peer = connect();
  give_buffers(45);
  constexpr uint32_t kRoom = kInBytes - sizeof(Header);
  std::string sent;
  for (uint32_t i = 0; i < 40 * kRoom + 7; ++i) sent += static_cast<char>(i * 7 + i / 251);
  peer.to_guest = sent;
  peer.reads = 0;
  std::string got;
  for (const auto& packet : settle()) {
    EXPECT_EQ(packet.op(), Op::Data);
    got += packet.data;
  }
  EXPECT_TRUE(got == sent);
  EXPECT_EQ(peer.reads, 6);  // for 1, 2, 4, 8, 16 and 10 buffers
  peer.to_guest = "answer";
  EXPECT_EQ(settle().size(), 1U);
}

struct VsockStreamTest : VsockTest, ::testing::WithParamInterface<bool> {
  VsockStreamTest() : VsockTest(GetParam()) {}
};

TEST_P(VsockStreamTest, thread_waits_in_streams_to_the_guest_where_that_is_wanted) {
  credit = MiB;
  FakePeer& peer = connect();
  const auto stream = [&](size_t bytes, int times) {
    for (int i = 0; i < times; ++i) {
      peer.to_guest = std::string(bytes, 'x');
      EXPECT_FALSE(settle().empty());
    }
    return ::sched_getscheduler(0);
  };
  EXPECT_EQ(stream(5000, 20), GetParam() ? SCHED_BATCH : SCHED_OTHER);
  EXPECT_EQ(stream(60, 100), SCHED_OTHER);
}
INSTANTIATE_TEST_SUITE_P(Waits, VsockStreamTest, ::testing::Bool());

TEST_F(VsockTest, stream_is_paused_while_the_guest_has_no_buffers) {
  gives_back = false;
  credit = MiB;
  FakePeer& peer = connect();  // takes one of the 16
  peer.to_guest = std::string(17 * kInBytes, 'x');
  peer.poll();
  EXPECT_FALSE(peer.wants_read);
  EXPECT_EQ(settle().size(), 15U);
  give_buffers(16);
  (void)device.on_kick(vsock::kReceiveQueue);
  EXPECT_TRUE(peer.wants_read);
  EXPECT_TRUE(peer.to_guest.empty());
}

TEST_F(VsockTest, credit_is_told_in_the_turn_that_takes_the_bytes) {
  FakePeer& peer = connect();
  const std::string bytes(VsockConnection::kToldBytes / 4, 'x');
  for (int i = 0; i < 3; ++i) send(Op::Data, bytes);
  EXPECT_TRUE(settle().empty());
  send(Op::Data, bytes);
  EXPECT_TRUE(again.empty());
  EXPECT_EQ(peer.from_guest.size(), VsockConnection::kToldBytes);
  const auto packets = settle();
  ASSERT_EQ(packets.size(), 1U);
  EXPECT_EQ(packets[0].op(), Op::CreditUpdate);
  EXPECT_EQ(packets[0].header.fwd_cnt, VsockConnection::kToldBytes);
}

using Told = std::vector<uint16_t>;

TEST_F(VsockTest, guest_that_gets_answers_hears_with_them_that_its_packets_were_taken) {
  FakePeer& peer = connect();
  send(Op::Data, "question");
  EXPECT_EQ(interrupt.told.back(), vsock::kTransmitQueue);
  talk(peer);
  send(Op::Data, "question");
  EXPECT_EQ(interrupt.told, Told{});
  peer.to_guest = "answer";
  peer.poll();
  EXPECT_EQ(interrupt.told, (Told{vsock::kReceiveQueue, vsock::kTransmitQueue}));
  interrupt.is_one = true;
  interrupt.told.clear();
  send(Op::Data, "question");
  peer.to_guest = "answer";
  peer.poll();
  EXPECT_EQ(interrupt.told, Told{vsock::kReceiveQueue});
}

TEST_F(VsockTest, answer_that_does_not_come_costs_a_guest_one_wait) {
  FakePeer& peer = connect();
  talk(peer);
  run_loop_for(std::chrono::milliseconds(150));  // a timer of the talk
  send(Op::Data, "question");
  EXPECT_EQ(interrupt.told, Told{});
  run_loop_for(std::chrono::milliseconds(250));
  EXPECT_EQ(interrupt.told, Told{vsock::kTransmitQueue});
  send(Op::Data, "question");
  EXPECT_EQ(interrupt.told, (Told{vsock::kTransmitQueue, vsock::kTransmitQueue}));
}

TEST_F(VsockTest, many_packets_are_told_whether_an_answer_comes_or_not) {
  FakePeer& peer = connect();
  talk(peer);
  for (int i = 0; i < 64; ++i) send(Op::Data, "x");
  EXPECT_EQ(interrupt.told, Told{vsock::kTransmitQueue});
}

TEST_F(VsockTest, reset_forgets_what_was_not_told) {
  FakePeer& peer = connect();
  talk(peer);
  send(Op::Data, "question");
  device.reset();
  run_loop_for(std::chrono::milliseconds(150));
  EXPECT_EQ(interrupt.told, Told{});
  device.activate(active);
}

TEST_F(VsockTest, many_open_and_close_without_buffers_cost_nothing) {
  gives_back = false;
  for (int i = 0; i < 5000; ++i) {
    send(Op::Request);
    send(Op::Reset);
  }
  EXPECT_EQ(device.connections(), 0U);
  EXPECT_LE(settle().size(), 16U);
}

TEST_F(VsockTest, restored_device_tells_the_guest_that_connections_are_gone) {
  connect();
  const VsockState state = device.save();
  device.reset();
  EXPECT_FALSE(host.peers.back().is_alive);
  device.restore(state);
  device.activate(active);
  events.add({Gpa{0x9000}, 4, true});
  events.publish();
  (void)device.on_kick(vsock::kEventQueue);
  EXPECT_EQ(events.take_used()->len, 4U);
  uint64_t cid = 0;
  device.read_config(0, std::as_writable_bytes(std::span(&cid, 1)));
  EXPECT_EQ(cid, kCid);
}

}  // namespace
}  // namespace trapeze
