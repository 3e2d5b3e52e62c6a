// RunDirectory: where the running machines of a user are found by name. Each has a folder there,
// which belongs to whoever holds the lock on the file "lock" in it; the lock goes away with its
// process, however that ends, so an entry without one is stale and is removed by whoever meets it.
//
//   $XDG_RUNTIME_DIR/trapeze, else /run/user/UID/trapeze, else /tmp/trapeze-UID   (mode 0700)
//     NAME/lock      locked (flock) by the machine's process
//     NAME/vm.json   VmInfo, once the machine is built
//     NAME/control   the socket that takes orders (protocol.h)
//     NAME/agent     the vsock socket for further sessions
//     NAME/log       messages of a detached machine's process
//
// Folders are opened without following symbolic links, must belong to the user and nobody else may
// write there; files are reached through the opened folder only.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "vm/manage/vm_info.h"

namespace trapeze::manage {

inline constexpr const char* kControlFile = "control";
inline constexpr const char* kAgentFile = "agent";
inline constexpr size_t kMaxNameBytes = 64;

// Letters, digits, '.', '_' and '-', the first of them a letter or digit.
Result<void> check_name(const std::string& name);

// The own machine's entry. Removed at destruction.
class RunEntry {
 public:
  RunEntry(RunEntry&&) = default;
  RunEntry& operator=(RunEntry&&) = default;
  ~RunEntry() { remove(); }

  const std::string& name() const { return name_; }
  // Works as long as this exists, however long the real path is (unix(7) allows 107 bytes).
  std::string path_of(const char* file) const;
  // Appears in one step.
  Result<void> publish(const VmInfo& info) const;
  Result<Fd> open_log() const;
  // The name is free from now on.
  void remove();

 private:
  friend class RunDirectory;
  RunEntry(std::string name, Fd parent, Fd folder, Fd lock)
      : name_(std::move(name)),
        parent_(std::move(parent)),
        folder_(std::move(folder)),
        lock_(std::move(lock)) {}

  std::string name_;
  Fd parent_;
  Fd folder_;
  Fd lock_;
};

// Another process's machine.
struct RunningVm {
  std::string name;
  Fd folder;
  std::optional<VmInfo> info;  // nothing: it is being built
  std::string path_of(const char* file) const;
  // The process has ended and the name is free.
  bool is_gone() const;
};

class RunDirectory {
 public:
  // Makes it if need be.
  static Result<RunDirectory> open();
  static Result<RunDirectory> open_at(const std::string& path);

  const std::string& path() const { return path_; }
  Result<RunEntry> claim(const std::string& name) const;
  Result<RunningVm> find(const std::string& name) const;
  // All, by name; stale ones are removed.
  Result<std::vector<RunningVm>> list() const;

 private:
  RunDirectory(std::string path, Fd folder) : path_(std::move(path)), folder_(std::move(folder)) {}
  std::optional<RunningVm> look_at(const std::string& name) const;

  std::string path_;
  Fd folder_;
};

}  // namespace trapeze::manage
