// SharedFolder: attributes of files, plain and extended.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <string_view>

#include "backend/fs/open_flags.h"
#include "backend/fs/shared_folder.h"

namespace trapeze {
namespace {

// What a guest may set. The other namespaces mean something to the host's kernel.
constexpr std::string_view kUserAttributes = "user.";
// Capabilities of programs; the guest honours them inside itself.
constexpr std::string_view kCapabilities = "security.capability";
constexpr size_t kMaxAttributeBytes = 64 * 1024;  // XATTR_SIZE_MAX and XATTR_LIST_MAX

bool is_readable_attribute(std::string_view name) {
  return name.starts_with(kUserAttributes) || name == kCapabilities;
}

bool has_attributes(const Inode& inode) { return inode.is_folder() || inode.is_regular(); }

}  // namespace

OsResult<FileStat> SharedFolder::stat(uint64_t node, std::optional<uint64_t> number) {
  if (number) {
    // Of an open file also when the host has removed or replaced it.
    if (const auto open = handle(*number)) return HostFiles::stat_of((*open)->fd.get());
  }
  return inodes_.stat(*TRY(known(node)));
}

OsResult<> SharedFolder::resize(Inode& inode, std::optional<uint64_t> number, uint64_t size) {
  if (!inode.is_regular() || inode.is_sealed) return os_fail(EINVAL);
  if (size > INT64_MAX) return os_fail(EFBIG);
  if (number) {
    const auto open = handle(*number);
    if (open && (*open)->inode == &inode && is_for_writing((*open)->flags)) {
      return ::ftruncate((*open)->fd.get(), static_cast<off_t>(size)) == 0 ? OsResult<>()
                                                                           : os_fail();
    }
  }
  const int path = TRY(inodes_.descriptor(inode));
  const Fd fd = TRY(host_.reopen(path, O_WRONLY));
  if (::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) return os_fail();
  return {};
}

OsResult<FileStat> SharedFolder::change(uint64_t node, std::optional<uint64_t> number,
                                        const AttributeChange& change) {
  if (config_.is_read_only) return os_fail(EROFS);
  Inode& inode = *TRY(known(node));
  if (inode.is_sealed) return os_fail(EACCES);
  const int fd = TRY(inodes_.descriptor(inode));
  const std::string path = HostFiles::proc_path(fd);
  if (change.mode) {
    if (S_ISLNK(inode.type)) return os_fail(EOPNOTSUPP);
    const uint32_t set_id = inode.is_folder() ? 0 : S_ISUID | S_ISGID;
    if (::chmod(path.c_str(), *change.mode & 07777 & ~set_id) != 0) return os_fail();
  }
  if ((change.uid || change.gid) && ownership_.is_privileged()) {
    const uid_t uid = change.uid.value_or(static_cast<uid_t>(-1));
    const gid_t gid = change.gid.value_or(static_cast<gid_t>(-1));
    if (::fchownat(fd, "", uid, gid, AT_EMPTY_PATH) != 0 && !Ownership::is_tolerable(errno)) {
      return os_fail();
    }
  }
  if (change.size) {
    if (change.drops_set_id) {
      const FileStat now = TRY(HostFiles::stat_of(fd));
      constexpr uint32_t kSetId = S_ISUID | S_ISGID;
      if ((now.stx_mode & kSetId) != 0 &&
          ::chmod(path.c_str(), now.stx_mode & 07777 & ~kSetId) != 0) {
        return os_fail();
      }
    }
    TRY(resize(inode, number, *change.size));
  }
  if (change.access_time || change.change_time) {
    constexpr timespec kKeep{.tv_sec = 0, .tv_nsec = UTIME_OMIT};
    const std::array<timespec, 2> times{change.access_time.value_or(kKeep),
                                        change.change_time.value_or(kKeep)};
    if (::utimensat(AT_FDCWD, path.c_str(), times.data(), 0) != 0) return os_fail();
  }
  return HostFiles::stat_of(fd);
}

OsResult<> SharedFolder::access(uint64_t node, uint32_t mask) {
  Inode& inode = *TRY(known(node));
  if ((mask & ~uint32_t{R_OK | W_OK | X_OK}) != 0) return os_fail(EINVAL);
  if (config_.is_read_only && (mask & W_OK) != 0) return os_fail(EROFS);
  if (inode.is_sealed || S_ISLNK(inode.type)) return {};
  const int fd = TRY(inodes_.descriptor(inode));
  const std::string path = HostFiles::proc_path(fd);
  if (::faccessat(AT_FDCWD, path.c_str(), static_cast<int>(mask), AT_EACCESS) != 0) {
    return os_fail();
  }
  return {};
}

OsResult<struct statvfs> SharedFolder::stat_file_system(uint64_t node) {
  Inode& inode = *TRY(known(node));
  const int fd = TRY(inodes_.descriptor(inode.is_sealed ? inodes_.root() : inode));
  struct statvfs info {};
  if (::fstatvfs(fd, &info) != 0) return os_fail();
  return info;
}

// Extended attributes -----------------------------------------------------------------------------

// O_PATH descriptors give no access to them, and opening a file only for them may not be permitted.
OsResult<std::string> SharedFolder::attribute_path(uint64_t node) {
  Inode& inode = *TRY(known(node));
  if (inode.is_sealed || !has_attributes(inode)) return os_fail(EOPNOTSUPP);
  return HostFiles::proc_path(TRY(inodes_.descriptor(inode)));
}

OsResult<size_t> SharedFolder::get_attribute(uint64_t node, const std::string& name,
                                             std::span<std::byte> to) {
  if (!is_readable_attribute(name)) return os_fail(EOPNOTSUPP);
  const auto path = attribute_path(node);
  // There can be none; for the guest's kernel the answer is "none", not "never ask again".
  if (!path) return os_fail(path.error().value == EOPNOTSUPP ? ENODATA : path.error().value);
  const ssize_t got = ::getxattr(path->c_str(), name.c_str(), to.data(), to.size());
  if (got < 0) return os_fail();
  return static_cast<size_t>(got);
}

OsResult<std::string> SharedFolder::list_attributes(uint64_t node) {
  const auto path = attribute_path(node);
  if (!path) {
    if (path.error().value == EOPNOTSUPP) return std::string();
    return os_fail(path.error().value);
  }
  std::string all(kMaxAttributeBytes, '\0');
  const ssize_t got = ::listxattr(path->c_str(), all.data(), all.size());
  if (got < 0) return os_fail();
  std::string visible;
  const std::string_view names(all.data(), static_cast<size_t>(got));
  for (size_t at = 0; at < names.size();) {
    const std::string_view name = names.substr(at, names.find('\0', at) - at);
    if (is_readable_attribute(name)) visible.append(name).push_back('\0');
    at += name.size() + 1;
  }
  return visible;
}

OsResult<> SharedFolder::set_attribute(uint64_t node, const std::string& name,
                                       std::span<const std::byte> value, uint32_t flags) {
  if (config_.is_read_only) return os_fail(EROFS);
  if (!name.starts_with(kUserAttributes)) return os_fail(EOPNOTSUPP);
  const std::string path = TRY(attribute_path(node));
  if (::setxattr(path.c_str(), name.c_str(), value.data(), value.size(), static_cast<int>(flags)) !=
      0) {
    return os_fail();
  }
  return {};
}

OsResult<> SharedFolder::remove_attribute(uint64_t node, const std::string& name) {
  if (config_.is_read_only) return os_fail(EROFS);
  if (!name.starts_with(kUserAttributes)) return os_fail(EOPNOTSUPP);
  const std::string path = TRY(attribute_path(node));
  if (::removexattr(path.c_str(), name.c_str()) != 0) return os_fail();
  return {};
}

}  // namespace trapeze
