#include "backend/pmem/pmem_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

namespace trapeze {
namespace {

struct PmemFileTest : testing::Test {
  PmemFileTest() {
    path = testing::TempDir() + "trapeze-pmem-XXXXXX";
    file = Fd(::mkstemp(path.data()));
  }
  ~PmemFileTest() override { ::unlink(path.c_str()); }
  void resize(uint64_t bytes) { ASSERT_EQ(::ftruncate(file.get(), static_cast<off_t>(bytes)), 0); }
  std::string error(ImageAccess access = ImageAccess::ReadWrite) {
    const auto opened = PmemFile::open(path, access);
    return opened ? std::string() : opened.error().message;
  }
  std::string path;
  Fd file;
};

TEST_F(PmemFileTest, sparse_file_gets_its_blocks) {
  resize(4 * MiB);
  const auto opened = PmemFile::open(path, ImageAccess::ReadWrite);
  ASSERT_TRUE(opened) << opened.error().message;
  EXPECT_EQ((*opened)->size_bytes(), 4 * MiB);
  struct stat info {};
  ASSERT_EQ(::fstat(file.get(), &info), 0);
  EXPECT_GE(info.st_blocks * 512, static_cast<blkcnt_t>(4 * MiB));
  EXPECT_TRUE((*opened)->flush());
}

TEST_F(PmemFileTest, file_that_is_only_read_stays_sparse) {
  resize(4 * MiB);
  ASSERT_TRUE(PmemFile::open(path, ImageAccess::ReadOnly));
  struct stat info {};
  ASSERT_EQ(::fstat(file.get(), &info), 0);
  EXPECT_EQ(info.st_blocks, 0);
}

TEST_F(PmemFileTest, bad_sizes_are_refused) {
  EXPECT_NE(error().find("is empty"), std::string::npos);
  resize(1 * MiB);
  EXPECT_NE(error().find("multiple of 2 MiB"), std::string::npos);
  resize(4 * MiB + 4096);
  EXPECT_NE(error().find("truncate -s %2M"), std::string::npos);
  resize(100);
  EXPECT_FALSE(error().empty());
}

TEST_F(PmemFileTest, one_writer_or_many_readers) {
  resize(2 * MiB);
  {
    const auto writer = PmemFile::open(path, ImageAccess::ReadWrite);
    EXPECT_NE(error().find("in use"), std::string::npos);
    EXPECT_NE(error(ImageAccess::ReadOnly).find("in use"), std::string::npos);
  }
  const auto reader = PmemFile::open(path, ImageAccess::ReadOnly);
  EXPECT_EQ(error(ImageAccess::ReadOnly), "");
  EXPECT_NE(error().find("in use"), std::string::npos);
}

TEST_F(PmemFileTest, what_is_no_file_is_refused) {
  EXPECT_FALSE(PmemFile::open(testing::TempDir(), ImageAccess::ReadWrite));
  EXPECT_FALSE(PmemFile::open(path + "-not-there", ImageAccess::ReadWrite));
  EXPECT_FALSE(PmemFile::open("/dev/null", ImageAccess::ReadWrite));
}

}  // namespace
}  // namespace trapeze
