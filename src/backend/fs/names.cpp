// SharedFolder: names of files.
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <unistd.h>

#include <array>

#include "backend/fs/shared_folder.h"

namespace trapeze {
namespace {

constexpr uint32_t kPermissions = 07777;
constexpr uint32_t kSetId = S_ISUID | S_ISGID;

uint32_t allowed_mode(uint32_t mode, uint32_t type) {
  mode &= kPermissions;
  return S_ISDIR(type) ? mode : mode & ~kSetId;
}

}  // namespace

OsResult<FolderEntry> SharedFolder::enter(Inode& parent, int folder, const std::string& name) {
  FolderEntry entry;
  entry.stat = TRY(HostFiles::stat_at(folder, name.c_str()));
  Inode* const inode = TRY(inodes_.enter(parent, name, entry.stat));
  inodes_.add_lookup(*inode);
  entry.node = inode->node;
  return entry;
}

OsResult<FolderEntry> SharedFolder::lookup(uint64_t parent, const std::string& name) {
  if (!HostFiles::is_entry_name(name))
    return os_fail(name.size() > NAME_MAX ? ENAMETOOLONG : EINVAL);
  const int folder = TRY(folder_of(parent));
  return enter(*TRY(known(parent)), folder, name);
}

void SharedFolder::forget(uint64_t node, uint64_t lookups) {
  if (Inode* const inode = inodes_.find(node)) inodes_.forget(*inode, lookups);
}

OsResult<std::string> SharedFolder::read_link(uint64_t node) {
  Inode* const inode = TRY(known(node));
  if (!S_ISLNK(inode->type)) return os_fail(EINVAL);
  if (inode->is_sealed) return os_fail(EACCES);
  const int fd = TRY(inodes_.descriptor(*inode));
  std::string target(PATH_MAX, '\0');
  const ssize_t got = ::readlinkat(fd, "", target.data(), target.size());
  if (got < 0) return os_fail();
  target.resize(static_cast<size_t>(got));
  return target;
}

// Making ------------------------------------------------------------------------------------------

// Gives a file that was just made the owner and the mode that the guest asked for. Regular files
// come with their descriptor: their name could by now be another's.
OsResult<> SharedFolder::own(int folder, int fd, const char* name, const NewFile& file,
                             uint32_t type) {
  const Owner& owner = file.owner;
  if (ownership_.is_privileged() && (owner.uid != 0 || owner.gid != 0)) {
    const FileStat parent = TRY(HostFiles::stat_of(folder));
    // There the group is inherited (inode_init_owner in the kernel).
    const bool inherits = (parent.stx_mode & S_ISGID) != 0;
    const gid_t gid = inherits ? static_cast<gid_t>(-1) : owner.gid;
    const int done = fd >= 0 ? ::fchown(fd, owner.uid, gid)
                             : ::fchownat(folder, name, owner.uid, gid, AT_SYMLINK_NOFOLLOW);
    if (done != 0 && !Ownership::is_tolerable(errno)) return os_fail();
  }
  const uint32_t mode = allowed_mode(file.mode, type);
  if ((mode & (umask_ | S_ISVTX | kSetId)) == 0 || S_ISLNK(type)) return {};
  if (fd >= 0) return ::fchmod(fd, mode) == 0 ? OsResult<>() : os_fail();
  const Fd made = TRY(HostFiles::open_path_at(folder, name));
  const FileStat stat = TRY(HostFiles::stat_of(made.get()));
  if ((stat.stx_mode & S_IFMT) != type) return os_fail(ESTALE);
  // A folder below one with the set-group-ID bit has got it; chmod would take it away.
  const uint32_t kept = S_ISDIR(type) ? stat.stx_mode & S_ISGID : 0;
  if (::chmod(HostFiles::proc_path(made.get()).c_str(), mode | kept) != 0) return os_fail();
  return {};
}

OsResult<FolderEntry> SharedFolder::finish_new(uint64_t parent, int folder, const std::string& name,
                                               const NewFile& file, uint32_t type) {
  const auto owned = own(folder, -1, name.c_str(), file, type);
  auto entry = owned ? enter(*TRY(known(parent)), folder, name)
                     : OsResult<FolderEntry>(os_fail(owned.error().value));
  if (!entry) ::unlinkat(folder, name.c_str(), S_ISDIR(type) ? AT_REMOVEDIR : 0);
  return entry;
}

OsResult<Fd> SharedFolder::create_file(int folder, Inode& /*parent*/, const std::string& name,
                                       uint32_t flags, const NewFile& file) {
  constexpr int kNew = O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY;
  const uint32_t mode = allowed_mode(file.mode, S_IFREG);
  Fd fd(::openat(folder, name.c_str(), static_cast<int>(flags) | kNew, mode));
  if (!fd.is_open()) return os_fail();
  if (const auto owned = own(folder, fd.get(), name.c_str(), file, S_IFREG); !owned) {
    ::unlinkat(folder, name.c_str(), 0);
    return os_fail(owned.error().value);
  }
  return fd;
}

OsResult<FolderEntry> SharedFolder::make_node(uint64_t parent, const std::string& name,
                                              uint32_t type, const NewFile& file) {
  const int folder = TRY(writable_folder(parent, name));
  Inode& parent_inode = *TRY(known(parent));
  if (S_ISREG(type)) {
    const Fd made = TRY(create_file(folder, parent_inode, name, O_WRONLY, file));
    return enter(parent_inode, folder, name);
  }
  if (!S_ISFIFO(type) && !S_ISSOCK(type)) return os_fail(EPERM);
  const mode_t mode = type | allowed_mode(file.mode, type);
  if (::mknodat(folder, name.c_str(), mode, 0) != 0) return os_fail();
  return finish_new(parent, folder, name, file, type);
}

OsResult<FolderEntry> SharedFolder::make_folder(uint64_t parent, const std::string& name,
                                                const NewFile& file) {
  const int folder = TRY(writable_folder(parent, name));
  if (::mkdirat(folder, name.c_str(), allowed_mode(file.mode, S_IFDIR)) != 0) return os_fail();
  return finish_new(parent, folder, name, file, S_IFDIR);
}

OsResult<FolderEntry> SharedFolder::make_symlink(uint64_t parent, const std::string& name,
                                                 const std::string& target, const NewFile& file) {
  const int folder = TRY(writable_folder(parent, name));
  if (::symlinkat(target.c_str(), folder, name.c_str()) != 0) return os_fail();
  return finish_new(parent, folder, name, file, S_IFLNK);
}

OsResult<FolderEntry> SharedFolder::link(uint64_t node, uint64_t parent, const std::string& name) {
  Inode* const inode = TRY(known(node));
  if (inode->is_sealed) return os_fail(EXDEV);
  if (inode->is_folder()) return os_fail(EPERM);
  const int folder = TRY(writable_folder(parent, name));
  const int fd = TRY(inodes_.descriptor(*inode));
  const std::string from = HostFiles::proc_path(fd);
  if (::linkat(AT_FDCWD, from.c_str(), folder, name.c_str(), AT_SYMLINK_FOLLOW) != 0) {
    return os_fail();
  }
  return enter(*TRY(known(parent)), folder, name);
}

// Unmaking ----------------------------------------------------------------------------------------

// The name is about to go: if the guest knows the file by it, it may have it open.
OsResult<> SharedFolder::prepare_loss(Inode& parent, const std::string& name, int folder) {
  const FileStat stat = TRY(HostFiles::stat_at(folder, name.c_str()));
  Inode* const inode = inodes_.find(inodes_.identify(stat));
  if (inode == nullptr || inode->parent != &parent || inode->name != name) return {};
  return inodes_.keep_nameless(*inode);
}

OsResult<> SharedFolder::unlink(uint64_t parent, const std::string& name, bool is_folder) {
  const int folder = TRY(writable_folder(parent, name));
  Inode& parent_inode = *TRY(known(parent));
  TRY(prepare_loss(parent_inode, name, folder));
  if (::unlinkat(folder, name.c_str(), is_folder ? AT_REMOVEDIR : 0) == 0) return {};
  const int os_error = errno;
  // It still has its name.
  if (const auto stat = HostFiles::stat_at(folder, name.c_str())) {
    if (Inode* const inode = inodes_.find(inodes_.identify(*stat)))
      inodes_.moved(*inode, parent_inode, name);
  }
  return os_fail(os_error);
}

OsResult<> SharedFolder::rename(uint64_t parent, const std::string& name, uint64_t new_parent,
                                const std::string& new_name, uint32_t flags) {
  constexpr uint32_t kKnownFlags = RENAME_NOREPLACE | RENAME_EXCHANGE;
  if ((flags & ~kKnownFlags) != 0) return os_fail(EINVAL);
  const int from = TRY(writable_folder(parent, name));
  const int to = TRY(writable_folder(new_parent, new_name));
  Inode& from_inode = *TRY(known(parent));
  Inode& to_inode = *TRY(known(new_parent));
  const FileStat stat = TRY(HostFiles::stat_at(from, name.c_str()));
  const auto other = HostFiles::stat_at(to, new_name.c_str());
  const bool is_exchange = (flags & RENAME_EXCHANGE) != 0;
  const bool replaces =
      other.has_value() && flags == 0 && !(inodes_.identify(*other) == inodes_.identify(stat));
  if (replaces) TRY(prepare_loss(to_inode, new_name, to));
  if (::renameat2(from, name.c_str(), to, new_name.c_str(), flags) != 0) {
    const int os_error = errno;
    if (replaces) {
      Inode* const kept = inodes_.find(inodes_.identify(*other));
      if (kept != nullptr) inodes_.moved(*kept, to_inode, new_name);
    }
    return os_fail(os_error);
  }
  // Two names of one file: nothing was renamed.
  if (other && inodes_.identify(*other) == inodes_.identify(stat)) return {};
  if (Inode* const moved = inodes_.find(inodes_.identify(stat)))
    inodes_.moved(*moved, to_inode, new_name);
  if (is_exchange && other) {
    if (Inode* const moved = inodes_.find(inodes_.identify(*other))) {
      inodes_.moved(*moved, from_inode, name);
    }
  }
  return {};
}

}  // namespace trapeze
