// What the kernel is told, in which order; a fake takes the ioctls. tests/rig runs the real thing.
#include "backend/net/vhost_net.h"

#include <gtest/gtest.h>
#define VIRTIO_RING_NO_LEGACY  // what follows else is C
#include <linux/vhost.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

namespace trapeze {
namespace {

struct Told {
  unsigned long request;
  std::array<uint64_t, 5> words{};
};
// The fake is a plain function, so what it was told is global. One test at a time.
std::vector<Told> told;             // NOLINT
unsigned long refused_request = 0;  // NOLINT
constexpr uint64_t kFeatures = (uint64_t{1} << 32) | (1U << 15) | (1U << 28) | (1U << 29);

int fake_ioctl(int, unsigned long request, void* argument) {
  if (request == refused_request) {
    errno = EINVAL;
    return -1;
  }
  if (request == VHOST_GET_FEATURES) std::memcpy(argument, &kFeatures, sizeof(kFeatures));
  Told entry{.request = request};
  const size_t bytes = request == VHOST_SET_MEM_TABLE ? 40 : _IOC_SIZE(request);
  if (argument != nullptr) std::memcpy(entry.words.data(), argument, std::min<size_t>(bytes, 40));
  if (request == VHOST_GET_VRING_BASE) static_cast<vhost_vring_state*>(argument)->num = 77;
  told.push_back(entry);
  return 0;
}

struct VhostTest : ::testing::Test {
  void SetUp() override {
    told.clear();
    refused_request = 0;
    vhost = std::move(VhostNet::create({&tap}, "/dev/null", fake_ioctl)).value();
    told.clear();
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
  static const Told* find(unsigned long request, uint64_t index) {
    for (const Told& entry : told) {
      if (entry.request == request && (entry.words[0] & 0xffff'ffff) == index) return &entry;
    }
    return nullptr;
  }

  const Fd tap{1000};  // numbers only; closing them fails and does no harm
  const Fd kick{1001};
  const Fd call{1002};
  std::array<uint64_t, 3> memory{};
  std::unique_ptr<VhostNet> vhost;
};

TEST_F(VhostTest, rings_are_set_up_before_the_tap_is_joined) {
  const std::array<ServedMemory, 1> ram{ServedMemory{0, 4096, memory.data()}};
  ASSERT_TRUE(vhost->start(kFeatures | 1, ram, rings()).has_value());
  EXPECT_EQ(told[0].request, VHOST_SET_FEATURES);
  EXPECT_EQ(told[0].words[0], kFeatures);  // only what it knows
  EXPECT_EQ(told[1].request, VHOST_SET_MEM_TABLE);
  EXPECT_EQ(told[1].words[0], 1U);
  EXPECT_EQ(told[1].words[2], 4096U);
  EXPECT_EQ(told[1].words[3], reinterpret_cast<uint64_t>(memory.data()));
  for (uint64_t index = 0; index < 2; ++index) {
    EXPECT_EQ(find(VHOST_SET_VRING_NUM, index)->words[0] >> 32, 256U);
    EXPECT_EQ(find(VHOST_SET_VRING_BASE, index)->words[0] >> 32, 5 + index);
    const Told* addresses = find(VHOST_SET_VRING_ADDR, index);
    EXPECT_EQ(addresses->words[1], reinterpret_cast<uint64_t>(&memory[0]));
    EXPECT_EQ(addresses->words[2], reinterpret_cast<uint64_t>(&memory[2]));
    EXPECT_EQ(addresses->words[3], reinterpret_cast<uint64_t>(&memory[1]));
    EXPECT_EQ(find(VHOST_SET_VRING_KICK, index)->words[0] >> 32, 1001U);
    EXPECT_EQ(find(VHOST_SET_VRING_CALL, index)->words[0] >> 32, 1002U);
    EXPECT_EQ(find(VHOST_NET_SET_BACKEND, index)->words[0] >> 32, 1000U);
    EXPECT_LT(find(VHOST_SET_VRING_CALL, index), find(VHOST_NET_SET_BACKEND, index));
  }
}

TEST_F(VhostTest, stopping_takes_the_tap_away_and_tells_where_it_stood) {
  ASSERT_TRUE(vhost->start(kFeatures, {}, rings()).has_value());
  told.clear();
  EXPECT_EQ(vhost->stop(1), 77);
  ASSERT_EQ(told.size(), 2U);
  EXPECT_EQ(told[0].request, VHOST_NET_SET_BACKEND);
  EXPECT_EQ(told[0].words[0] >> 32, 0xffff'ffffU);
  EXPECT_EQ(told[1].request, VHOST_GET_VRING_BASE);
  EXPECT_EQ(vhost->stop(1), 0);
  EXPECT_EQ(told.size(), 2U);
  vhost.reset();
  EXPECT_EQ(told.size(), 4U);  // the other one
}

TEST_F(VhostTest, call_of_a_running_ring_can_move) {
  ASSERT_TRUE(vhost->start(kFeatures, {}, rings()).has_value());
  told.clear();
  const Fd other{1003};
  ASSERT_TRUE(vhost->set_call(1, other).has_value());
  ASSERT_EQ(told.size(), 1U);
  EXPECT_EQ(find(VHOST_SET_VRING_CALL, 1)->words[0] >> 32, 1003U);
}

TEST_F(VhostTest, failure_half_way_leaves_nothing_running) {
  refused_request = VHOST_SET_VRING_CALL;
  auto started = vhost->start(kFeatures, {}, rings());
  ASSERT_FALSE(started.has_value());
  EXPECT_NE(started.error().message.find("VHOST_SET_VRING_CALL"), std::string::npos);
  EXPECT_EQ(find(VHOST_NET_SET_BACKEND, 0), nullptr);
}

TEST_F(VhostTest, device_that_is_not_there_is_named) {
  auto created = VhostNet::create({&tap}, "/nowhere/vhost-net", fake_ioctl);
  ASSERT_FALSE(created.has_value());
  EXPECT_NE(created.error().message.find("/nowhere/vhost-net"), std::string::npos);
}

}  // namespace
}  // namespace trapeze
