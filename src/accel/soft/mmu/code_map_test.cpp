#include "accel/soft/mmu/code_map.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <thread>

#include "accel/soft/core/cpu.h"
#include "accel/soft/core/env.h"
#include "base/units.h"

namespace trapeze::soft {
namespace {

class CodeMapTest : public testing::Test {
 protected:
  CodeMapTest() {
    const std::array<GpaRange, 1> ram{GpaRange{Gpa{0}, 1 * MiB}};
    memory_ = GuestMemory::create(ram).value();
    map_ = CodeMap::create(*memory_).value();
    for (uint32_t i = 0; i < 2; ++i) {
      env_[i].id = VcpuId(i);
      cpu_[i].env = &env_[i];
      map_->add_cpu(cpu_[i]);
    }
  }
  bool has_attention(unsigned i) { return (cpu_[i].attention.load() & kAttnCode) != 0; }
  CodeInbox::Requests take(unsigned i) {
    cpu_[i].attention.fetch_and(~kAttnCode);
    return map_->take_requests(cpu_[i]);
  }

  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<CodeMap> map_;
  CpuEnv env_[2];
  Cpu cpu_[2]{};
};

constexpr uint64_t kPage = 5;
constexpr uint64_t kGpa = kPage * kPageSize;

TEST_F(CodeMapTest, new_code_page_is_announced_to_all) {
  EXPECT_FALSE(map_->has_code(kPage));
  map_->mark(kGpa + 100, 20);
  EXPECT_TRUE(map_->has_code(kPage));
  for (unsigned i = 0; i < 2; ++i) {
    EXPECT_TRUE(has_attention(i));
    EXPECT_EQ(take(i).code_pages, std::vector<uint64_t>{kPage});
  }
  map_->mark(kGpa + 200, 20);  // a code page already
  EXPECT_FALSE(has_attention(0));
}

TEST_F(CodeMapTest, page_is_unsettled_until_running_vcpus_have_seen_it) {
  map_->enter_guest(cpu_[1]);
  map_->mark(kGpa, 16);
  const uint64_t epoch = map_->unsettled_epoch(kPage);
  ASSERT_NE(epoch, 0U);
  map_->acknowledge(cpu_[1], take(1).epoch);
  EXPECT_EQ(map_->unsettled_epoch(kPage), 0U);
}

TEST_F(CodeMapTest, vcpu_outside_the_guest_does_not_hold_it_up) {
  map_->enter_guest(cpu_[1]);
  map_->mark(kGpa, 16);
  map_->leave_guest(cpu_[1]);
  EXPECT_EQ(map_->unsettled_epoch(kPage), 0U);
}

TEST_F(CodeMapTest, write_drops_the_page_everywhere) {
  map_->mark(kGpa, 64);
  take(0);
  take(1);
  map_->written(kGpa + 8, 4);
  EXPECT_FALSE(map_->has_code(kPage));
  EXPECT_EQ(take(0).dropped_pages, std::vector<uint64_t>{kPage});
  EXPECT_EQ(take(1).dropped_pages, std::vector<uint64_t>{kPage});
  map_->written(kGpa + 8, 4);  // nothing left to drop
  EXPECT_FALSE(has_attention(0));
}

TEST_F(CodeMapTest, write_by_a_device_drops_every_page_it_touches) {
  map_->mark(kGpa, 64);
  map_->mark(kGpa + kPageSize, 64);
  take(0);
  memory_->fill(Gpa{kGpa - 16}, std::byte{0}, 2 * kPageSize);
  EXPECT_EQ(take(0).dropped_pages.size(), 2U);
}

TEST_F(CodeMapTest, mixed_page_is_dropped_only_by_writes_to_its_code) {
  for (unsigned i = 0; i < 10; ++i) {
    map_->mark(kGpa, 64);
    map_->written(kGpa + 2048, 8);
  }
  take(0);
  map_->mark(kGpa, 64);
  take(0);
  map_->written(kGpa + 2048, 8);
  EXPECT_TRUE(map_->has_code(kPage));
  map_->written(kGpa + 63, 8);
  EXPECT_FALSE(map_->has_code(kPage));
}

TEST_F(CodeMapTest, flood_of_requests_becomes_one_for_everything) {
  for (uint64_t page = 0; page < 256; ++page) map_->mark(page * kPageSize, 16);
  EXPECT_FALSE(take(0).everything);
  for (unsigned round = 0; round < 2; ++round) {
    for (uint64_t page = 0; page < 256; ++page) {
      map_->written(page * kPageSize, 1);
      map_->mark(page * kPageSize, 16);
    }
  }
  const CodeInbox::Requests requests = take(0);
  EXPECT_TRUE(requests.everything);
  EXPECT_LE(requests.dropped_pages.size(), 256U);
}

TEST_F(CodeMapTest, write_outside_ram_is_ignored) {
  map_->written(~uint64_t{0} - 100, 50);
  map_->written(1 * MiB, kPageSize);
  EXPECT_FALSE(has_attention(0));
}

// For ThreadSanitizer above all. Each vCPU decodes bytes that both change; in the end, whoever
// still holds what it decoded holds what is there.
TEST_F(CodeMapTest, vcpus_decode_while_others_write) {
  constexpr unsigned kRounds = 20'000, kPages = 4;
  struct Decoded {
    uint8_t value[kPages] = {};
    bool holds[kPages] = {};
  };
  std::atomic<uint8_t> bytes[kPages] = {};
  Decoded decoded[2];
  const auto obey = [&](unsigned i) {
    const CodeInbox::Requests requests = take(i);
    for (const uint64_t page : requests.dropped_pages) decoded[i].holds[page] = false;
    if (requests.everything) std::fill_n(decoded[i].holds, kPages, false);
    map_->acknowledge(cpu_[i], requests.epoch);
  };
  const auto run_vcpu = [&](unsigned i) {
    map_->enter_guest(cpu_[i]);
    for (unsigned round = 0; round < kRounds; ++round) {
      const unsigned page = (round * 7 + i) % kPages;
      if (has_attention(i)) obey(i);
      if (!decoded[i].holds[page]) {
        map_->mark(page * kPageSize, 16);
        decoded[i].value[page] = bytes[page].load();
        decoded[i].holds[page] = true;
      }
      if (round % 3 == i) {
        const unsigned other = (page + 1) % kPages;
        bytes[other].fetch_add(1);
        map_->written(other * kPageSize, 1);
      }
      (void)map_->unsettled_epoch(page);
    }
    map_->leave_guest(cpu_[i]);
  };
  std::thread other([&] { run_vcpu(1); });
  run_vcpu(0);
  other.join();
  for (unsigned i = 0; i < 2; ++i) {
    obey(i);
    for (unsigned page = 0; page < kPages; ++page) {
      if (!decoded[i].holds[page]) continue;
      EXPECT_EQ(decoded[i].value[page], bytes[page].load());
    }
  }
}

}  // namespace
}  // namespace trapeze::soft
