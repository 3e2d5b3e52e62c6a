// What the kernel is told, in which order; a fake takes the ioctls. tests/rig runs the real thing.
#include "backend/net/vhost_net.h"

#include <gtest/gtest.h>
#include <array>
#include <vector>

#include "backend/vhost/fake_kernel.h"

namespace trapeze {
namespace {

constexpr uint64_t kFeatures = (uint64_t{1} << 32) | (1U << 15) | (1U << 28) | (1U << 29);

struct VhostTest : ::testing::Test {
  void SetUp() override {
    vhost = std::move(VhostNet::create({&tap}, "/dev/null", FakeKernel::ioctl)).value();
    kernel.told.clear();
  }
  std::vector<ServedRing> rings() {
    std::vector<ServedRing> result;
    for (uint16_t queue = 0; queue < 2; ++queue) {
      result.push_back({.queue = queue,
                        .size = 256,
                        .next_avail = static_cast<uint16_t>(5 + queue),
                        .desc = &memory[0],
                        .avail = &memory[1],
                        .used = &memory[2],
                        .kick = &kick,
                        .call = &call});
    }
    return result;
  }
  const Fd tap{1000};  // numbers only; closing them fails and does no harm
  const Fd kick{1001};
  const Fd call{1002};
  std::array<uint64_t, 3> memory{};
  FakeKernel kernel{kFeatures};
  std::unique_ptr<VhostNet> vhost;
};

TEST_F(VhostTest, rings_are_set_up_before_the_tap_is_joined) {
  const std::array<ServedMemory, 1> ram{ServedMemory{0, 4096, memory.data()}};
  ASSERT_TRUE(vhost->start(kFeatures | 1, ram, rings()).has_value());
  EXPECT_EQ(kernel.told[0].request, VHOST_SET_FEATURES);
  EXPECT_EQ(kernel.told[0].words[0], kFeatures);  // only what it knows
  EXPECT_EQ(kernel.told[1].request, VHOST_SET_MEM_TABLE);
  EXPECT_EQ(kernel.told[1].words[0], 1U);
  EXPECT_EQ(kernel.told[1].words[2], 4096U);
  EXPECT_EQ(kernel.told[1].words[3], reinterpret_cast<uint64_t>(memory.data()));
  for (uint32_t index = 0; index < 2; ++index) {
    EXPECT_EQ(kernel.find(VHOST_SET_VRING_NUM, index)->words[0] >> 32, 256U);
    EXPECT_EQ(kernel.find(VHOST_SET_VRING_BASE, index)->words[0] >> 32, 5 + index);
    const FakeKernel::Told* addresses = kernel.find(VHOST_SET_VRING_ADDR, index);
    EXPECT_EQ(addresses->words[1], reinterpret_cast<uint64_t>(&memory[0]));
    EXPECT_EQ(addresses->words[2], reinterpret_cast<uint64_t>(&memory[2]));
    EXPECT_EQ(addresses->words[3], reinterpret_cast<uint64_t>(&memory[1]));
    EXPECT_EQ(kernel.find(VHOST_SET_VRING_KICK, index)->words[0] >> 32, 1001U);
    EXPECT_EQ(kernel.find(VHOST_SET_VRING_CALL, index)->words[0] >> 32, 1002U);
    EXPECT_EQ(kernel.find(VHOST_NET_SET_BACKEND, index)->words[0] >> 32, 1000U);
    EXPECT_LT(kernel.find(VHOST_SET_VRING_CALL, index), kernel.find(VHOST_NET_SET_BACKEND, index));
  }
}

TEST_F(VhostTest, stopping_takes_the_tap_away_and_tells_where_it_stood) {
  ASSERT_TRUE(vhost->start(kFeatures, {}, rings()).has_value());
  kernel.told.clear();
  EXPECT_EQ(vhost->stop(1), FakeKernel::kFirstBase + 1);
  ASSERT_EQ(kernel.told.size(), 2U);
  EXPECT_EQ(kernel.told[0].request, VHOST_NET_SET_BACKEND);
  EXPECT_EQ(kernel.told[0].words[0] >> 32, 0xffff'ffffU);
  EXPECT_EQ(kernel.told[1].request, VHOST_GET_VRING_BASE);
  EXPECT_EQ(vhost->stop(1), 0);
  EXPECT_EQ(kernel.told.size(), 2U);
  vhost.reset();
  EXPECT_EQ(kernel.told.size(), 4U);  // the other one
}

TEST_F(VhostTest, call_of_a_running_ring_can_move) {
  ASSERT_TRUE(vhost->start(kFeatures, {}, rings()).has_value());
  kernel.told.clear();
  const Fd other{1003};
  ASSERT_TRUE(vhost->set_call(1, other).has_value());
  ASSERT_EQ(kernel.told.size(), 1U);
  EXPECT_EQ(kernel.find(VHOST_SET_VRING_CALL, 1)->words[0] >> 32, 1003U);
}

TEST_F(VhostTest, failure_half_way_leaves_nothing_running) {
  kernel.refused_request = VHOST_SET_VRING_CALL;
  auto started = vhost->start(kFeatures, {}, rings());
  ASSERT_FALSE(started.has_value());
  EXPECT_NE(started.error().message.find("VHOST_SET_VRING_CALL"), std::string::npos);
  EXPECT_EQ(kernel.find(VHOST_NET_SET_BACKEND, 0), nullptr);
}

TEST_F(VhostTest, device_that_is_not_there_is_named) {
  auto created = VhostNet::create({&tap}, "/nowhere/vhost-net", FakeKernel::ioctl);
  ASSERT_FALSE(created.has_value());
  EXPECT_NE(created.error().message.find("/nowhere/vhost-net"), std::string::npos);
}

}  // namespace
}  // namespace trapeze
