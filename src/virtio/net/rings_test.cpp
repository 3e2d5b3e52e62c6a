// Rings that the back end works on itself.
#include <sys/eventfd.h>

#include "virtio/fake_ring_service.h"
#include "virtio/net/device_fixture.h"

namespace trapeze {
namespace {

struct NetRingsTest : NetTest {
  void start_with_rings(uint16_t pairs = 1, uint64_t features = kMergeable) {
    NetTest::start(features, pairs);
    backend->ring_service = &service;
    device->reset();
    active->features = features;
    active->take_doorbell = [this](uint16_t queue) -> const Fd& {
      taken.push_back(queue);
      return doorbell;
    };
    device->activate(*active);
  }
  FakeRingService service;  // TearDown() ends its users
  std::vector<uint16_t> taken;
  Fd doorbell{1234};  // a number only
};

TEST_F(NetRingsTest, rings_and_doorbells_are_handed_over) {
  start_with_rings(2, kMergeable | kControl | net::kFeatureMultiQueue);
  EXPECT_EQ(taken, (std::vector<uint16_t>{0, 1, 2, 3}));
  ASSERT_EQ(service.running.size(), 4U);
  EXPECT_EQ(service.memory.size(), 2U);
  EXPECT_EQ(service.running[1].queue, 1);
  EXPECT_EQ(service.running[1].size, 64);
  EXPECT_EQ(service.running[1].desc, memory->host(drivers[1]->config().desc, 1));
  EXPECT_EQ(service.running[1].kick->get(), 1234);
  put_frame("not ours to send");
  EXPECT_FALSE(device->on_kick(1));
  EXPECT_TRUE(backend->sent.empty());
  EXPECT_EQ(command_with(net::ControlClass::Mq, net::kMqPairsSet, uint16_t{2}, 4), net::kAckOk);
  EXPECT_EQ(backend->pairs_in_use, 2);
}

TEST_F(NetRingsTest, what_is_called_interrupts_the_driver) {
  start_with_rings();
  const uint64_t one = 1;
  ASSERT_EQ(::write(service.running[0].call->get(), &one, sizeof(one)), 8);
  loop->start_timer(std::chrono::milliseconds(20), [&] { loop->stop(); });
  loop->run();
  EXPECT_EQ(interrupt.used, 1);
}

TEST_F(NetRingsTest, lent_interrupt_is_handed_over_and_taken_back) {
  const Fd lent(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  interrupt.lent = &lent;
  start_with_rings();
  EXPECT_EQ(service.running[0].call, &lent);
  EXPECT_EQ(service.running[1].call, &lent);

  interrupt.lent = nullptr;
  device->interrupts_moved();
  ASSERT_NE(service.running[0].call, &lent);
  EXPECT_EQ(interrupt.used, 2);  // one of each may be lost
  const uint64_t one = 1;
  ASSERT_EQ(::write(service.running[0].call->get(), &one, sizeof(one)), 8);
  loop->start_timer(std::chrono::milliseconds(20), [&] { loop->stop(); });
  loop->run();
  EXPECT_EQ(interrupt.used, 3);
}

TEST_F(NetRingsTest, save_stops_and_knows_where_they_stood_and_resume_goes_on) {
  start_with_rings();
  device->save();
  EXPECT_EQ(service.stopped, (std::vector<uint16_t>{0, 1}));
  EXPECT_EQ(active->queue(1)->save().next_avail, 9);
  EXPECT_EQ(active->queue(1)->save().next_used, 9);
  device->resume();
  EXPECT_EQ(service.running[1].next_avail, 9);
  device->reset();
  EXPECT_EQ(service.stopped.size(), 4U);
}

TEST_F(NetRingsTest, lost_link_stops_them) {
  start_with_rings();
  backend->client->net_gone();
  EXPECT_EQ(service.stopped.size(), 2U);
  EXPECT_EQ(config().status, 0);
}

TEST_F(NetRingsTest, refusal_is_told_to_the_driver) {
  service.is_refusing = true;
  start_with_rings();
  EXPECT_EQ(interrupt.resets, 1);
  device->reset();
  EXPECT_TRUE(service.stopped.empty());
}

}  // namespace
}  // namespace trapeze
