// Disks on real files, through both engines: a model of bytes in memory says what must be read.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <random>

#include "backend/disk/open_disk.h"
#include "backend/disk/test_client.h"
#include "base/units.h"

namespace trapeze {
namespace {

namespace fs = std::filesystem;
using Kind = DiskRequest::Kind;

constexpr uint64_t kBytes = 1 * MiB + 3 * 512;  // the last block is not whole

std::string pattern(size_t bytes, unsigned seed) {
  std::mt19937 random(seed);
  std::string text(bytes, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

struct DiskTest : ::testing::TestWithParam<IoEngineKind> {
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "trapeze-disk-test.XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder = name;
    image = folder / "disk.img";
    model = pattern(kBytes, 1);
    write_file(image, model);
  }
  void TearDown() override {
    close();
    fs::remove_all(folder);
  }
  static void write_file(const fs::path& path, const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
  }
  static std::string file_text(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  DiskSettings settings(OverlayKind overlay = OverlayKind::None) const {
    DiskSettings settings;
    settings.path = image;
    settings.overlay = overlay;
    if (overlay == OverlayKind::Kept) settings.overlay_path = folder / "over";
    settings.engine = GetParam();
    return settings;
  }
  // Empty, or what went wrong.
  std::string open(const DiskSettings& wanted) {
    close();
    auto opened = open_disk(wanted, *loop);
    if (!opened) return opened.error().message;
    disk = std::move(*opened);
    client.use(disk.get());
    return {};
  }
  void close() {
    client.use(nullptr);
    disk.reset();
  }
  void write(uint64_t offset, const std::string& text, bool is_durable = false) {
    ASSERT_EQ(client.write(offset, text, is_durable), 0);
    model.replace(offset, text.size(), text);
  }

  // Changes of all kinds and sizes, each followed by a look at its surroundings.
  void random_work(unsigned seed, int steps) {
    std::mt19937 random(seed);
    const uint64_t sectors = kBytes / 512;
    for (int i = 0; i < steps; ++i) {
      const uint64_t at = random() % sectors;
      const uint64_t count = 1 + random() % std::min<uint64_t>(sectors - at, 40);
      const uint64_t offset = at * 512;
      const uint64_t bytes = count * 512;
      client.tries_at_once = random() % 2 == 0;
      switch (random() % 6) {
        case 0:
          ASSERT_EQ(client.run(Kind::WriteZeroes, offset, bytes, random() % 2 == 0), 0);
          model.replace(offset, bytes, bytes, '\0');
          break;
        case 1:
          ASSERT_EQ(client.run(Kind::Flush), 0);
          break;
        default:
          write(offset, pattern(bytes, static_cast<unsigned>(random())), random() % 8 == 0);
      }
      const uint64_t from = align_down(offset, 16 * KiB);
      const uint64_t to = std::min(kBytes, from + 48 * KiB);
      ASSERT_TRUE(client.read(from, to - from) == model.substr(from, to - from)) << "step " << i;
    }
    ASSERT_TRUE(client.read(0, kBytes) == model);
    EXPECT_GT(client.done_at_once, 0);
  }

  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create()).value();
  TestClient client{*loop};
  fs::path folder;
  fs::path image;
  std::string model;
  std::unique_ptr<Disk> disk;
};

TEST_P(DiskTest, raw_image_holds_what_was_written) {
  ASSERT_EQ(open(settings()), "");
  EXPECT_EQ(disk->info().size_bytes, kBytes);
  random_work(2, 300);
  close();
  EXPECT_TRUE(file_text(image) == model);
}

TEST_P(DiskTest, requests_larger_than_what_is_done_inline_work) {
  const uint64_t bytes = 8 * MiB;
  write_file(image, std::string(bytes, 'x'));
  ASSERT_EQ(open(settings()), "");
  const std::string text = pattern(bytes - 512, 3);
  EXPECT_EQ(client.write(512, text), 0);
  EXPECT_TRUE(client.read(512, bytes - 512) == text);
}

TEST_P(DiskTest, many_requests_at_once_are_all_answered) {
  ASSERT_EQ(open(settings()), "");
  constexpr size_t kCount = 3000;  // more than a ring holds
  std::vector<DiskRequest> requests(kCount);
  std::vector<std::string> texts(kCount, std::string(512, '?'));
  for (size_t i = 0; i < kCount; ++i) {
    requests[i].kind = i % 50 == 7 ? Kind::Flush : Kind::Read;
    if (requests[i].kind == Kind::Flush) continue;
    requests[i].offset = i * 512 % kBytes;
    requests[i].bytes = 512;
    requests[i].parts = TestClient::parts_of(texts[i]);
  }
  for (auto& request : requests) disk->submit(request);
  disk->end_of_batch();
  disk->drain();
  ASSERT_EQ(client.done.size(), kCount);
  for (size_t i = 0; i < kCount; ++i) {
    EXPECT_EQ(client.done[&requests[i]], 0);
    if (requests[i].kind == Kind::Flush) continue;
    EXPECT_TRUE(texts[i] == model.substr(requests[i].offset, 512)) << i;
  }
}

TEST_P(DiskTest, discard_gives_storage_back) {
  ASSERT_EQ(open(settings()), "");
  ASSERT_EQ(client.run(Kind::Flush), 0);
  struct stat before {};
  ASSERT_EQ(::stat(image.c_str(), &before), 0);
  ASSERT_EQ(client.run(Kind::Discard, 0, 1 * MiB), 0);
  struct stat after {};
  ASSERT_EQ(::stat(image.c_str(), &after), 0);
  EXPECT_LT(after.st_blocks, before.st_blocks);
  EXPECT_EQ(after.st_size, before.st_size);
  EXPECT_TRUE(client.read(1 * MiB, 1536) == model.substr(1 * MiB));
}

TEST_P(DiskTest, file_size_limit_is_an_error_of_the_request) {
  const auto before = std::signal(SIGXFSZ, SIG_IGN);
  fs::resize_file(image, 512);
  fs::resize_file(image, kBytes);
  ASSERT_EQ(open(settings()), "");
  rlimit old{};
  ::getrlimit(RLIMIT_FSIZE, &old);
  const rlimit small{64 * KiB, old.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &small);
  EXPECT_EQ(client.write(128 * KiB, std::string(512, 'x')), EFBIG);
  EXPECT_EQ(client.write(0, std::string(512, 'x')), 0);
  ::setrlimit(RLIMIT_FSIZE, &old);
  EXPECT_EQ(client.read(0, 512), std::string(512, 'x'));
  std::signal(SIGXFSZ, before);
}

TEST_P(DiskTest, image_that_shrinks_gives_errors) {
  ASSERT_EQ(open(settings()), "");
  fs::resize_file(image, 4096);
  EXPECT_EQ(client.read(8192, 512), "");
  EXPECT_TRUE(client.read(0, 4096) == model.substr(0, 4096));
}

TEST_P(DiskTest, temporary_overlay_leaves_the_base_alone_and_forgets) {
  const std::string base = model;
  ASSERT_EQ(open(settings(OverlayKind::Temporary)), "");
  random_work(4, 300);
  close();
  EXPECT_TRUE(file_text(image) == base);
  ASSERT_EQ(open(settings(OverlayKind::Temporary)), "");
  EXPECT_TRUE(client.read(0, kBytes) == base);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), {}), 1);
}

TEST_P(DiskTest, kept_overlay_can_be_opened_again) {
  const std::string base = model;
  for (unsigned round = 0; round < 3; ++round) {
    ASSERT_EQ(open(settings(OverlayKind::Kept)), "");
    disk->commit();
    ASSERT_TRUE(client.read(0, kBytes) == model) << "round " << round;
    random_work(5 + round, 150);
  }
  close();
  EXPECT_TRUE(file_text(image) == base);
}

// As after kill -9, or a power cut that happened to keep the page cache: nothing is closed.
TEST_P(DiskTest, kept_overlay_has_everything_that_was_flushed) {
  ASSERT_EQ(open(settings(OverlayKind::Kept)), "");
  disk->commit();
  random_work(9, 100);
  ASSERT_EQ(client.run(Kind::Flush), 0);
  const fs::path copy = folder / "copy";
  fs::copy_file(folder / "over", copy);
  const std::string flushed = model;
  write(8192, pattern(4096, 10));
  write(64 * KiB, pattern(512, 11), true);
  fs::copy_file(folder / "over", folder / "copy2");

  auto again = settings(OverlayKind::Kept);
  again.overlay_path = copy;
  ASSERT_EQ(open(again), "");
  EXPECT_TRUE(client.read(0, kBytes) == flushed);
  again.overlay_path = folder / "copy2";
  ASSERT_EQ(open(again), "");
  EXPECT_TRUE(client.read(64 * KiB, 512) == model.substr(64 * KiB, 512));
}

TEST_P(DiskTest, overlay_that_nobody_committed_goes_away) {
  ASSERT_EQ(open(settings(OverlayKind::Kept)), "");
  EXPECT_TRUE(fs::exists(folder / "over"));
  close();
  EXPECT_FALSE(fs::exists(folder / "over"));
}

TEST_P(DiskTest, overlay_of_another_base_is_refused) {
  ASSERT_EQ(open(settings(OverlayKind::Kept)), "");
  disk->commit();
  close();
  fs::last_write_time(image, fs::last_write_time(image) - std::chrono::hours(1));
  EXPECT_NE(open(settings(OverlayKind::Kept)).find("was changed"), std::string::npos);
  fs::resize_file(image, 512 * KiB);
  EXPECT_NE(open(settings(OverlayKind::Kept)).find("524288"), std::string::npos);
}

TEST_P(DiskTest, what_is_no_overlay_is_refused_and_left_alone) {
  write_file(folder / "over", "precious");
  EXPECT_NE(open(settings(OverlayKind::Kept)).find("is no overlay"), std::string::npos);
  EXPECT_EQ(file_text(folder / "over"), "precious");
  write_file(folder / "over", std::string(20000, 'x'));
  EXPECT_NE(open(settings(OverlayKind::Kept)).find("is no overlay"), std::string::npos);
  auto nowhere = settings(OverlayKind::Kept);
  nowhere.overlay_path = folder / "no" / "over";
  EXPECT_NE(open(nowhere).find("No such file"), std::string::npos);
  nowhere.overlay_path = folder;
  EXPECT_NE(open(nowhere), "");
}

TEST_P(DiskTest, damaged_overlay_is_refused) {
  ASSERT_EQ(open(settings(OverlayKind::Kept)), "");
  disk->commit();
  close();
  const std::string text = file_text(folder / "over");
  std::string damaged = text;
  damaged[30] = static_cast<char>(damaged[30] ^ 1);
  write_file(folder / "over", damaged);
  EXPECT_NE(open(settings(OverlayKind::Kept)).find("checksum"), std::string::npos);
  write_file(folder / "over", text.substr(0, text.size() - 1));
  EXPECT_NE(open(settings(OverlayKind::Kept)).find("cut off"), std::string::npos);
  damaged = text;
  damaged[8192 + 4095] = 1;  // a bit beyond the disk
  write_file(folder / "over", damaged);
  EXPECT_NE(open(settings(OverlayKind::Kept)).find("larger than the disk"), std::string::npos);
}

TEST_P(DiskTest, two_writers_are_refused_and_readers_share) {
  ASSERT_EQ(open(settings()), "");
  auto reader = settings();
  reader.is_read_only = true;
  const auto refused = open_disk(settings(), *loop);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("in use"), std::string::npos);
  EXPECT_FALSE(open_disk(reader, *loop));
  EXPECT_FALSE(open_disk(settings(OverlayKind::Temporary), *loop));
  ASSERT_EQ(open(reader), "");
  EXPECT_TRUE(open_disk(reader, *loop));
  EXPECT_TRUE(open_disk(settings(OverlayKind::Temporary), *loop));
  EXPECT_FALSE(open_disk(settings(), *loop));
  ASSERT_EQ(open(settings(OverlayKind::Kept)), "");
  EXPECT_FALSE(open_disk(settings(OverlayKind::Kept), *loop));
}

TEST_P(DiskTest, bad_images_are_refused_by_name) {
  const std::string path = image;
  const auto refused_with = [&](const std::string& word) {
    const std::string message = open(settings());
    EXPECT_NE(message.find(word), std::string::npos) << message;
    EXPECT_NE(message.find(path), std::string::npos) << message;
  };
  write_file(image, std::string(1000, 'x'));
  refused_with("sectors");
  write_file(image, "");
  refused_with("is empty");
  write_file(image, "QFI\xfb" + std::string(1020, 'x'));
  refused_with("qcow2");
  auto raw = settings();
  raw.accept_any_format = true;
  EXPECT_EQ(open(raw), "");
  close();
  fs::remove(image);
  refused_with("No such file");
  fs::create_directory(image);
  refused_with("folder");
  fs::remove(image);
  ASSERT_EQ(::mkfifo(image.c_str(), 0600), 0);
  refused_with("neither");
}

INSTANTIATE_TEST_SUITE_P(Engines, DiskTest,
                         ::testing::Values(IoEngineKind::Auto, IoEngineKind::Threads),
                         [](const auto& test) {
                           return test.param == IoEngineKind::Auto ? "auto" : "threads";
                         });

}  // namespace
}  // namespace trapeze
