#include "kit/cpio.h"

#include <sys/stat.h>

#include "base/check.h"
#include "base/error.h"

namespace trapeze::kit {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

constexpr size_t kAlignment = 4;       // of header+name and of content
constexpr size_t kArchiveBlock = 512;  // the end, as other writers pad it

}  // namespace

void CpioWriter::append(std::span<const std::byte> bytes) {
  archive_.insert(archive_.end(), bytes.begin(), bytes.end());
}

void CpioWriter::pad() {
  archive_.resize((archive_.size() + kAlignment - 1) / kAlignment * kAlignment);
}

void CpioWriter::add(const Entry& entry) {
  CHECK(!entry.path.empty() && entry.path.front() != '/');
  CHECK(entry.content.size() <= UINT32_MAX);
  // magic, then: ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor
  // namesize check. A link count of 1 keeps the kernel from looking for hard links.
  const std::string header = fmt::format(
      "070701{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
      next_inode_++, entry.mode, 0, 0, 1, 0, entry.content.size(), 0, 0, entry.device_major,
      entry.device_minor, entry.path.size() + 1, 0);
  append(bytes_of(header));
  append(bytes_of(entry.path));
  archive_.push_back(std::byte{0});
  pad();
  append(entry.content);
  pad();
}

void CpioWriter::add_directory(std::string_view path, uint32_t permissions) {
  add({.path = path, .mode = S_IFDIR | permissions, .content = {}});
}

void CpioWriter::add_file(std::string_view path, uint32_t permissions,
                          std::span<const std::byte> content) {
  add({.path = path, .mode = S_IFREG | permissions, .content = content});
}

void CpioWriter::add_symlink(std::string_view path, std::string_view target) {
  add({.path = path, .mode = S_IFLNK | 0777, .content = bytes_of(target)});
}

void CpioWriter::add_character_device(std::string_view path, uint32_t permissions, uint32_t major,
                                      uint32_t minor) {
  add({.path = path,
       .mode = S_IFCHR | permissions,
       .device_major = major,
       .device_minor = minor,
       .content = {}});
}

std::vector<std::byte> CpioWriter::finish() && {
  next_inode_ = 0;
  add({.path = "TRAILER!!!", .content = {}});
  archive_.resize((archive_.size() + kArchiveBlock - 1) / kArchiveBlock * kArchiveBlock);
  return std::move(archive_);
}

}  // namespace trapeze::kit
