#include "backend/fs/host_files.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>

namespace trapeze {
namespace {

constexpr unsigned kStatMask = STATX_BASIC_STATS | STATX_BTIME;
constexpr int kPathFlags = O_PATH | O_NOFOLLOW | O_CLOEXEC;

// Known to hold files and nothing else (statfs(2), linux/magic.h). devtmpfs says that it is tmpfs:
// it holds device nodes, which are never opened.
constexpr std::array<uint64_t, 32> kOrdinaryFileSystems = {
    0xEF53,      // ext2, ext3, ext4
    0x58465342,  // xfs
    0x9123683E,  // btrfs
    0x01021994,  // tmpfs
    0x858458f6,  // ramfs
    0x794c7630,  // overlayfs
    0x2fc12fc1,  // zfs
    0x6969,      // nfs
    0xff534d42,  // cifs
    0xfe534d42,  // smb2
    0x517b,      // smb
    0x65735546,  // fuse, virtiofs
    0xf2f52010,  // f2fs
    0xe0f5e1e2,  // erofs
    0x73717368,  // squashfs
    0x9660,      // iso9660
    0x4d44,      // fat
    0x2011bab0,  // exfat
    0x5346544e,  // ntfs
    0x7366746e,  // ntfs3
    0x15013346,  // udf
    0x3153464a,  // jfs
    0x52654973,  // reiserfs
    0xca451a4e,  // bcachefs
    0x01021997,  // 9p
    0x00c36400,  // ceph
    0x0bd00bd0,  // lustre
    0x01161970,  // gfs2
    0x7461636f,  // ocfs2
    0xf15f,      // ecryptfs
    0x61756673,  // aufs
    0x482b,      // hfs+
};

}  // namespace

FileId file_id(const FileStat& stat) {
  FileId id;
  id.dev = (uint64_t{stat.stx_dev_major} << 32) | stat.stx_dev_minor;
  id.ino = stat.stx_ino;
  if ((stat.stx_mask & STATX_BTIME) != 0) {
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
  if (!holds_ordinary_files(fd.get())) {
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
  char name[16];
  std::snprintf(name, sizeof(name), "%d", path_fd);
  // The link in /proc leads to the very file that path_fd is, whatever its name is by now.
  Fd fd(::openat(proc_.get(), name, (flags & ~O_NOFOLLOW) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd.is_open()) return os_fail();
  return fd;
}

bool HostFiles::holds_ordinary_files(int fd) {
  struct statfs info {};
  if (::fstatfs(fd, &info) != 0) return false;
  // Some magic numbers have the highest of 32 bits set, and f_type is signed.
  const auto type = static_cast<uint64_t>(info.f_type) & 0xffff'ffffU;
  return std::find(kOrdinaryFileSystems.begin(), kOrdinaryFileSystems.end(), type) !=
         kOrdinaryFileSystems.end();
}

}  // namespace trapeze
