// SharedFolder: open files.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <ctime>

#include "backend/fs/open_flags.h"
#include "backend/fs/shared_folder.h"

namespace trapeze {
namespace {

// Files change twice within one tick of the clock that stamps them (4 ms at most); what changed
// just before it was looked at may change again unseen.
constexpr uint64_t kSettledNs = 100'000'000;
// So that a request takes a bounded time; the guest asks for the rest.
constexpr uint64_t kMaxCopyBytes = uint64_t{32} << 20;
constexpr uint64_t kMaxOffset = INT64_MAX;

uint64_t nanoseconds(const statx_timestamp& time) {
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000U + time.tv_nsec;
}

uint64_t wall_clock_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000U + static_cast<uint64_t>(now.tv_nsec);
}

// Whether the file is as it was at the last call.
bool note_content(Inode& inode, const FileStat& stat) {
  const uint64_t changed = nanoseconds(stat.stx_ctime);
  const bool is_same = inode.seen_change_ns != 0 && inode.seen_change_ns == changed &&
                       inode.seen_size == stat.stx_size;
  const uint64_t now = wall_clock_ns();
  const bool is_settled = changed < now && now - changed > kSettledNs;
  inode.seen_change_ns = is_settled ? changed : 0;
  inode.seen_size = stat.stx_size;
  return is_same;
}

std::span<const iovec> cut(std::span<const iovec> parts) {
  return parts.first(std::min<size_t>(parts.size(), IOV_MAX));
}

}  // namespace

OsResult<SharedFolder::Handle*> SharedFolder::handle(uint64_t number, bool is_folder) {
  const auto found = handles_.find(number);
  if (found == handles_.end() || found->second.is_folder != is_folder) return os_fail(EBADF);
  return &found->second;
}

OsResult<OpenedFile> SharedFolder::add_handle(Fd fd, Inode& inode, uint32_t flags, bool is_folder) {
  if (handles_.size() >= config_.limits.handles) return os_fail(ENFILE);
  inodes_.opened(inode);
  const uint64_t number = next_handle_++;
  handles_.emplace(number, Handle{std::move(fd), &inode, flags, is_folder});
  return OpenedFile{.handle = number};
}

void SharedFolder::close(uint64_t number) {
  const auto found = handles_.find(number);
  if (found == handles_.end()) return;
  Inode& inode = *found->second.inode;
  handles_.erase(found);
  inodes_.closed(inode);
}

OsResult<OpenedFile> SharedFolder::open(uint64_t node, uint32_t flags) {
  Inode* const inode = TRY(known(node));
  if (inode->is_folder()) return os_fail(EISDIR);
  if (!inode->is_regular() || inode->is_sealed) return os_fail(EACCES);
  if (config_.is_read_only && is_for_writing(flags)) return os_fail(EROFS);
  if (handles_.size() >= config_.limits.handles) return os_fail(ENFILE);
  const int path = TRY(inodes_.descriptor(*inode));
  Fd fd = TRY(host_.reopen(path, host_flags(flags)));
  bool is_unchanged = config_.is_static;
  if (!config_.is_static) is_unchanged = note_content(*inode, TRY(HostFiles::stat_of(fd.get())));
  OpenedFile opened = TRY(add_handle(std::move(fd), *inode, without_truncation(flags), false));
  opened.is_unchanged = is_unchanged;
  return opened;
}

OsResult<OpenedFile> SharedFolder::create(uint64_t parent, const std::string& name, uint32_t flags,
                                          const NewFile& file, FolderEntry& entry) {
  const int folder = TRY(writable_folder(parent, name));
  if (handles_.size() >= config_.limits.handles) return os_fail(ENFILE);
  Inode& parent_inode = *TRY(known(parent));
  auto made = create_file(folder, parent_inode, name,
                          static_cast<uint32_t>(host_flags(without_truncation(flags))), file);
  if (!made) {
    // Somebody on the host was first: to the guest it is as if the file had been there all along.
    if (made.error().value != EEXIST || (flags & O_EXCL) != 0) return os_fail(made.error().value);
    entry = TRY(lookup(parent, name));
    auto opened = open(entry.node, flags);
    if (!opened) forget(entry.node, 1);
    return opened;
  }
  entry.stat = TRY(HostFiles::stat_of(made->get()));
  Inode* const inode = TRY(inodes_.enter(parent_inode, name, entry.stat));
  inodes_.add_lookup(*inode);
  entry.node = inode->node;
  auto opened = inodes_.descriptor(*inode)
                    ? add_handle(std::move(*made), *inode, without_truncation(flags), false)
                    : OsResult<OpenedFile>(os_fail(ESTALE));
  if (!opened) forget(entry.node, 1);
  return opened;
}

OsResult<size_t> SharedFolder::read(uint64_t number, std::span<const iovec> to, uint64_t offset) {
  Handle* const file = TRY(handle(number));
  if (offset > kMaxOffset) return os_fail(EINVAL);
  to = cut(to);
  const ssize_t got =
      ::preadv(file->fd.get(), to.data(), static_cast<int>(to.size()), static_cast<off_t>(offset));
  if (got < 0) return os_fail();
  return static_cast<size_t>(got);
}

OsResult<size_t> SharedFolder::write(uint64_t number, std::span<const iovec> from, uint64_t offset,
                                     bool drops_set_id) {
  Handle* const file = TRY(handle(number));
  if (config_.is_read_only) return os_fail(EROFS);
  if (offset > kMaxOffset) return os_fail(EFBIG);
  if (drops_set_id) TRY(drop_set_id(file->fd.get()));
  from = cut(from);
  const ssize_t put = ::pwritev(file->fd.get(), from.data(), static_cast<int>(from.size()),
                                static_cast<off_t>(offset));
  if (put < 0) return os_fail();
  return static_cast<size_t>(put);
}

// The host's kernel does it for writers without privileges only.
OsResult<> SharedFolder::drop_set_id(int fd) {
  const FileStat stat = TRY(HostFiles::stat_of(fd));
  uint32_t gone = stat.stx_mode & S_ISUID;
  if ((stat.stx_mode & S_IXGRP) != 0) gone |= stat.stx_mode & S_ISGID;
  if (gone == 0) return {};
  if (::fchmod(fd, stat.stx_mode & 07777 & ~gone) != 0) return os_fail();
  return {};
}

OsResult<> SharedFolder::sync(uint64_t number, bool is_data_only) {
  auto file = handle(number);
  if (!file) file = handle(number, true);
  if (!file) return os_fail(file.error().value);
  if (!(*file)->fd.is_open()) return {};
  const int fd = (*file)->fd.get();
  if ((is_data_only ? ::fdatasync(fd) : ::fsync(fd)) != 0) return os_fail();
  return {};
}

OsResult<> SharedFolder::sync_all() {
  if (config_.is_read_only) return {};
  const int path = TRY(inodes_.descriptor(inodes_.root()));
  const Fd fd = TRY(host_.reopen(path, O_RDONLY | O_DIRECTORY));
  if (::syncfs(fd.get()) != 0) return os_fail();
  return {};
}

OsResult<> SharedFolder::allocate(uint64_t number, uint32_t mode, uint64_t offset, uint64_t bytes) {
  constexpr uint32_t kKnownModes =
      FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;
  Handle* const file = TRY(handle(number));
  if (config_.is_read_only) return os_fail(EROFS);
  if ((mode & ~kKnownModes) != 0) return os_fail(EOPNOTSUPP);
  if (offset > kMaxOffset || bytes > kMaxOffset) return os_fail(EFBIG);
  if (::fallocate(file->fd.get(), static_cast<int>(mode), static_cast<off_t>(offset),
                  static_cast<off_t>(bytes)) != 0) {
    return os_fail();
  }
  return {};
}

OsResult<uint64_t> SharedFolder::seek(uint64_t number, uint64_t offset, uint32_t whence) {
  Handle* const file = TRY(handle(number));
  if (whence != SEEK_DATA && whence != SEEK_HOLE) return os_fail(EINVAL);
  if (offset > kMaxOffset) return os_fail(ENXIO);
  const off_t found = ::lseek(file->fd.get(), static_cast<off_t>(offset), static_cast<int>(whence));
  if (found < 0) return os_fail();
  return static_cast<uint64_t>(found);
}

OsResult<size_t> SharedFolder::copy(uint64_t from, uint64_t from_offset, uint64_t to,
                                    uint64_t to_offset, uint64_t bytes) {
  Handle* const source = TRY(handle(from));
  Handle* const target = TRY(handle(to));
  if (config_.is_read_only) return os_fail(EROFS);
  if (from_offset > kMaxOffset || to_offset > kMaxOffset) return os_fail(EINVAL);
  auto from_at = static_cast<off_t>(from_offset);
  auto to_at = static_cast<off_t>(to_offset);
  const ssize_t copied = ::copy_file_range(source->fd.get(), &from_at, target->fd.get(), &to_at,
                                           static_cast<size_t>(std::min(bytes, kMaxCopyBytes)), 0);
  if (copied < 0) return os_fail();
  return static_cast<size_t>(copied);
}

}  // namespace trapeze
