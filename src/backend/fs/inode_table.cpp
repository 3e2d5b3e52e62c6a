#include "backend/fs/inode_table.h"

#include <fcntl.h>

#include "base/check.h"

namespace trapeze {
namespace {

// Far more mounts than a host has; so that the cache of their kinds stays small.
constexpr size_t kMaxKnownDevices = 4096;

bool is_place(const Inode& inode, const Inode& parent, const std::string& name) {
  return inode.parent == &parent && inode.name == name;
}

}  // namespace

InodeTable::InodeTable(Fd root, const FileStat& stat, const InodeLimits& limits) : limits_(limits) {
  auto inode = std::make_unique<Inode>();
  inode->node = kRoot;
  kinds_[device_of(stat)] = HostFiles::kind_of(root.get());
  inode->id = identify(stat);
  inode->type = stat.stx_mode & S_IFMT;
  inode->lookups = 1;
  inode->path = std::move(root);
  root_ = inode.get();
  by_id_[root_->id] = root_;
  by_node_[kRoot] = std::move(inode);
}

InodeTable::~InodeTable() = default;

Inode* InodeTable::find(uint64_t node) {
  const auto found = by_node_.find(node);
  return found == by_node_.end() ? nullptr : found->second.get();
}

Inode* InodeTable::find(const FileId& id) {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : found->second;
}

OsResult<Inode*> InodeTable::enter(Inode& parent, const std::string& name, const FileStat& stat) {
  const FileSystemKind kind = kind_of(parent, name, device_of(stat));
  const FileId id = file_id(stat, kind);
  const uint32_t type = stat.stx_mode & S_IFMT;
  if (Inode* known = find(id)) {
    if (known->type == type) {
      if (!is_place(*known, parent, name)) moved(*known, parent, name);
      return known;
    }
    by_id_.erase(id);  // the number was used again: the old file can only be stale
  }
  if (by_node_.size() >= limits_.inodes) return os_fail(ENFILE);
  auto inode = std::make_unique<Inode>();
  inode->node = next_node_++;
  inode->id = id;
  inode->type = type;
  inode->name = name;
  inode->is_sealed = !kind.is_ordinary;
  Inode* raw = inode.get();
  set_parent(*raw, parent);
  by_id_[id] = raw;
  by_node_[raw->node] = std::move(inode);
  return raw;
}

FileId InodeTable::identify(const FileStat& stat) const {
  const auto known = kinds_.find(device_of(stat));
  return file_id(stat, known == kinds_.end() ? FileSystemKind{} : known->second);
}

// What cannot be found out is not entered.
FileSystemKind InodeTable::kind_of(Inode& parent, const std::string& name, uint64_t dev) {
  if (const auto known = kinds_.find(dev); known != kinds_.end()) return known->second;
  const auto folder = descriptor(parent);
  if (!folder) return {};
  const auto fd = HostFiles::open_path_at(*folder, name.c_str());
  if (!fd) return {};
  FileSystemKind kind = HostFiles::kind_of(fd->get());
  const auto now = HostFiles::stat_of(fd->get());
  if (!now || device_of(*now) != dev) return {};  // something else was mounted just now
  if (kinds_.size() >= kMaxKnownDevices) {
    kind.keeps_births = false;  // identify() will not know it
  } else {
    kinds_[dev] = kind;
  }
  return kind;
}

void InodeTable::set_parent(Inode& inode, Inode& parent) {
  Inode* const old = inode.parent;
  ++parent.children;
  inode.parent = &parent;
  if (old == nullptr) return;
  --old->children;
  free_if_unknown(old);
}

bool InodeTable::is_same_or_below(const Inode& inode, const Inode& ancestor) const {
  for (const Inode* at = &inode; at != nullptr; at = at->parent) {
    if (at == &ancestor) return true;
  }
  return false;
}

void InodeTable::moved(Inode& inode, Inode& parent, const std::string& name) {
  if (&inode == root_) return;
  // Somebody on the host moved folders about, and one that we have not seen since is now below
  // another that was below it: a ring of parents must not come of it.
  if (inode.is_folder() && is_same_or_below(parent, inode)) return;
  inode.name = name;
  if (inode.has_no_name) {
    inode.has_no_name = false;
    --nameless_;
    if (!inode.keeps_descriptor() && inode.path.is_open()) touch(inode);
  }
  if (inode.parent != &parent) set_parent(inode, parent);
}

OsResult<void> InodeTable::keep_nameless(Inode& inode) {
  if (inode.has_no_name || &inode == root_) return {};
  if (nameless_ >= limits_.nameless) return os_fail(ENFILE);
  TRY(descriptor(inode));
  inode.has_no_name = true;
  ++nameless_;
  drop_from_use_list(inode);
  return {};
}

void InodeTable::opened(Inode& inode) {
  ++inode.opens;
  drop_from_use_list(inode);
}

void InodeTable::closed(Inode& inode) {
  CHECK(inode.opens > 0);
  --inode.opens;
  if (!inode.keeps_descriptor() && inode.path.is_open()) touch(inode);
  free_if_unknown(&inode);
}

void InodeTable::forget(Inode& inode, uint64_t lookups) {
  if (&inode == root_) return;
  inode.lookups -= std::min(lookups, inode.lookups);
  free_if_unknown(&inode);
}

// Upwards as far as nobody needs them.
void InodeTable::free_if_unknown(Inode* inode) {
  while (inode != nullptr && inode != root_ && inode->lookups == 0 && inode->children == 0 &&
         inode->opens == 0) {
    Inode* const parent = inode->parent;
    drop_from_use_list(*inode);
    if (inode->has_no_name) --nameless_;
    if (const auto known = by_id_.find(inode->id);
        known != by_id_.end() && known->second == inode) {
      by_id_.erase(known);
    }
    by_node_.erase(inode->node);
    if (parent != nullptr) --parent->children;
    inode = parent;
  }
}

void InodeTable::touch(Inode& inode) {
  if (inode.is_in_use_list) {
    in_use_.splice(in_use_.begin(), in_use_, inode.use);
    return;
  }
  in_use_.push_front(&inode);
  inode.use = in_use_.begin();
  inode.is_in_use_list = true;
}

void InodeTable::drop_from_use_list(Inode& inode) {
  if (!inode.is_in_use_list) return;
  in_use_.erase(inode.use);
  inode.is_in_use_list = false;
}

OsResult<int> InodeTable::descriptor(Inode& inode) {
  if (!inode.path.is_open()) inode.path = TRY(walk(inode));
  if (!inode.keeps_descriptor()) touch(inode);
  return inode.path.get();
}

// Opens the file from the nearest folder above it that is open. One descriptor at a time: a path
// may be of any length.
OsResult<Fd> InodeTable::walk(Inode& inode) {
  if (inode.has_no_name) return os_fail(ESTALE);
  std::vector<Inode*> steps;
  Inode* open_folder = &inode;
  while (!open_folder->path.is_open()) {
    steps.push_back(open_folder);
    open_folder = open_folder->parent;
    if (open_folder == nullptr || (open_folder->has_no_name && !open_folder->path.is_open())) {
      return os_fail(ESTALE);
    }
  }
  Fd at;
  int folder = open_folder->path.get();
  for (size_t i = steps.size(); i-- > 0;) {
    Fd next = TRY(HostFiles::open_path_at(folder, steps[i]->name.c_str()));
    const FileStat stat = TRY(HostFiles::stat_of(next.get()));
    if (!(identify(stat) == steps[i]->id)) return os_fail(ESTALE);
    at = std::move(next);
    folder = at.get();
  }
  return at;
}

OsResult<FileStat> InodeTable::stat(Inode& inode) {
  if (inode.path.is_open()) return HostFiles::stat_of(inode.path.get());
  if (inode.parent == nullptr || inode.has_no_name) return os_fail(ESTALE);
  const int folder = TRY(descriptor(*inode.parent));
  const FileStat stat = TRY(HostFiles::stat_at(folder, inode.name.c_str()));
  if (!(identify(stat) == inode.id)) return os_fail(ESTALE);
  return stat;
}

void InodeTable::trim() {
  while (in_use_.size() > limits_.descriptors) {
    Inode* const oldest = in_use_.back();
    drop_from_use_list(*oldest);
    oldest->path.reset();
  }
}

void InodeTable::clear() {
  in_use_.clear();
  std::unique_ptr<Inode> root = std::move(by_node_[kRoot]);
  by_node_.clear();
  by_id_.clear();
  root->children = root->opens = 0;
  root->lookups = 1;
  nameless_ = 0;
  by_id_[root->id] = root.get();
  by_node_[kRoot] = std::move(root);
}

std::vector<const Inode*> InodeTable::all() const {
  std::vector<const Inode*> list;
  list.reserve(by_node_.size());
  for (const auto& [node, inode] : by_node_) list.push_back(inode.get());
  return list;
}

Inode* InodeTable::restore(uint64_t node, uint64_t parent, const std::string& name,
                           const FileId& id, uint32_t type, uint64_t lookups) {
  Inode* const folder = find(parent);
  if (folder == nullptr || find(node) != nullptr || by_node_.size() >= limits_.inodes) {
    return nullptr;
  }
  auto inode = std::make_unique<Inode>();
  inode->node = node;
  inode->id = id;
  inode->type = type;
  inode->name = name;
  inode->lookups = lookups;
  inode->is_sealed = !kind_of(*folder, name, id.dev).is_ordinary;
  Inode* raw = inode.get();
  set_parent(*raw, *folder);
  by_id_.try_emplace(id, raw);
  by_node_[node] = std::move(inode);
  next_node_ = std::max(next_node_, node + 1);
  return raw;
}

}  // namespace trapeze
