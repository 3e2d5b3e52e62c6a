// HostFiles: the system calls through which a shared folder reaches the host's files. Each takes an
// open folder and one name in it, never a path, and never follows a symbolic link; so nothing
// outside the folder can be named. O_PATH descriptors are opened for use through /proc/self/fd,
// after their type is known: a device or a pipe is never opened.
//
// Threads: any; it holds nothing but a descriptor of /proc/self/fd.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <string>

#include "backend/fs/os_result.h"
#include "base/fd.h"

namespace trapeze {

// What makes a file that file. Inode numbers are used again when a file is gone; the time of birth,
// where the file system keeps one (FileSystemKind), tells the two apart, and is 0 elsewhere.
struct FileId {
  uint64_t dev = 0;
  uint64_t ino = 0;
  uint64_t birth_ns = 0;
  bool operator==(const FileId&) const = default;
};

using FileStat = struct statx;

uint64_t device_of(const FileStat& stat);

struct FileSystemKind {
  // False for file systems that are windows into the kernel (procfs, sysfs, cgroups and what else
  // is not known to hold ordinary files): /proc/PID/mem is a "regular file".
  bool is_ordinary = false;
  // A file is born once. Not so with overlayfs, where it is born again when it is first written to.
  bool keeps_births = false;
};

FileId file_id(const FileStat& stat, FileSystemKind kind);

class HostFiles {
 public:
  static Result<HostFiles> create();

  // An open folder that the administrator named.
  static Result<Fd> open_root(const std::string& path);
  // Whether `name` can only be an entry of a folder: no slash, not "." or "..", not too long.
  static bool is_entry_name(const std::string& name);

  static OsResult<FileStat> stat_at(int folder, const char* name);
  static OsResult<FileStat> stat_of(int fd);
  static OsResult<Fd> open_path_at(int folder, const char* name);

  // `path_fd` for reading or writing; it must be a regular file or a folder. EACCES where it is on
  // no ordinary file system.
  OsResult<Fd> reopen(int path_fd, int flags) const;
  // "/proc/self/fd/N", for calls that take nothing but a path.
  static std::string proc_path(int fd) { return "/proc/self/fd/" + std::to_string(fd); }
  int proc_fd() const { return proc_.get(); }

  static FileSystemKind kind_of(int fd);

 private:
  explicit HostFiles(Fd proc) : proc_(std::move(proc)) {}
  Fd proc_;
};

}  // namespace trapeze
