#include "backend/fs/shared_folder.h"

#include <fcntl.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "backend/fs/open_flags.h"

namespace trapeze {
namespace {

constexpr unsigned kDeviceShift = 48;
constexpr uint64_t kMaxDeviceNumber = 0xffff;

// Without changing it, as umask(2) would have to.
uint32_t process_umask() {
  unsigned value = 0777;  // the careful answer: then modes are set explicitly
  std::FILE* status = std::fopen("/proc/self/status", "re");
  if (status == nullptr) return value;
  char line[256];
  while (std::fgets(line, sizeof(line), status) != nullptr) {
    if (std::sscanf(line, "Umask: %o", &value) == 1) break;
  }
  std::fclose(status);
  return value;
}

}  // namespace

Result<std::unique_ptr<SharedFolder>> SharedFolder::create(const FolderConfig& config) {
  auto host = TRY(HostFiles::create());
  auto root = TRY(HostFiles::open_root(config.path));
  const auto stat = HostFiles::stat_of(root.get());
  if (!stat) return fail("{}: {}", config.path, errno_text(stat.error().value));
  return std::unique_ptr<SharedFolder>(
      new SharedFolder(config, std::move(host), std::move(root), *stat, process_umask()));
}

SharedFolder::SharedFolder(const FolderConfig& config, HostFiles host, Fd root,
                           const FileStat& stat, uint32_t umask)
    : config_(config),
      host_(std::move(host)),
      ownership_(Ownership::of_process()),
      umask_(umask),
      inodes_(std::move(root), stat, config.limits.inodes) {
  device_numbers_[device_of(stat)] = 0;
}

SharedFolder::~SharedFolder() = default;

uint64_t SharedFolder::guest_ino(uint64_t dev, uint64_t ino) {
  const auto known = device_numbers_.find(dev);
  uint64_t number = kMaxDeviceNumber;
  if (known != device_numbers_.end()) {
    number = known->second;
  } else if (device_numbers_.size() < kMaxDeviceNumber) {
    number = device_numbers_.size();
    device_numbers_[dev] = number;
  }
  return ino ^ (number << kDeviceShift);
}

OsResult<Inode*> SharedFolder::known(uint64_t node) {
  Inode* const inode = inodes_.find(node);
  if (inode == nullptr) return os_fail(ESTALE);
  return inode;
}

OsResult<int> SharedFolder::folder_of(uint64_t node) {
  Inode* const inode = TRY(known(node));
  if (!inode->is_folder()) return os_fail(ENOTDIR);
  if (inode->is_sealed) return os_fail(ENOENT);
  return inodes_.descriptor(*inode);
}

OsResult<int> SharedFolder::writable_folder(uint64_t node, const std::string& name) {
  if (config_.is_read_only) return os_fail(EROFS);
  if (!HostFiles::is_entry_name(name)) return os_fail(EINVAL);
  const auto folder = folder_of(node);
  // A sealed folder is as empty as it looks, and takes nothing.
  if (!folder && folder.error().value == ENOENT) return os_fail(EACCES);
  return folder;
}

void SharedFolder::reset() {
  handles_.clear();
  inodes_.clear();
  listing_handle_ = 0;
  listing_at_ = listing_end_ = 0;
}

// Snapshots ---------------------------------------------------------------------------------------

FolderState SharedFolder::save() const {
  FolderState state;
  for (const Inode* inode : inodes_.all()) {
    if (inode->parent == nullptr || inode->has_no_name) continue;
    state.nodes.push_back({.node = inode->node,
                           .parent = inode->parent->node,
                           .name = inode->name,
                           .id = inode->id,
                           .type = inode->type,
                           .lookups = inode->lookups});
  }
  // A folder may have been seen after what is in it now, so numbers say nothing: by depth.
  const auto depth = [this](uint64_t node) {
    size_t steps = 0;
    for (const Inode* at = const_cast<InodeTable&>(inodes_).find(node); at != nullptr;
         at = at->parent) {
      ++steps;
    }
    return steps;
  };
  std::vector<std::pair<size_t, FolderState::Node>> ordered;
  for (auto& node : state.nodes) ordered.emplace_back(depth(node.node), std::move(node));
  std::sort(ordered.begin(), ordered.end(), [](const auto& a, const auto& b) {
    return std::pair(a.first, a.second.node) < std::pair(b.first, b.second.node);
  });
  state.nodes.clear();
  for (auto& [steps, node] : ordered) state.nodes.push_back(std::move(node));
  for (const auto& [number, open] : handles_) {
    state.handles.push_back({.handle = number,
                             .node = open.inode->node,
                             .flags = open.flags,
                             .is_folder = open.is_folder});
  }
  std::sort(state.handles.begin(), state.handles.end(),
            [](const auto& a, const auto& b) { return a.handle < b.handle; });
  state.next_handle = next_handle_;
  return state;
}

// What is no longer there is left out: the guest gets ESTALE for it.
void SharedFolder::restore(const FolderState& state) {
  reset();
  for (const auto& node : state.nodes) {
    inodes_.restore(node.node, node.parent, node.name, node.id, node.type, node.lookups);
  }
  for (const auto& saved : state.handles) {
    Inode* const inode = inodes_.find(saved.node);
    if (inode == nullptr || handles_.size() >= config_.limits.handles) continue;
    if (config_.is_read_only && is_for_writing(saved.flags)) continue;
    Fd fd;
    if (!(saved.is_folder && inode->is_sealed)) {
      const auto path = inodes_.descriptor(*inode);
      if (!path) continue;
      auto opened =
          host_.reopen(*path, saved.is_folder ? O_RDONLY | O_DIRECTORY
                                              : host_flags(without_truncation(saved.flags)));
      if (!opened) continue;
      fd = std::move(*opened);
    }
    inodes_.opened(*inode);
    handles_.emplace(saved.handle, Handle{std::move(fd), inode, saved.flags, saved.is_folder});
    next_handle_ = std::max(next_handle_, saved.handle + 1);
  }
  next_handle_ = std::max(next_handle_, state.next_handle);
  trim();
}

}  // namespace trapeze
