// SharedFolder: listing of folders.
#include <dirent.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "backend/fs/shared_folder.h"

namespace trapeze {
namespace {

constexpr size_t kListingBytes = 64 * 1024;

// linux_dirent64 of getdents64(2); the name follows, ended by a zero.
struct ItemHeader {
  uint64_t ino;
  int64_t next;
  uint16_t bytes;
  uint8_t type;
};
constexpr size_t kNameOffset = 19;
static_assert(offsetof(ItemHeader, type) == kNameOffset - 1);

}  // namespace

OsResult<OpenedFile> SharedFolder::open_folder(uint64_t node) {
  Inode* const inode = TRY(known(node));
  if (!inode->is_folder()) return os_fail(ENOTDIR);
  if (handles_.size() >= config_.limits.handles) return os_fail(ENFILE);
  Fd fd;
  if (!inode->is_sealed) {
    const int path = TRY(inodes_.descriptor(*inode));
    fd = TRY(host_.reopen(path, O_RDONLY | O_DIRECTORY));
  }
  OpenedFile opened = TRY(add_handle(std::move(fd), *inode, O_RDONLY, true));
  opened.is_unchanged = config_.is_static;
  return opened;
}

// Makes listing_ begin at the position, and go on. Empty afterwards: the end.
OsResult<> SharedFolder::fill_listing(Handle& folder, uint64_t number, uint64_t position) {
  const bool goes_on = listing_handle_ == number && listing_position_ == position;
  if (goes_on && listing_at_ != listing_end_) return {};
  listing_at_ = listing_end_ = 0;
  listing_handle_ = 0;
  // A number of the guest's choosing: the host's file systems take any.
  if (!goes_on && ::lseek(folder.fd.get(), static_cast<off_t>(position), SEEK_SET) < 0) {
    return os_fail();
  }
  listing_.resize(kListingBytes);
  const long got = ::syscall(SYS_getdents64, folder.fd.get(), listing_.data(), listing_.size());
  if (got < 0) return os_fail();
  listing_end_ = static_cast<size_t>(got);
  listing_handle_ = number;
  listing_position_ = position;
  return {};
}

OsResult<> SharedFolder::list(uint64_t number, uint64_t position,
                              const std::function<bool(const FolderItem& item)>& take) {
  Handle* const folder = TRY(handle(number, true));
  if (!folder->fd.is_open()) return {};
  if (position > INT64_MAX) return os_fail(EINVAL);
  for (;;) {
    TRY(fill_listing(*folder, number, position));
    if (listing_at_ == listing_end_) return {};
    const std::byte* at = listing_.data() + listing_at_;
    ItemHeader header;
    std::memcpy(&header, at, kNameOffset);
    FolderItem item;
    item.name = reinterpret_cast<const char*>(at + kNameOffset);
    item.ino = guest_ino(folder->inode->id.dev, header.ino);
    item.next = static_cast<uint64_t>(header.next);
    item.type = header.type;
    // What is above the root is not the guest's business.
    if (item.name == ".." && folder->inode == &inodes_.root()) {
      item.ino = guest_ino(folder->inode->id.dev, folder->inode->id.ino);
    }
    if (!take(item)) return {};
    listing_at_ += header.bytes;
    listing_position_ = position = item.next;
  }
}

OsResult<FolderEntry> SharedFolder::lookup_listed(uint64_t number, const std::string& name) {
  Handle* const folder = TRY(handle(number, true));
  if (!HostFiles::is_entry_name(name)) return os_fail(EINVAL);
  return enter(*folder->inode, folder->fd.get(), name);
}

}  // namespace trapeze
