#include "memory/guest_memory.h"

#include <gtest/gtest.h>

#include <array>

#include "base/units.h"

namespace trapeze {
namespace {

std::unique_ptr<GuestMemory> memory_with_hole() {
  const std::array<GpaRange, 2> ram{GpaRange{Gpa{0}, 16 * KiB}, GpaRange{Gpa{64 * KiB}, 16 * KiB}};
  auto memory = GuestMemory::create(ram);
  CHECK(memory.has_value());
  return std::move(memory).value();
}

TEST(GuestMemory, access_in_ram_round_trips) {
  auto memory = memory_with_hole();
  EXPECT_TRUE(memory->store<uint32_t>(Gpa{64 * KiB + 1}, 0x12345678));
  EXPECT_EQ(memory->load<uint32_t>(Gpa{64 * KiB + 1}), 0x12345678U);
  EXPECT_EQ(memory->size_bytes(), 32 * KiB);
}

TEST(GuestMemory, access_outside_ram_is_refused) {
  auto memory = memory_with_hole();
  EXPECT_EQ(memory->host(Gpa{16 * KiB}, 1), nullptr);
  EXPECT_EQ(memory->host(Gpa{16 * KiB - 1}, 2), nullptr);
  EXPECT_EQ(memory->host(Gpa{~uint64_t{0}}, 2), nullptr);
  EXPECT_EQ(memory->host(Gpa{64 * KiB}, ~uint64_t{0}), nullptr);
  EXPECT_FALSE(memory->store<uint64_t>(Gpa{80 * KiB - 4}, 1));
}

// An empty span may have no address, which memcpy must not see (UBSan).
TEST(GuestMemory, empty_access_is_fine) {
  auto memory = memory_with_hole();
  EXPECT_TRUE(memory->read(Gpa{100}, {}));
  EXPECT_TRUE(memory->write(Gpa{100}, {}));
}

TEST(GuestMemory, observer_sees_device_writes) {
  struct Observer final : WriteObserver {
    void guest_memory_written(GpaRange range) override { last = range; }
    GpaRange last;
  } observer;
  auto memory = memory_with_hole();
  memory->set_write_observer(&observer);
  memory->store<uint16_t>(Gpa{100}, 7);
  EXPECT_EQ(observer.last, (GpaRange{Gpa{100}, 2}));
}

TEST(GpaRange, overflow_is_refused) {
  EXPECT_FALSE(GpaRange::create(Gpa{16}, ~uint64_t{0}).has_value());
  EXPECT_TRUE(GpaRange::create(Gpa{16}, ~uint64_t{0} - 16).has_value());
}

}  // namespace
}  // namespace trapeze
