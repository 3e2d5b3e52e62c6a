#include "vm/manage/run_directory.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <memory>

namespace trapeze::manage {
namespace {

constexpr const char* kLockFile = "lock";
constexpr const char* kInfoFile = "vm.json";
constexpr const char* kNewInfoFile = "vm.json.new";
constexpr const char* kLogFile = "log";
constexpr std::array kFiles{kInfoFile, kNewInfoFile, kControlFile, kAgentFile, kLogFile};
constexpr size_t kMaxInfoBytes = 4 << 20;
constexpr int kFolderFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;

// Another user could put files of its own there, or links to files of ours.
Result<void> check_folder(int folder, const std::string& path) {
  struct stat info {};
  if (::fstat(folder, &info) != 0) return fail_errno("{}", path);
  if (info.st_uid != ::geteuid())
    return fail("{}: belongs to another user (id {})", path, info.st_uid);
  if ((info.st_mode & 077) != 0) {
    return fail("{}: others may use it (mode {:o}); it must have mode 700", path,
                info.st_mode & 07777);
  }
  return {};
}

Fd share(const Fd& fd) { return Fd(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0)); }

bool is_folder_of_ours(const std::string& path) {
  struct stat info {};
  return ::lstat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode) && info.st_uid == ::geteuid();
}

std::string default_path() {
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  // The specification wants an absolute path.
  if (runtime != nullptr && runtime[0] == '/') return std::string(runtime) + "/trapeze";
  const std::string user = std::to_string(::geteuid());
  const std::string run = "/run/user/" + user;
  return is_folder_of_ours(run) ? run + "/trapeze" : "/tmp/trapeze-" + user;
}

// The entry's folder still is what stands there under that name: nobody has removed it meanwhile.
bool is_in_place(int parent, const std::string& name, int folder, int lock) {
  struct stat there {
  }, ours{}, lock_there{}, lock_ours{};
  return ::fstatat(parent, name.c_str(), &there, AT_SYMLINK_NOFOLLOW) == 0 &&
         ::fstat(folder, &ours) == 0 && there.st_ino == ours.st_ino &&
         there.st_dev == ours.st_dev &&
         ::fstatat(folder, kLockFile, &lock_there, AT_SYMLINK_NOFOLLOW) == 0 &&
         ::fstat(lock, &lock_ours) == 0 && lock_there.st_ino == lock_ours.st_ino;
}

void remove_files(int folder) {
  for (const char* file : kFiles) ::unlinkat(folder, file, 0);
}

// Whoever removes an entry holds its lock, so nobody else takes it for theirs.
void remove_entry(int parent, const std::string& name, int folder) {
  remove_files(folder);
  ::unlinkat(folder, kLockFile, 0);
  ::unlinkat(parent, name.c_str(), AT_REMOVEDIR);
}

std::string read_all(int fd) {
  std::string text;
  char part[4096];
  ssize_t got = 0;
  while (text.size() < kMaxInfoBytes && (got = ::read(fd, part, sizeof(part))) > 0) {
    text.append(part, static_cast<size_t>(got));
  }
  return text;
}

std::string path_in(const Fd& folder, const char* file) {
  return "/proc/self/fd/" + std::to_string(folder.get()) + "/" + file;
}

bool is_name(std::string_view name) {
  const auto is_alphanumeric = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  return !name.empty() && name.size() <= kMaxNameBytes && is_alphanumeric(name.front()) &&
         std::all_of(name.begin(), name.end(), [&](char c) {
           return is_alphanumeric(c) || c == '.' || c == '_' || c == '-';
         });
}

}  // namespace

Result<void> check_name(const std::string& name) {
  if (is_name(name)) return {};
  return fail(
      "{}: not a name for a machine: up to {} letters, digits, '.', '_' and '-', beginning "
      "with a letter or digit",
      name.empty() ? "\"\"" : name, kMaxNameBytes);
}

// RunEntry ----------------------------------------------------------------------------------------

std::string RunEntry::path_of(const char* file) const { return path_in(folder_, file); }

Result<void> RunEntry::publish(const VmInfo& info) const {
  const std::string text = to_json(info);
  const Fd file(::openat(folder_.get(), kNewInfoFile,
                         O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file.is_open()) return fail_errno("--name {}", name_);
  if (::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
      ::renameat(folder_.get(), kNewInfoFile, folder_.get(), kInfoFile) != 0) {
    return fail_errno("--name {}", name_);
  }
  return {};
}

Result<Fd> RunEntry::open_log() const {
  Fd file(::openat(folder_.get(), kLogFile, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC,
                   0600));
  if (!file.is_open()) return fail_errno("--name {}", name_);
  return file;
}

void RunEntry::remove() {
  if (!lock_.is_open()) return;
  remove_entry(parent_.get(), name_, folder_.get());
  lock_.reset();
}

// RunningVm ---------------------------------------------------------------------------------------

std::string RunningVm::path_of(const char* file) const { return path_in(folder, file); }

bool RunningVm::is_gone() const {
  const Fd lock(::openat(folder.get(), kLockFile, O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!lock.is_open()) return true;
  return ::flock(lock.get(), LOCK_SH | LOCK_NB) == 0;
}

// RunDirectory ------------------------------------------------------------------------------------

Result<RunDirectory> RunDirectory::open() { return open_at(default_path()); }

Result<RunDirectory> RunDirectory::open_at(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    return fail_errno("cannot make the folder for running machines, {}", path);
  }
  Fd folder(::open(path.c_str(), kFolderFlags));
  if (!folder.is_open()) {
    if (errno == ELOOP || errno == ENOTDIR) return fail("{}: is no folder", path);
    return fail_errno("{}", path);
  }
  TRY(check_folder(folder.get(), path));
  return RunDirectory(path, std::move(folder));
}

Result<RunEntry> RunDirectory::claim(const std::string& name) const {
  TRY(check_name(name));
  constexpr int kTries = 100;
  constexpr int kPatientTries = 5;
  for (int i = 0; i < kTries; ++i) {
    if (::mkdirat(folder_.get(), name.c_str(), 0700) != 0 && errno != EEXIST) {
      return fail_errno("--name {}: {}/{}", name, path_, name);
    }
    Fd folder(::openat(folder_.get(), name.c_str(), kFolderFlags));
    if (!folder.is_open()) {
      if (errno == ENOENT) continue;  // just removed by its owner
      return fail_errno("--name {}: {}/{}", name, path_, name);
    }
    TRY(check_folder(folder.get(), path_ + "/" + name));
    Fd lock(::openat(folder.get(), kLockFile, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!lock.is_open()) {
      if (errno == ENOENT) continue;
      return fail_errno("--name {}: {}/{}/{}", name, path_, name, kLockFile);
    }
    if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
      // Whoever lists entries locks a stale one for the moment in which it removes it.
      if (i < kPatientTries) {
        ::usleep(2000);
        continue;
      }
      const auto other = look_at(name);
      const std::string owner =
          other && other->info ? fmt::format(" (process {})", other->info->pid) : std::string();
      return fail(
          "--name {}: a machine of that name is running{}; choose another name, or end it with: "
          "trapeze stop {}",
          name, owner, name);
    }
    if (!is_in_place(folder_.get(), name, folder.get(), lock.get())) continue;
    remove_files(folder.get());  // of a process that was killed
    return RunEntry(name, share(folder_), std::move(folder), std::move(lock));
  }
  return fail("--name {}: {}/{} changes all the time", name, path_, name);
}

std::optional<RunningVm> RunDirectory::look_at(const std::string& name) const {
  Fd folder(::openat(folder_.get(), name.c_str(), kFolderFlags));
  if (!folder.is_open() || !check_folder(folder.get(), name)) return std::nullopt;
  const Fd lock(::openat(folder.get(), kLockFile, O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!lock.is_open()) {
    ::unlinkat(folder_.get(), name.c_str(), AT_REMOVEDIR);  // if it is empty
    return std::nullopt;
  }
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) == 0) {
    if (is_in_place(folder_.get(), name, folder.get(), lock.get())) {
      remove_entry(folder_.get(), name, folder.get());
    }
    return std::nullopt;
  }
  RunningVm vm{.name = name, .folder = std::move(folder), .info = {}};
  const Fd file(::openat(vm.folder.get(), kInfoFile, O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (file.is_open()) vm.info = parse_info(read_all(file.get()));
  return vm;
}

Result<RunningVm> RunDirectory::find(const std::string& name) const {
  TRY(check_name(name));
  auto vm = look_at(name);
  if (!vm) return fail("no machine {} is running (see: trapeze ls)", name);
  return std::move(*vm);
}

Result<std::vector<RunningVm>> RunDirectory::list() const {
  std::vector<std::string> names;
  // A description of its own, because reading moves its position; `dir` owns it.
  const int again = ::openat(folder_.get(), ".", kFolderFlags);
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(again < 0 ? nullptr : ::fdopendir(again),
                                                ::closedir);
  if (dir == nullptr) return fail_errno("{}", path_);
  while (const dirent* entry = ::readdir(dir.get())) {
    if (is_name(entry->d_name)) names.emplace_back(entry->d_name);
  }
  std::sort(names.begin(), names.end());
  std::vector<RunningVm> running;
  for (const auto& name : names) {
    if (auto vm = look_at(name)) running.push_back(std::move(*vm));
  }
  return running;
}

}  // namespace trapeze::manage
