#include "memory/guest_memory.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

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

TEST(GuestMemory, private_ram_is_fit_for_huge_pages) {
  const std::array<GpaRange, 1> ram{GpaRange{Gpa{0}, 4 * MiB}};
  const auto memory = GuestMemory::create(ram).value();
  const auto start = reinterpret_cast<uintptr_t>(memory->host_base());
  EXPECT_EQ(start % (2 * MiB), 0U);
  std::ifstream smaps("/proc/self/smaps");
  const std::string all{std::istreambuf_iterator<char>(smaps), {}};
  const size_t at = all.find(fmt::format("\n{:x}-", start));
  ASSERT_NE(at, std::string::npos);
  const size_t flags = all.find("VmFlags:", at);
  EXPECT_NE(all.substr(flags, all.find('\n', flags) - flags).find(" hg"), std::string::npos);
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

// Three pages of 1, 2 and 3.
Fd numbered_file() {
  Fd file(::memfd_create("pages", MFD_CLOEXEC));
  for (int page = 1; page <= 3; ++page) {
    const std::vector<std::byte> bytes(kPageSize, static_cast<std::byte>(page));
    CHECK(::write(file.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(kPageSize));
  }
  return file;
}

TEST(GuestMemory, mapped_file_shows_and_keeps_its_bytes) {
  auto memory = memory_with_hole();
  const Fd file = numbered_file();
  memory->store<uint8_t>(Gpa{4 * KiB}, 9);
  ASSERT_TRUE(memory->map_file(Gpa{4 * KiB}, file, 4 * KiB, 8 * KiB));
  EXPECT_EQ(memory->load<uint8_t>(Gpa{4 * KiB}), 2);
  EXPECT_EQ(memory->load<uint8_t>(Gpa{12 * KiB - 1}), 3);
  EXPECT_EQ(memory->load<uint8_t>(Gpa{4 * KiB - 1}), 0) << "before it";
  EXPECT_EQ(memory->load<uint8_t>(Gpa{12 * KiB}), 0) << "behind it";

  EXPECT_TRUE(memory->store<uint8_t>(Gpa{4 * KiB}, 77));
  EXPECT_EQ(memory->load<uint8_t>(Gpa{4 * KiB}), 77);
  uint8_t in_file = 0;
  ASSERT_EQ(::pread(file.get(), &in_file, 1, 4 * KiB), 1);
  EXPECT_EQ(in_file, 2) << "a guest's write must not reach the file";
}

TEST(GuestMemory, file_that_cannot_be_mapped_changes_nothing) {
  auto memory = memory_with_hole();
  const Fd file = numbered_file();
  memory->store<uint8_t>(Gpa{0}, 9);
  EXPECT_FALSE(memory->map_file(Gpa{100}, file, 0, 4 * KiB));
  EXPECT_FALSE(memory->map_file(Gpa{0}, file, 100, 4 * KiB));
  EXPECT_FALSE(memory->map_file(Gpa{0}, file, 0, 100));
  EXPECT_FALSE(memory->map_file(Gpa{0}, file, 0, 0));
  EXPECT_FALSE(memory->map_file(Gpa{12 * KiB}, file, 0, 8 * KiB)) << "reaches into the hole";
  EXPECT_FALSE(memory->map_file(Gpa{0}, Fd(), 0, 4 * KiB));
  EXPECT_EQ(memory->load<uint8_t>(Gpa{0}), 9);
}

TEST(GuestMemory, range_given_back_reads_as_zeroes_and_can_be_used_again) {
  auto memory = memory_with_hole();
  memory->fill(Gpa{0}, std::byte{7}, 16 * KiB);
  ASSERT_TRUE(memory->give_back({Gpa{4 * KiB}, 8 * KiB}));
  EXPECT_EQ(memory->load<uint8_t>(Gpa{4 * KiB - 1}), 7);
  EXPECT_EQ(memory->load<uint8_t>(Gpa{4 * KiB}), 0);
  EXPECT_EQ(memory->load<uint8_t>(Gpa{12 * KiB - 1}), 0);
  EXPECT_EQ(memory->load<uint8_t>(Gpa{12 * KiB}), 7);
  EXPECT_TRUE(memory->store<uint8_t>(Gpa{4 * KiB}, 8));
  EXPECT_EQ(memory->load<uint8_t>(Gpa{4 * KiB}), 8);
}

TEST(GuestMemory, what_is_given_back_does_not_show_a_mapped_file_again) {
  auto memory = memory_with_hole();
  const Fd file = numbered_file();
  ASSERT_TRUE(memory->map_file(Gpa{4 * KiB}, file, 4 * KiB, 8 * KiB));
  ASSERT_TRUE(memory->give_back({Gpa{8 * KiB}, 4 * KiB}));
  EXPECT_EQ(memory->load<uint8_t>(Gpa{4 * KiB}), 2) << "not given back";
  EXPECT_EQ(memory->load<uint8_t>(Gpa{8 * KiB}), 0);
  EXPECT_TRUE(memory->store<uint8_t>(Gpa{8 * KiB}, 9));
  EXPECT_EQ(memory->load<uint8_t>(Gpa{8 * KiB}), 9);
}

TEST(GuestMemory, what_is_no_ram_cannot_be_given_back) {
  auto memory = memory_with_hole();
  EXPECT_FALSE(memory->give_back({Gpa{0}, 0}));
  EXPECT_FALSE(memory->give_back({Gpa{1}, 4 * KiB}));
  EXPECT_FALSE(memory->give_back({Gpa{0}, 100}));
  EXPECT_FALSE(memory->give_back({Gpa{12 * KiB}, 8 * KiB})) << "reaches into the hole";
}

TEST(GuestMemory, added_file_is_memory_but_no_ram) {
  const std::array<GpaRange, 1> ram{GpaRange{Gpa{0}, 16 * KiB}};
  auto memory = std::move(*GuestMemory::create(ram, Gpa{MiB + 16 * KiB}));
  const Fd file = numbered_file();
  EXPECT_EQ(memory->host(Gpa{MiB}, 1), nullptr);
  ASSERT_TRUE(memory->add_file({Gpa{MiB}, 8 * KiB}, file, GuestMemory::FileSharing::Shared));
  EXPECT_EQ(memory->load<uint8_t>(Gpa{MiB + 4 * KiB}), 2);
  EXPECT_EQ(memory->host(Gpa{MiB + 8 * KiB}, 1), nullptr);
  EXPECT_EQ(memory->ram().size(), 1U);
  EXPECT_EQ(memory->size_bytes(), 16 * KiB);
  EXPECT_EQ(memory->end(), Gpa{16 * KiB});
  EXPECT_EQ(memory->regions().size(), 2U);
  EXPECT_EQ(memory->file_bytes(), 8 * KiB);
  EXPECT_EQ(memory->top(), Gpa{MiB + 8 * KiB});
  EXPECT_FALSE(memory->give_back({Gpa{MiB}, 4 * KiB})) << "a balloon must not touch it";
  EXPECT_FALSE(memory->map_file(Gpa{MiB}, file, 0, 4 * KiB));
  EXPECT_EQ(memory->load<uint8_t>(Gpa{MiB + 4 * KiB}), 2);

  EXPECT_TRUE(memory->store<uint8_t>(Gpa{MiB}, 99));
  uint8_t in_file = 0;
  ASSERT_EQ(::pread(file.get(), &in_file, 1, 0), 1);
  EXPECT_EQ(in_file, 99);
}

TEST(GuestMemory, file_behind_copy_on_write_stays_as_it_is) {
  const std::array<GpaRange, 1> ram{GpaRange{Gpa{0}, 16 * KiB}};
  auto memory = std::move(*GuestMemory::create(ram, Gpa{MiB}));
  const Fd file = numbered_file();
  ASSERT_TRUE(
      memory->add_file({Gpa{32 * KiB}, 8 * KiB}, file, GuestMemory::FileSharing::CopyOnWrite));
  EXPECT_TRUE(memory->store<uint8_t>(Gpa{32 * KiB}, 99));
  EXPECT_EQ(memory->load<uint8_t>(Gpa{32 * KiB}), 99);
  uint8_t in_file = 0;
  ASSERT_EQ(::pread(file.get(), &in_file, 1, 0), 1);
  EXPECT_NE(in_file, 99);
}

TEST(GuestMemory, shared_ram_is_one_file_that_nobody_can_cut) {
  const std::array<GpaRange, 2> ram{GpaRange{Gpa{0}, 16 * KiB}, GpaRange{Gpa{64 * KiB}, 16 * KiB}};
  auto memory = std::move(GuestMemory::create(ram, GuestMemory::Backing::Shared)).value();
  ASSERT_NE(memory->shared_file(), nullptr);
  const int fd = memory->shared_file()->get();
  memory->store<uint8_t>(Gpa{64 * KiB + 5}, 42);
  uint8_t other_side = 0;
  ASSERT_EQ(::pread(fd, &other_side, 1, 64 * KiB + 5), 1);
  EXPECT_EQ(other_side, 42);
  other_side = 43;
  ASSERT_EQ(::pwrite(fd, &other_side, 1, 3), 1);
  EXPECT_EQ(memory->load<uint8_t>(Gpa{3}), 43);
  EXPECT_EQ(memory->host(Gpa{16 * KiB}, 1), nullptr) << "the hole stays one";
  EXPECT_NE(::ftruncate(fd, 0), 0);
  EXPECT_FALSE(memory->map_file(Gpa{0}, numbered_file(), 0, 4 * KiB));
  ASSERT_TRUE(memory->give_back({Gpa{0}, 4 * KiB}));
  EXPECT_EQ(memory->load<uint8_t>(Gpa{3}), 0);
  EXPECT_EQ(memory_with_hole()->shared_file(), nullptr);
}

TEST(GpaRange, overflow_is_refused) {
  EXPECT_FALSE(GpaRange::create(Gpa{16}, ~uint64_t{0}).has_value());
  EXPECT_TRUE(GpaRange::create(Gpa{16}, ~uint64_t{0} - 16).has_value());
}

}  // namespace
}  // namespace trapeze
