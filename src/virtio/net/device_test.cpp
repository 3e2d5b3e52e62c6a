#include "virtio/net/device.h"

#include <sched.h>

#include "virtio/net/device_fixture.h"

namespace trapeze {
namespace {

const std::string kZeroHeader(12, '\0');

// Sending -----------------------------------------------------------------------------------------

TEST_F(NetTest, frames_of_the_guest_reach_the_backend_in_order) {
  start(kMergeable);
  put_frame("first");
  put_frame("second");
  EXPECT_FALSE(device->on_kick(1));
  EXPECT_EQ(backend->sent,
            (std::vector<std::string>{kZeroHeader + "first", kZeroHeader + "second"}));
  EXPECT_TRUE(drivers[1]->take_used().has_value());
  EXPECT_TRUE(drivers[1]->take_used().has_value());
  EXPECT_EQ(interrupt.used, 1);
  EXPECT_EQ(device->metrics().sent_frames.get(), 2U);
}

TEST_F(NetTest, frames_wait_in_the_ring_while_the_backend_is_full) {
  start(kMergeable);
  backend->room = 1;
  put_frame("a");
  put_frame("b");
  put_frame("c");
  EXPECT_FALSE(device->on_kick(1));
  EXPECT_EQ(backend->sent.size(), 1U);
  EXPECT_TRUE(backend->wanted[0].sending);
  EXPECT_FALSE(device->on_kick(1));  // a kick meanwhile changes nothing
  EXPECT_EQ(backend->sent.size(), 1U);
  backend->room = 10;
  backend->tell_ready();
  EXPECT_EQ(backend->sent.size(), 3U);
  EXPECT_EQ(backend->sent[2], kZeroHeader + "c");
  EXPECT_FALSE(backend->wanted[0].sending);
  EXPECT_EQ(drivers[1]->used_idx(), 3);
}

TEST_F(NetTest, senseless_frames_are_given_back_unsent) {
  start(kMergeable);
  drivers[1]->add(Buffer{kSendData, net::kHeaderBytes, false});  // a header and no frame
  drivers[1]->add(Buffer{kReceiveData, 100, true});              // nothing to read
  put_frame("good");
  drivers[1]->add(std::array{Buffer{Gpa{0}, 40000, false}, Buffer{Gpa{0}, 40000, false}});
  drivers[1]->publish();
  EXPECT_FALSE(device->on_kick(1));
  EXPECT_EQ(backend->sent, std::vector<std::string>{kZeroHeader + "good"});
  EXPECT_EQ(drivers[1]->used_idx(), 4);
  EXPECT_EQ(device->metrics().bad_frames.get(), 3U);
}

TEST_F(NetTest, what_the_backend_drops_counts_and_is_over) {
  start(kMergeable);
  backend->is_refusing = true;
  put_frame("x");
  EXPECT_FALSE(device->on_kick(1));
  EXPECT_EQ(drivers[1]->used_idx(), 1);
  EXPECT_EQ(device->metrics().dropped_sending.get(), 1U);
  EXPECT_EQ(device->metrics().sent_frames.get(), 0U);
}

TEST_F(NetTest, send_limit_holds_frames_back_until_its_timer) {
  NetDeviceConfig limited;
  limited.send_limits.operations = {.size = 2, .one_time_burst = 0, .refill_time_ms = 1000};
  start(kMergeable, 1, limited);
  for (int i = 0; i < 3; ++i) put_frame("x");
  EXPECT_FALSE(device->on_kick(1));
  EXPECT_EQ(backend->sent.size(), 2U);
  EXPECT_FALSE(device->on_kick(1));
  EXPECT_EQ(backend->sent.size(), 2U);
  clock.now_ns += 600'000'000;
  loop->start_timer(std::chrono::milliseconds(550), [&] { loop->stop(); });
  loop->run();
  EXPECT_EQ(again, std::vector<uint16_t>{1});
  EXPECT_FALSE(device->on_kick(1));
  EXPECT_EQ(backend->sent.size(), 3U);
}

TEST_F(NetTest, frames_paid_for_but_not_sent_are_not_paid_for_again) {
  NetDeviceConfig limited;
  limited.send_limits.operations = {.size = 3, .one_time_burst = 0, .refill_time_ms = 1'000'000};
  start(kMergeable, 1, limited);
  backend->room = 1;
  for (int i = 0; i < 3; ++i) put_frame("x");
  EXPECT_FALSE(device->on_kick(1));
  backend->room = 10;
  backend->tell_ready();
  EXPECT_EQ(backend->sent.size(), 3U);
}

// Receiving ---------------------------------------------------------------------------------------

TEST_F(NetTest, frame_arrives_with_its_header_in_one_buffer) {
  start(kMergeable);
  put_buffers(4, 2000);
  EXPECT_FALSE(device->on_kick(0));
  EXPECT_TRUE(backend->wanted[0].receiving);
  backend->arrive("hello");
  backend->tell_ready();
  const auto used = drivers[0]->take_used();
  ASSERT_TRUE(used.has_value());
  std::string expected = kZeroHeader + "hello";
  expected[10] = 1;  // num_buffers
  EXPECT_EQ(received(*used, 0), expected);
  EXPECT_FALSE(drivers[0]->take_used().has_value());
  EXPECT_EQ(interrupt.used, 1);
}

TEST_F(NetTest, long_frame_is_spread_over_mergeable_buffers) {
  start(kMergeable);
  put_buffers(6, 100);
  EXPECT_FALSE(device->on_kick(0));
  const std::string text = std::string(88, 'a') + std::string(100, 'b') + std::string(30, 'c');
  backend->arrive(text);
  backend->arrive("next");
  backend->tell_ready();
  std::string all;
  for (int i = 0; i < 3; ++i) {
    const auto used = drivers[0]->take_used();
    ASSERT_TRUE(used.has_value());
    EXPECT_EQ(used->len, i == 2 ? 30U : 100U);
    all += received(*used, static_cast<uint64_t>(i) * 100);
  }
  EXPECT_EQ(all[10], 3);
  EXPECT_EQ(all.substr(12), text);
  const auto next = drivers[0]->take_used();
  ASSERT_TRUE(next.has_value());
  EXPECT_EQ(received(*next, 300).substr(12), "next");
}

TEST_F(NetTest, frame_larger_than_all_buffers_is_completed_by_later_ones) {
  start(kMergeable);
  put_buffers(2, 100);
  EXPECT_FALSE(device->on_kick(0));
  std::string text(400, '?');
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>('a' + i % 26);
  backend->arrive(text);
  backend->tell_ready();
  EXPECT_EQ(drivers[0]->used_idx(), 0);  // the driver sees whole frames only
  EXPECT_FALSE(backend->wanted[0].receiving);
  put_buffers(1, 100);
  EXPECT_FALSE(device->on_kick(0));
  EXPECT_EQ(drivers[0]->used_idx(), 0);
  put_buffers(3, 100);
  EXPECT_FALSE(device->on_kick(0));
  ASSERT_EQ(drivers[0]->used_idx(), 5);
  std::string all;
  for (uint64_t i = 0; i < 5; ++i) all += received(*drivers[0]->take_used(), i * 100);
  EXPECT_EQ(all[10], 5);
  EXPECT_EQ(all.substr(12), text);
  EXPECT_TRUE(backend->wanted[0].receiving);
}

TEST_F(NetTest, without_mergeable_buffers_a_frame_takes_one_or_is_dropped) {
  start(0);
  put_buffers(2, 100);
  EXPECT_FALSE(device->on_kick(0));
  backend->arrive(std::string(89, 'x'));
  backend->arrive("fits");
  backend->tell_ready();
  EXPECT_EQ(device->metrics().dropped_receiving.get(), 1U);
  const auto used = drivers[0]->take_used();
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(received(*used, 0).substr(12), "fits");
  EXPECT_EQ(drivers[0]->used_idx(), 1);
}

TEST_F(NetTest, frames_stay_with_the_backend_while_there_is_no_buffer) {
  start(kMergeable);
  EXPECT_FALSE(device->on_kick(0));
  backend->arrive("early");
  backend->tell_ready();
  EXPECT_EQ(backend->queued[0].size(), 1U);
  EXPECT_FALSE(backend->wanted[0].receiving);
  put_buffers(1, 1000);
  EXPECT_FALSE(device->on_kick(0));
  EXPECT_EQ(drivers[0]->used_idx(), 1);
}

TEST_F(NetTest, many_frames_go_through_a_ring_that_wraps) {
  start(kMergeable);
  for (size_t round = 0; round < 50; ++round) {
    const uint64_t first = use_buffers_from_the_start();
    put_buffers(4, 64);
    EXPECT_FALSE(device->on_kick(0));
    const std::string text(100 + round, static_cast<char>('A' + round % 26));
    backend->arrive(text);
    backend->tell_ready();
    const size_t buffers = (text.size() + 12 + 63) / 64;
    std::string all;
    for (size_t i = 0; i < buffers; ++i) {
      const auto used = drivers[0]->take_used();
      ASSERT_TRUE(used.has_value());
      all += received(*used, first + i * 64);
    }
    EXPECT_EQ(all.substr(12), text);
    // The rest of the buffers takes a frame of its own each.
    for (size_t i = buffers; i < 4; ++i) {
      backend->arrive("s");
      backend->tell_ready();
      EXPECT_EQ(received(*drivers[0]->take_used(), first + i * 64).substr(12), "s");
    }
  }
}

TEST_F(NetTest, receive_limit_counts_bytes_and_waits_afterwards) {
  NetDeviceConfig limited;
  limited.receive_limits.bandwidth = {.size = 100, .one_time_burst = 0, .refill_time_ms = 1000};
  start(kMergeable, 1, limited);
  put_buffers(8, 1000);
  EXPECT_FALSE(device->on_kick(0));
  for (int i = 0; i < 3; ++i) backend->arrive(std::string(80, 'x'));
  backend->tell_ready();
  EXPECT_EQ(drivers[0]->used_idx(), 2);  // the second one goes into debt
  EXPECT_EQ(device->metrics().throttled.get(), 1U);
  EXPECT_FALSE(backend->wanted[0].receiving);
  EXPECT_FALSE(device->on_kick(0));
  EXPECT_EQ(drivers[0]->used_idx(), 2);
}

// Hostile buffers ---------------------------------------------------------------------------------

TEST_F(NetTest, receive_buffer_too_small_for_a_header_breaks_the_queue) {
  start(kMergeable);
  put_buffers(1, 11);
  EXPECT_FALSE(device->on_kick(0));
  EXPECT_EQ(interrupt.resets, 1);
  backend->arrive("x");
  backend->tell_ready();
  EXPECT_EQ(drivers[0]->used_idx(), 0);
}

TEST_F(NetTest, receive_buffer_of_very_many_parts_breaks_the_queue) {
  start(kMergeable);
  const std::vector<Buffer> parts(400, Buffer{kReceiveData, 100, true});
  drivers[0]->add_indirect(parts, Gpa{0x30000});
  drivers[0]->publish();
  EXPECT_FALSE(device->on_kick(0));
  EXPECT_EQ(interrupt.resets, 1);
}

TEST_F(NetTest, many_parts_of_many_buffers_stay_within_what_readv_takes) {
  start(kMergeable | net::kFeatureGuestTso4);
  const std::vector<Buffer> parts(250, Buffer{kReceiveData, 1, true});
  for (uint64_t i = 0; i < 8; ++i) drivers[0]->add_indirect(parts, Gpa{0x30000 + i * 0x1000});
  drivers[0]->publish();
  EXPECT_FALSE(device->on_kick(0));
  backend->arrive(std::string(900, 'x'));  // the fake checks the number of parts
  backend->tell_ready();
  EXPECT_EQ(drivers[0]->used_idx(), 4);
}

// Control queue -----------------------------------------------------------------------------------

TEST_F(NetTest, mac_address_is_set_and_forgotten_by_a_reset) {
  NetDeviceConfig own;
  own.mac = {2, 0, 0, 0, 0, 1};
  start(kMergeable | kControl | net::kFeatureCtrlMacAddr, 1, own);
  EXPECT_EQ(config().mac, own.mac);
  const net::MacAddress other{2, 0, 0, 9, 9, 9};
  EXPECT_EQ(command_with(net::ControlClass::Mac, net::kMacAddrSet, other), net::kAckOk);
  EXPECT_EQ(config().mac, other);
  const net::MacAddress group{1, 0, 0, 9, 9, 9};
  EXPECT_EQ(command_with(net::ControlClass::Mac, net::kMacAddrSet, group), net::kAckError);
  EXPECT_EQ(config().mac, other);
  device->reset();
  EXPECT_EQ(config().mac, own.mac);
}

TEST_F(NetTest, unknown_and_ill_sized_commands_are_refused) {
  start(kControl);
  EXPECT_EQ(command_with(net::ControlClass::Mac, net::kMacAddrSet, uint32_t{0}), net::kAckError);
  EXPECT_EQ(command_with(net::ControlClass::Rx, 0, uint8_t{1}), net::kAckError);
  EXPECT_EQ(command_with(net::ControlClass::Vlan, 0, uint16_t{1}), net::kAckError);
  EXPECT_EQ(command(200, 200, {}), net::kAckError);
  EXPECT_EQ(command_with(net::ControlClass::Mq, net::kMqPairsSet, uint16_t{1}), net::kAckError);
  const std::array<std::byte, 100> much{};
  EXPECT_EQ(command(1, 1, much), net::kAckError);
}

TEST_F(NetTest, command_without_room_for_an_answer_breaks_the_queue) {
  start(kControl);
  drivers[2]->add(Buffer{kCommand, 2, false});
  drivers[2]->publish();
  EXPECT_FALSE(device->on_kick(2));
  EXPECT_EQ(interrupt.resets, 1);
}

TEST_F(NetTest, pairs_are_used_when_the_driver_says_so) {
  start(kMergeable | kControl | net::kFeatureMultiQueue, 4);
  EXPECT_EQ(config().max_virtqueue_pairs, 4);
  EXPECT_EQ(backend->pairs_in_use, 1);
  put_frame("unused", 3);
  EXPECT_FALSE(device->on_kick(3));
  EXPECT_TRUE(backend->sent.empty());
  EXPECT_EQ(command_with(net::ControlClass::Mq, net::kMqPairsSet, uint16_t{5}, 8), net::kAckError);
  EXPECT_EQ(command_with(net::ControlClass::Mq, net::kMqPairsSet, uint16_t{0}, 8), net::kAckError);
  EXPECT_EQ(command_with(net::ControlClass::Mq, net::kMqPairsSet, uint16_t{2}, 8), net::kAckOk);
  EXPECT_EQ(backend->pairs_in_use, 2);
  EXPECT_FALSE(device->on_kick(3));
  EXPECT_EQ(backend->sent.size(), 1U);
  put_buffers(1, 1000, 2);
  EXPECT_FALSE(device->on_kick(2));
  backend->arrive("second pair", 1);
  backend->tell_ready(1);
  EXPECT_EQ(drivers[2]->used_idx(), 1);
}

TEST_F(NetTest, one_pair_has_one_interrupt_for_all_its_queues) {
  start(0);
  EXPECT_TRUE(device->has_one_interrupt());
  start(0, 2);
  EXPECT_FALSE(device->has_one_interrupt());
}

TEST_F(NetTest, without_multiqueue_the_third_queue_is_the_control_queue) {
  start(kMergeable | kControl | net::kFeatureCtrlMacAddr, 4);
  EXPECT_EQ(command_with(net::ControlClass::Mac, net::kMacAddrSet, net::MacAddress{2}),
            net::kAckOk);
}

TEST_F(NetTest, offloads_of_the_guest_reach_the_backend) {
  offloads = net::kGuestOffloads | net::kHostOffloads;
  const uint64_t wanted = net::kFeatureGuestCsum | net::kFeatureGuestTso4;
  start(kMergeable | kControl | net::kFeatureCtrlGuestOffloads | wanted);
  EXPECT_EQ(device->offered_features() & offloads, offloads);
  EXPECT_EQ(backend->guest_offloads, wanted);
  EXPECT_EQ(command_with(net::ControlClass::Offloads, net::kOffloadsSet, uint64_t{0}), net::kAckOk);
  EXPECT_EQ(backend->guest_offloads, 0U);
  EXPECT_EQ(command_with(net::ControlClass::Offloads, net::kOffloadsSet,
                         uint64_t{net::kFeatureGuestTso6}),
            net::kAckError);
  // Segments without open checksums make no sense.
  start(kMergeable | net::kFeatureGuestTso4);
  EXPECT_EQ(backend->guest_offloads, 0U);
}

// Link, save, restore -----------------------------------------------------------------------------

TEST_F(NetTest, lost_backend_is_a_link_that_is_down_and_frames_are_dropped) {
  start(kMergeable);
  EXPECT_EQ(config().status, net::kStatusLinkUp);
  put_buffers(2, 1000);
  EXPECT_FALSE(device->on_kick(0));
  backend->is_lost = true;
  put_frame("x");
  EXPECT_FALSE(device->on_kick(1));
  EXPECT_EQ(drivers[1]->used_idx(), 1);
  EXPECT_EQ(config().status, 0);
  EXPECT_EQ(interrupt.config_changes, 1);
  put_frame("y");
  EXPECT_FALSE(device->on_kick(1));
  EXPECT_EQ(drivers[1]->used_idx(), 2);
  EXPECT_EQ(device->metrics().dropped_sending.get(), 2U);
  device->reset();
  EXPECT_EQ(config().status, 0);
}

TEST_F(NetTest, backend_that_says_it_is_gone_takes_the_link_down) {
  start(kMergeable);
  backend->client->net_gone();
  EXPECT_FALSE(device->has_link());
  EXPECT_EQ(interrupt.config_changes, 1);
}

TEST_F(NetTest, mtu_of_the_backend_is_offered) {
  mtu = 9000;
  start(kMergeable);
  EXPECT_EQ(config().mtu, 9000);
  EXPECT_NE(device->offered_features() & net::kFeatureMtu, 0U);
}

TEST_F(NetTest, save_gives_held_buffers_back_and_restore_goes_on) {
  const uint64_t features = kMergeable | kControl | net::kFeatureGuestAnnounce |
                            net::kFeatureMultiQueue | net::kFeatureCtrlMacAddr;
  start(features, 2);
  EXPECT_EQ(command_with(net::ControlClass::Mq, net::kMqPairsSet, uint16_t{2}, 4), net::kAckOk);
  const net::MacAddress mac{2, 7, 7, 7, 7, 7};
  EXPECT_EQ(command_with(net::ControlClass::Mac, net::kMacAddrSet, mac, 4), net::kAckOk);
  put_buffers(5, 1000);
  EXPECT_FALSE(device->on_kick(0));
  EXPECT_NE(active->queue(0)->save().next_avail, 0);
  const NetState state = device->save();
  EXPECT_EQ(active->queue(0)->save().next_avail, 0);
  EXPECT_EQ(state.pairs_in_use, 2);
  EXPECT_EQ(state.mac, mac);

  device->reset();
  device->restore(state);
  device->activate(*active);
  EXPECT_EQ(config().mac, mac);
  EXPECT_EQ(backend->pairs_in_use, 2);
  EXPECT_EQ(config().status, net::kStatusLinkUp | net::kStatusAnnounce);
  EXPECT_EQ(interrupt.config_changes, 1);
  EXPECT_EQ(command(3, net::kAnnounceAck, {}, 4), net::kAckOk);
  EXPECT_EQ(config().status, net::kStatusLinkUp);
  EXPECT_FALSE(device->on_kick(0));
  backend->arrive("after");
  backend->tell_ready();
  EXPECT_EQ(received(*drivers[0]->take_used(), 0).substr(12), "after");
}

TEST_F(NetTest, thread_waits_in_streams_where_that_is_wanted) {
  const auto send = [this](size_t bytes, int frames) {
    for (int i = 0; i < frames; ++i) {
      put_frame(std::string(bytes, 'f'));
      (void)device->on_kick(1);
      EXPECT_TRUE(drivers[1]->take_used());
    }
    return ::sched_getscheduler(0);
  };
  start(0);
  EXPECT_EQ(send(5000, 20), SCHED_OTHER);
  NetDeviceConfig waiting;
  waiting.waits_in_streams = true;
  start(0, 1, waiting);
  EXPECT_EQ(send(5000, 20), SCHED_BATCH);
  EXPECT_EQ(send(60, 100), SCHED_OTHER);
}

}  // namespace
}  // namespace trapeze
