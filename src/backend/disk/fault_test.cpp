// Disks over an engine that fails when told to: no disk has these faults on demand.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "backend/disk/overlay_disk.h"
#include "backend/disk/raw_disk.h"
#include "backend/disk/test_client.h"
#include "base/units.h"

namespace trapeze {
namespace {

namespace fs = std::filesystem;
using Kind = DiskRequest::Kind;

// Does everything at once, notes what it did, and fails what it is told to.
class FaultyEngine final : public IoEngine {
 public:
  struct Plan {
    std::vector<IoOp::Kind> seen;
    std::map<IoOp::Kind, int> errors;
  };
  explicit FaultyEngine(Plan& plan) : plan_(plan) {}
  const char* name() const override { return "faulty"; }
  void submit(IoOp& op) override { owner_->io_done(op, run(op)); }
  void end_of_batch() override {}
  void drain() override {}
  int run(IoOp& op) override {
    plan_.seen.push_back(op.kind);
    const auto error = plan_.errors.find(op.kind);
    return error != plan_.errors.end() ? error->second : run_blocking(op);
  }

 private:
  Plan& plan_;
};

struct FaultTest : ::testing::Test {
  FaultTest() {
    std::string name = (fs::temp_directory_path() / "trapeze-fault-test.XXXXXX").string();
    EXPECT_NE(::mkdtemp(name.data()), nullptr);
    folder = name;
    std::ofstream(folder / "disk") << std::string(64 * KiB, 'b');
  }
  ~FaultTest() override {
    client.use(nullptr);
    disk.reset();
    fs::remove_all(folder);
  }
  ImageFile image(ImageAccess access) {
    return std::move(open_image(folder / "disk", access, false)).value();
  }
  void use_raw() {
    disk = std::make_unique<RawDisk>(image(ImageAccess::ReadWrite), ImageAccess::ReadWrite,
                                     std::make_unique<FaultyEngine>(plan));
    client.use(disk.get());
  }
  void use_overlay(const std::string& name) {
    client.use(nullptr);
    disk.reset();
    ImageFile base = image(ImageAccess::ReadOnly);
    auto file = std::move(OverlayFile::open_kept(folder / name, base)).value();
    disk = std::make_unique<OverlayDisk>(std::move(base), std::move(file),
                                         std::make_unique<FaultyEngine>(plan));
    disk->commit();
    client.use(disk.get());
  }

  fs::path folder;
  FaultyEngine::Plan plan;
  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create()).value();
  TestClient client{*loop};
  std::unique_ptr<Disk> disk;
};

TEST_F(FaultTest, raw_disk_passes_errors_on) {
  use_raw();
  plan.errors = {{IoOp::Kind::Write, ENOSPC}, {IoOp::Kind::Sync, EIO}, {IoOp::Kind::Read, EIO}};
  EXPECT_EQ(client.write(0, std::string(512, 'x')), ENOSPC);
  EXPECT_EQ(client.run(Kind::Flush), EIO);
  EXPECT_EQ(client.read(0, 512), "");
  plan.errors = {{IoOp::Kind::Sync, EIO}};
  EXPECT_EQ(client.write(0, std::string(512, 'x'), true), EIO);
}

TEST_F(FaultTest, durable_write_is_synced) {
  use_raw();
  EXPECT_EQ(client.write(0, std::string(512, 'x'), true), 0);
  EXPECT_EQ(plan.seen, (std::vector{IoOp::Kind::Write, IoOp::Kind::Sync}));
}

TEST_F(FaultTest, zeros_are_written_where_ranges_cannot_be_zeroed) {
  use_raw();
  plan.errors = {{IoOp::Kind::PunchHole, EOPNOTSUPP}, {IoOp::Kind::ZeroRange, EOPNOTSUPP}};
  EXPECT_EQ(client.run(Kind::Discard, 0, 4096), 0);
  EXPECT_EQ(client.run(Kind::WriteZeroes, 512, 1024, true), 0);
  EXPECT_EQ(client.read(0, 2048),
            std::string(512, 'b') + std::string(1024, '\0') + std::string(512, 'b'));
  // And not asked again.
  plan.seen.clear();
  EXPECT_EQ(client.run(Kind::WriteZeroes, 0, 512), 0);
  EXPECT_EQ(plan.seen, std::vector{IoOp::Kind::Write});
}

TEST_F(FaultTest, overlay_writes_its_map_only_after_its_data) {
  use_overlay("over");
  EXPECT_EQ(client.write(0, std::string(4096, 'x')), 0);
  EXPECT_EQ(client.run(Kind::Flush), 0);
  using enum IoOp::Kind;
  EXPECT_EQ(plan.seen, (std::vector{Write, Sync, Write, Sync}));
  // What the map knows already needs one sync.
  plan.seen.clear();
  EXPECT_EQ(client.write(0, std::string(4096, 'y')), 0);
  EXPECT_EQ(client.run(Kind::Flush), 0);
  EXPECT_EQ(plan.seen, (std::vector{Write, Sync}));
}

TEST_F(FaultTest, failed_flush_of_an_overlay_is_told_and_made_good_by_the_next) {
  use_overlay("over");
  EXPECT_EQ(client.write(4096, std::string(4096, 'x')), 0);
  plan.errors = {{IoOp::Kind::Sync, EIO}};
  EXPECT_EQ(client.run(Kind::Flush), EIO);
  fs::copy_file(folder / "over", folder / "early");
  plan.errors.clear();
  EXPECT_EQ(client.run(Kind::Flush), 0);
  fs::copy_file(folder / "over", folder / "late");
  use_overlay("early");
  EXPECT_EQ(client.read(4096, 4096), std::string(4096, 'b'));
  use_overlay("late");
  EXPECT_EQ(client.read(4096, 4096), std::string(4096, 'x'));
}

TEST_F(FaultTest, failed_write_leaves_the_base_visible) {
  use_overlay("over");
  plan.errors = {{IoOp::Kind::Write, ENOSPC}};
  EXPECT_EQ(client.write(0, std::string(8192, 'x')), ENOSPC);
  EXPECT_EQ(client.write(512, std::string(512, 'x')), ENOSPC);
  EXPECT_EQ(client.run(Kind::WriteZeroes, 512, 512), ENOSPC);
  plan.errors.clear();
  EXPECT_EQ(client.read(0, 8192), std::string(8192, 'b'));
}

TEST_F(FaultTest, overlay_without_holes_writes_zeros) {
  use_overlay("over");
  plan.errors = {{IoOp::Kind::PunchHole, EOPNOTSUPP}};
  EXPECT_EQ(client.write(4096, std::string(4096, 'x')), 0);
  EXPECT_EQ(client.run(Kind::WriteZeroes, 2048, 8192), 0);
  EXPECT_EQ(client.read(0, 12288),
            std::string(2048, 'b') + std::string(8192, '\0') + std::string(2048, 'b'));
}

}  // namespace
}  // namespace trapeze
