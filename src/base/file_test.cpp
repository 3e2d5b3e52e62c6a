#include "base/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdio>
#include <fstream>

namespace trapeze {
namespace {

std::string temp_file(std::string_view content) {
  const std::string path = testing::TempDir() + "trapeze_file_test";
  std::ofstream(path, std::ios::binary) << content;
  return path;
}

std::string text_of(const FileBytes& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

TEST(FileBytesTest, RegularFile_GivesContent) {
  const auto file = FileBytes::open(temp_file("some bytes"), 100);
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(text_of(*file), "some bytes");
}

TEST(FileBytesTest, Moved_KeepsContent) {
  auto file = FileBytes::open(temp_file("some bytes"), 100);
  ASSERT_TRUE(file);
  const FileBytes moved = std::move(*file);
  EXPECT_EQ(text_of(moved), "some bytes");
}

TEST(FileBytesTest, EmptyFile_GivesNothing) {
  const auto file = FileBytes::open(temp_file(""), 100);
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_TRUE(file->bytes().empty());
}

TEST(FileBytesTest, FileOfUnknownSize_IsRead) {
  const auto file = FileBytes::open("/proc/self/status", 1 << 20);
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(text_of(*file).substr(0, 5), "Name:");
}

TEST(FileBytesTest, TooLong_Fails) {
  EXPECT_FALSE(FileBytes::open(temp_file("some bytes"), 9));
  EXPECT_FALSE(FileBytes::open("/dev/zero", 100'000));
}

TEST(FileBytesTest, MissingOrDirectory_FailsWithPath) {
  const auto missing = FileBytes::open("/no/such/file", 100);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().message, "cannot open /no/such/file: No such file or directory");
  const auto directory = FileBytes::open("/", 100);
  ASSERT_FALSE(directory);
  EXPECT_EQ(directory.error().message, "/: is a directory, not a file");
}

}  // namespace
}  // namespace trapeze
