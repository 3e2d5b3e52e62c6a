// What the kernel is told, in which order; a fake takes the ioctls. tests/rig runs the real thing.
#include "backend/vsock/vhost_vsock.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <vector>

#include "backend/vhost/fake_kernel.h"

namespace trapeze {
namespace {

constexpr uint64_t kFeatures =
    (uint64_t{1} << 32) | (1U << 28) | (1U << 29) | (1U << 26) | (1U << 1);

struct VhostVsockTest : ::testing::Test {
  void create() {
    vsock = std::move(VhostVsock::create(77, "/dev/null", FakeKernel::ioctl)).value();
    kernel.told.clear();
  }
  Result<void> start(std::span<const ServedMemory> ram = {}) {
    std::vector<ServedRing> rings;
    for (uint16_t queue = 0; queue < 2; ++queue) {
      rings.push_back({.queue = queue,
                       .size = 128,
                       .next_avail = static_cast<uint16_t>(5 + queue),
                       .desc = &memory[0],
                       .avail = &memory[1],
                       .used = &memory[2],
                       .kick = &kicks[queue],
                       .call = &call});
    }
    return vsock->start(kFeatures, ram, rings);
  }
  static std::string error_of_create(const char* device = "/dev/null") {
    auto created = VhostVsock::create(77, device, FakeKernel::ioctl);
    EXPECT_FALSE(created.has_value());
    return created ? std::string() : created.error().message;
  }

  const std::array<Fd, 2> kicks{Fd(::eventfd(0, EFD_NONBLOCK)), Fd(::eventfd(0, EFD_NONBLOCK))};
  const Fd call{1002};  // a number only; closing it fails and does no harm
  std::array<uint64_t, 3> memory{};
  FakeKernel kernel{kFeatures};
  std::unique_ptr<VhostVsock> vsock;
};

TEST_F(VhostVsockTest, cid_is_taken_when_it_is_created) {
  vsock = std::move(VhostVsock::create(77, "/dev/null", FakeKernel::ioctl)).value();
  EXPECT_EQ(kernel.requests(), (std::vector<unsigned long>{VHOST_SET_OWNER, VHOST_GET_FEATURES,
                                                           VHOST_VSOCK_SET_GUEST_CID}));
  EXPECT_EQ(kernel.told.back().words[0], 77U);
  EXPECT_EQ(vsock->features(), kFeatures);
}

TEST_F(VhostVsockTest, both_rings_are_set_up_before_it_runs) {
  create();
  const std::array<ServedMemory, 1> ram{ServedMemory{0, 4096, memory.data()}};
  ASSERT_TRUE(start(ram).has_value());
  const std::vector<unsigned long> of_ring{VHOST_SET_VRING_NUM, VHOST_SET_VRING_BASE,
                                           VHOST_SET_VRING_ADDR, VHOST_SET_VRING_KICK,
                                           VHOST_SET_VRING_CALL};
  std::vector<unsigned long> expected{VHOST_SET_FEATURES, VHOST_SET_MEM_TABLE};
  for (int ring = 0; ring < 2; ++ring) {
    expected.insert(expected.end(), of_ring.begin(), of_ring.end());
  }
  expected.push_back(VHOST_VSOCK_SET_RUNNING);
  ASSERT_EQ(kernel.requests(), expected);
  EXPECT_EQ(kernel.told[0].words[0], kFeatures);
  EXPECT_EQ(kernel.told[1].words[0], 1U);
  EXPECT_EQ(kernel.told[1].words[3], reinterpret_cast<uint64_t>(memory.data()));
  for (uint32_t ring = 0; ring < 2; ++ring) {
    const FakeKernel::Told* const first = &kernel.told[2 + ring * of_ring.size()];
    for (size_t i = 0; i < of_ring.size(); ++i) EXPECT_EQ(first[i].index(), ring);
    EXPECT_EQ(first[0].words[0] >> 32, 128U);
    EXPECT_EQ(first[1].words[0] >> 32, 5 + ring);
    EXPECT_EQ(first[2].words[1], reinterpret_cast<uint64_t>(&memory[0]));
    EXPECT_EQ(first[2].words[2], reinterpret_cast<uint64_t>(&memory[2]));
    EXPECT_EQ(first[2].words[3], reinterpret_cast<uint64_t>(&memory[1]));
    EXPECT_EQ(first[3].words[0] >> 32, static_cast<uint64_t>(kicks[ring].get()));
    EXPECT_EQ(first[4].words[0] >> 32, 1002U);
  }
  EXPECT_EQ(kernel.told.back().index(), 1U);
}

TEST_F(VhostVsockTest, kicks_from_before_it_ran_are_repeated) {
  create();
  ASSERT_TRUE(start().has_value());
  for (const Fd& kick : kicks) {
    uint64_t count = 0;
    EXPECT_EQ(::read(kick.get(), &count, sizeof(count)), 8);
    EXPECT_EQ(count, 1U);
  }
}

TEST_F(VhostVsockTest, stopping_happens_once_and_tells_where_each_ring_stood) {
  create();
  ASSERT_TRUE(start().has_value());
  kernel.told.clear();
  EXPECT_EQ(vsock->stop(0), FakeKernel::kFirstBase);
  EXPECT_EQ(vsock->stop(1), FakeKernel::kFirstBase + 1);
  EXPECT_EQ(kernel.requests(),
            (std::vector<unsigned long>{VHOST_VSOCK_SET_RUNNING, VHOST_GET_VRING_BASE,
                                        VHOST_GET_VRING_BASE}));
  EXPECT_EQ(kernel.told[0].index(), 0U);
  vsock.reset();
  EXPECT_EQ(kernel.told.size(), 3U);
}

TEST_F(VhostVsockTest, destruction_stops_it) {
  create();
  ASSERT_TRUE(start().has_value());
  kernel.told.clear();
  vsock.reset();
  EXPECT_EQ(kernel.requests(), std::vector<unsigned long>{VHOST_VSOCK_SET_RUNNING});
}

TEST_F(VhostVsockTest, it_can_start_again) {
  create();
  ASSERT_TRUE(start().has_value());
  vsock->stop(0);
  vsock->stop(1);
  kernel.told.clear();
  ASSERT_TRUE(start().has_value());
  EXPECT_EQ(kernel.told.back().request, VHOST_VSOCK_SET_RUNNING);
  EXPECT_EQ(kernel.told.back().index(), 1U);
}

TEST_F(VhostVsockTest, call_of_a_running_ring_can_move) {
  create();
  ASSERT_TRUE(start().has_value());
  kernel.told.clear();
  const Fd other{1003};
  ASSERT_TRUE(vsock->set_call(1, other).has_value());
  EXPECT_EQ(kernel.requests(), std::vector<unsigned long>{VHOST_SET_VRING_CALL});
  EXPECT_EQ(kernel.told[0].index(), 1U);
  EXPECT_EQ(kernel.told[0].words[0] >> 32, 1003U);
}

TEST_F(VhostVsockTest, failure_half_way_leaves_nothing_running) {
  create();
  for (const unsigned long request :
       {VHOST_SET_MEM_TABLE, VHOST_SET_VRING_CALL, VHOST_VSOCK_SET_RUNNING}) {
    kernel.refused_request = request;
    EXPECT_FALSE(start().has_value());
    kernel.refused_request = 0;
    EXPECT_EQ(std::ranges::count(kernel.requests(), VHOST_VSOCK_SET_RUNNING), 0);
  }
  vsock.reset();
  EXPECT_EQ(std::ranges::count(kernel.requests(), VHOST_VSOCK_SET_RUNNING), 0);
}

TEST_F(VhostVsockTest, messages_say_what_to_do) {
  EXPECT_NE(error_of_create("/nowhere/vhost-vsock").find("/nowhere/vhost-vsock"),
            std::string::npos);
  EXPECT_NE(error_of_create("/nowhere/vhost-vsock").find("modprobe vhost_vsock"),
            std::string::npos);
  kernel.refused_request = VHOST_SET_OWNER;
  kernel.refusal = EPERM;
  EXPECT_NE(error_of_create().find("give this user access to /dev/null"), std::string::npos);
  kernel.refused_request = VHOST_VSOCK_SET_GUEST_CID;
  kernel.refusal = EADDRINUSE;
  EXPECT_NE(error_of_create().find("has CID 77; choose another one with cid=N"), std::string::npos);
  kernel.refusal = EINVAL;
  EXPECT_NE(error_of_create().find("VHOST_VSOCK_SET_GUEST_CID"), std::string::npos);
}

}  // namespace
}  // namespace trapeze
