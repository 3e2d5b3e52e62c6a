#include "backend/fs/host_files.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <climits>

namespace trapeze {
namespace {

constexpr unsigned kStatMask = STATX_BASIC_STATS | STATX_BTIME;
constexpr int kPathFlags = O_PATH | O_NOFOLLOW | O_CLOEXEC;

// Known to hold files and nothing else (statfs(2), linux/magic.h). devtmpfs says that it is tmpfs:
// it holds device nodes, which are never opened.
struct KnownFileSystem {
  uint64_t magic;
  bool keeps_births;
};
constexpr KnownFileSystem kOrdinaryFileSystems[] = {
    {0xEF53, true},       // ext2, ext3, ext4
    {0x58465342, true},   // xfs
    {0x9123683E, true},   // btrfs
    {0x01021994, true},   // tmpfs
    {0x858458f6, true},   // ramfs
    {0x794c7630, false},  // overlayfs
    {0x2fc12fc1, false},  // zfs
    {0x6969, false},      // nfs
    {0xff534d42, false},  // cifs
    {0xfe534d42, false},  // smb2
    {0x517b, false},      // smb
    {0x65735546, false},  // fuse, virtiofs
    {0xf2f52010, true},   // f2fs
    {0xe0f5e1e2, false},  // erofs
    {0x73717368, false},  // squashfs
    {0x9660, false},      // iso9660
    {0x4d44, false},      // fat
    {0x2011bab0, false},  // exfat
    {0x5346544e, false},  // ntfs
    {0x7366746e, false},  // ntfs3
    {0x15013346, false},  // udf
    {0x3153464a, false},  // jfs
    {0x52654973, false},  // reiserfs
    {0xca451a4e, true},   // bcachefs
    {0x01021997, false},  // 9p
    {0x00c36400, false},  // ceph
    {0x0bd00bd0, false},  // lustre
    {0x01161970, false},  // gfs2
    {0x7461636f, false},  // ocfs2
    {0xf15f, false},      // ecryptfs
    {0x61756673, false},  // aufs
    {0x482b, false},      // hfs+
};

}  // namespace

uint64_t device_of(const FileStat& stat) {
  return (uint64_t{stat.stx_dev_major} << 32) | stat.stx_dev_minor;
}

FileId file_id(const FileStat& stat, FileSystemKind kind) {
  FileId id;
  id.dev = device_of(stat);
  id.ino = stat.stx_ino;
  if (kind.keeps_births && (stat.stx_mask & STATX_BTIME) != 0) {
    id.birth_ns =
        static_cast<uint64_t>(stat.stx_btime.tv_sec) * 1'000'000'000U + stat.stx_btime.tv_nsec;
  }
  return id;
}

Result<HostFiles> HostFiles::create() {
  Fd proc(::open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!proc.is_open()) return fail_errno("/proc/self/fd (is /proc mounted?)");
  return HostFiles(std::move(proc));
}

Result<Fd> HostFiles::open_root(const std::string& path) {
  Fd fd(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!fd.is_open()) return fail_errno("{}", path);
  if (::faccessat(fd.get(), ".", R_OK | X_OK, AT_EACCESS) != 0) return fail_errno("{}", path);
  if (!kind_of(fd.get()).is_ordinary) {
    return fail(
        "{}: is no ordinary file system (it shows the kernel's own state) and is not shared", path);
  }
  return fd;
}

bool HostFiles::is_entry_name(const std::string& name) {
  return !name.empty() && name.size() <= NAME_MAX && name != "." && name != ".." &&
         name.find('/') == std::string::npos && name.find('\0') == std::string::npos;
}

OsResult<FileStat> HostFiles::stat_at(int folder, const char* name) {
  FileStat stat;
  if (::statx(folder, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, kStatMask, &stat) != 0) {
    return os_fail();
  }
  return stat;
}

OsResult<FileStat> HostFiles::stat_of(int fd) {
  FileStat stat;
  if (::statx(fd, "", AT_EMPTY_PATH, kStatMask, &stat) != 0) return os_fail();
  return stat;
}

OsResult<Fd> HostFiles::open_path_at(int folder, const char* name) {
  Fd fd(::openat(folder, name, kPathFlags));
  if (!fd.is_open()) return os_fail();
  return fd;
}

OsResult<Fd> HostFiles::reopen(int path_fd, int flags) const {
  // Known by its device when it was looked up; but devices' numbers are used again, too.
  if (!kind_of(path_fd).is_ordinary) return os_fail(EACCES);
  char name[16];
  std::snprintf(name, sizeof(name), "%d", path_fd);
  // The link in /proc leads to the very file that path_fd is, whatever its name is by now.
  Fd fd(::openat(proc_.get(), name, (flags & ~O_NOFOLLOW) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd.is_open()) return os_fail();
  return fd;
}

FileSystemKind HostFiles::kind_of(int fd) {
  struct statfs info {};
  if (::fstatfs(fd, &info) != 0) return {};
  // Some magic numbers have the highest of 32 bits set, and f_type is signed.
  const auto type = static_cast<uint64_t>(info.f_type) & 0xffff'ffffU;
  for (const KnownFileSystem& known : kOrdinaryFileSystems) {
    if (known.magic == type) return {.is_ordinary = true, .keeps_births = known.keeps_births};
  }
  return {};
}

}  // namespace trapeze
