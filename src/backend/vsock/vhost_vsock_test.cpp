// What the kernel is told, in which order; a fake takes the ioctls. tests/rig runs the real thing.
#include "backend/vsock/vhost_vsock.h"

#include <gtest/gtest.h>
#define VIRTIO_RING_NO_LEGACY  // what follows else is C
#include <linux/vhost.h>
#include <sys/eventfd.h>
#include <unistd.h>

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
  uint32_t index() const { return static_cast<uint32_t>(words[0]); }
};
// The fake is a plain function, so what it was told is global. One test at a time.
std::vector<Told> told;             // NOLINT
unsigned long refused_request = 0;  // NOLINT
int refusal = EINVAL;               // NOLINT
constexpr uint64_t kFeatures =
    (uint64_t{1} << 32) | (1U << 28) | (1U << 29) | (1U << 26) | (1U << 1);

int fake_ioctl(int, unsigned long request, void* argument) {
  if (request == refused_request) {
    errno = refusal;
    return -1;
  }
  if (request == VHOST_GET_FEATURES) std::memcpy(argument, &kFeatures, sizeof(kFeatures));
  Told entry{.request = request};
  const size_t bytes = request == VHOST_SET_MEM_TABLE ? 40 : _IOC_SIZE(request);
  if (argument != nullptr) std::memcpy(entry.words.data(), argument, std::min<size_t>(bytes, 40));
  if (request == VHOST_GET_VRING_BASE) {
    auto* const state = static_cast<vhost_vring_state*>(argument);
    state->num = 70 + state->index;
  }
  told.push_back(entry);
  return 0;
}

struct VhostVsockTest : ::testing::Test {
  void SetUp() override {
    told.clear();
    refused_request = 0;
    refusal = EINVAL;
  }
  void create() {
    vsock = std::move(VhostVsock::create(77, "/dev/null", fake_ioctl)).value();
    told.clear();
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
    auto created = VhostVsock::create(77, device, fake_ioctl);
    EXPECT_FALSE(created.has_value());
    return created ? std::string() : created.error().message;
  }
  static std::vector<unsigned long> requests() {
    std::vector<unsigned long> result;
    for (const Told& entry : told) result.push_back(entry.request);
    return result;
  }

  const std::array<Fd, 2> kicks{Fd(::eventfd(0, EFD_NONBLOCK)), Fd(::eventfd(0, EFD_NONBLOCK))};
  const Fd call{1002};  // a number only; closing it fails and does no harm
  std::array<uint64_t, 3> memory{};
  std::unique_ptr<VhostVsock> vsock;
};

TEST_F(VhostVsockTest, cid_is_taken_when_it_is_created) {
  vsock = std::move(VhostVsock::create(77, "/dev/null", fake_ioctl)).value();
  EXPECT_EQ(requests(), (std::vector<unsigned long>{VHOST_SET_OWNER, VHOST_GET_FEATURES,
                                                    VHOST_VSOCK_SET_GUEST_CID}));
  EXPECT_EQ(told.back().words[0], 77U);
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
  ASSERT_EQ(requests(), expected);
  EXPECT_EQ(told[0].words[0], kFeatures);
  EXPECT_EQ(told[1].words[0], 1U);
  EXPECT_EQ(told[1].words[3], reinterpret_cast<uint64_t>(memory.data()));
  for (uint32_t ring = 0; ring < 2; ++ring) {
    const Told* const first = &told[2 + ring * of_ring.size()];
    for (size_t i = 0; i < of_ring.size(); ++i) EXPECT_EQ(first[i].index(), ring);
    EXPECT_EQ(first[0].words[0] >> 32, 128U);
    EXPECT_EQ(first[1].words[0] >> 32, 5 + ring);
    EXPECT_EQ(first[2].words[1], reinterpret_cast<uint64_t>(&memory[0]));
    EXPECT_EQ(first[2].words[2], reinterpret_cast<uint64_t>(&memory[2]));
    EXPECT_EQ(first[2].words[3], reinterpret_cast<uint64_t>(&memory[1]));
    EXPECT_EQ(first[3].words[0] >> 32, static_cast<uint64_t>(kicks[ring].get()));
    EXPECT_EQ(first[4].words[0] >> 32, 1002U);
  }
  EXPECT_EQ(told.back().index(), 1U);
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
  told.clear();
  EXPECT_EQ(vsock->stop(0), 70);
  EXPECT_EQ(vsock->stop(1), 71);
  EXPECT_EQ(requests(), (std::vector<unsigned long>{VHOST_VSOCK_SET_RUNNING, VHOST_GET_VRING_BASE,
                                                    VHOST_GET_VRING_BASE}));
  EXPECT_EQ(told[0].index(), 0U);
  vsock.reset();
  EXPECT_EQ(told.size(), 3U);
}

TEST_F(VhostVsockTest, destruction_stops_it) {
  create();
  ASSERT_TRUE(start().has_value());
  told.clear();
  vsock.reset();
  EXPECT_EQ(requests(), std::vector<unsigned long>{VHOST_VSOCK_SET_RUNNING});
}

TEST_F(VhostVsockTest, it_can_start_again) {
  create();
  ASSERT_TRUE(start().has_value());
  vsock->stop(0);
  vsock->stop(1);
  told.clear();
  ASSERT_TRUE(start().has_value());
  EXPECT_EQ(told.back().request, VHOST_VSOCK_SET_RUNNING);
  EXPECT_EQ(told.back().index(), 1U);
}

TEST_F(VhostVsockTest, call_of_a_running_ring_can_move) {
  create();
  ASSERT_TRUE(start().has_value());
  told.clear();
  const Fd other{1003};
  ASSERT_TRUE(vsock->set_call(1, other).has_value());
  EXPECT_EQ(requests(), std::vector<unsigned long>{VHOST_SET_VRING_CALL});
  EXPECT_EQ(told[0].index(), 1U);
  EXPECT_EQ(told[0].words[0] >> 32, 1003U);
}

TEST_F(VhostVsockTest, failure_half_way_leaves_nothing_running) {
  create();
  for (const unsigned long request :
       {VHOST_SET_MEM_TABLE, VHOST_SET_VRING_CALL, VHOST_VSOCK_SET_RUNNING}) {
    refused_request = request;
    EXPECT_FALSE(start().has_value());
    refused_request = 0;
    EXPECT_EQ(std::ranges::count(requests(), VHOST_VSOCK_SET_RUNNING), 0);
  }
  vsock.reset();
  EXPECT_EQ(std::ranges::count(requests(), VHOST_VSOCK_SET_RUNNING), 0);
}

TEST_F(VhostVsockTest, messages_say_what_to_do) {
  EXPECT_NE(error_of_create("/nowhere/vhost-vsock").find("/nowhere/vhost-vsock"),
            std::string::npos);
  EXPECT_NE(error_of_create("/nowhere/vhost-vsock").find("modprobe vhost_vsock"),
            std::string::npos);
  refused_request = VHOST_SET_OWNER;
  refusal = EPERM;
  EXPECT_NE(error_of_create().find("give this user access to /dev/null"), std::string::npos);
  refused_request = VHOST_VSOCK_SET_GUEST_CID;
  refusal = EADDRINUSE;
  EXPECT_NE(error_of_create().find("has CID 77; choose another one with cid=N"), std::string::npos);
  refusal = EINVAL;
  EXPECT_NE(error_of_create().find("VHOST_VSOCK_SET_GUEST_CID"), std::string::npos);
}

}  // namespace
}  // namespace trapeze
