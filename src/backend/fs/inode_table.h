// InodeTable: the files that the guest knows, by the numbers it knows them by.
//
// A guest remembers far more files than a process may hold open, so a file is known by where it is
// (a known folder and a name in it) and by its identity, and an O_PATH descriptor is opened when
// needed and closed again when there are too many. Whenever a descriptor is opened anew its
// identity is compared, and another file of that name is ESTALE. Files that lose their name while
// the guest knows them, and files that are open, keep their descriptor.
//
// Loop thread. The number of inodes is limited: the guest decides how many it remembers.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "backend/fs/host_files.h"

namespace trapeze {

struct Inode {
  uint64_t node = 0;
  FileId id;
  uint32_t type = 0;       // S_IFMT bits
  bool is_sealed = false;  // on a file system that is not shared: to be seen, not to be entered
  // Where it was seen last. The root has no parent.
  Inode* parent = nullptr;
  std::string name;
  uint64_t lookups = 0;   // that the guest has not forgotten
  uint32_t children = 0;  // inodes whose parent this is
  uint32_t opens = 0;     // handles
  bool has_no_name = false;
  // The file as it was when it was opened last, to know whether the guest's copy of it is good.
  uint64_t seen_change_ns = 0;
  uint64_t seen_size = 0;

  bool is_folder() const { return S_ISDIR(type); }
  bool is_regular() const { return S_ISREG(type); }

 private:
  friend class InodeTable;
  bool keeps_descriptor() const { return parent == nullptr || has_no_name || opens != 0; }
  Fd path;
  bool is_in_use_list = false;
  std::list<Inode*>::iterator use;
};

struct InodeLimits {
  uint32_t inodes = 1U << 20;
  uint32_t descriptors = 256;  // closable ones; trim() keeps to it
  uint32_t nameless = 256;     // files without a name that the guest still knows
};

class InodeTable {
 public:
  static constexpr uint64_t kRoot = 1;  // FUSE_ROOT_ID

  InodeTable(Fd root, const FileStat& stat, const InodeLimits& limits);
  ~InodeTable();
  InodeTable(const InodeTable&) = delete;
  InodeTable& operator=(const InodeTable&) = delete;

  Inode& root() { return *root_; }
  Inode* find(uint64_t node);
  Inode* find(const FileId& id);
  FileId identify(const FileStat& stat) const;
  size_t size() const { return by_node_.size(); }
  size_t open_descriptors() const { return in_use_.size(); }

  // The inode of a file just seen as `name` in `parent`; not yet counted as looked up. ENFILE.
  OsResult<Inode*> enter(Inode& parent, const std::string& name, const FileStat& stat);
  // The guest got to know it / forgot it so many times. May free it.
  void add_lookup(Inode& inode) { ++inode.lookups; }
  void forget(Inode& inode, uint64_t lookups);
  // It has handles / has none any more.
  void opened(Inode& inode);
  void closed(Inode& inode);
  // It has another name from now on.
  void moved(Inode& inode, Inode& parent, const std::string& name);
  // Before the name goes away: keeps what the guest may still have open. ENFILE.
  OsResult<void> keep_nameless(Inode& inode);
  // The limit of these is near, for which the guest's next FORGETs may be enough.
  bool wants_forgets() const { return nameless_ >= limits_.nameless / 2; }

  // An O_PATH descriptor of the file, valid until trim().
  OsResult<int> descriptor(Inode& inode);
  // What the file is now.
  OsResult<FileStat> stat(Inode& inode);
  // After each request: closes descriptors that are too many, oldest first.
  void trim();
  // Forgets all but the root.
  void clear();

  // For restoring a saved session: an inode with the given number. False: the number is taken.
  Inode* restore(uint64_t node, uint64_t parent, const std::string& name, const FileId& id,
                 uint32_t type, uint64_t lookups);
  std::vector<const Inode*> all() const;

 private:
  struct HashId {
    size_t operator()(const FileId& id) const {
      return static_cast<size_t>((id.ino * 0x9e37'79b9'7f4a'7c15U) ^ (id.dev << 17) ^ id.birth_ns);
    }
  };
  OsResult<Fd> walk(Inode& inode);
  void set_parent(Inode& inode, Inode& parent);
  bool is_same_or_below(const Inode& inode, const Inode& ancestor) const;
  void touch(Inode& inode);
  void drop_from_use_list(Inode& inode);
  void free_if_unknown(Inode* inode);
  FileSystemKind kind_of(Inode& parent, const std::string& name, uint64_t dev);

  const InodeLimits limits_;
  std::unordered_map<uint64_t, std::unique_ptr<Inode>> by_node_;
  std::unordered_map<FileId, Inode*, HashId> by_id_;
  std::unordered_map<uint64_t, FileSystemKind> kinds_;  // by device
  std::list<Inode*> in_use_;  // with an open descriptor that may be closed; used last first
  Inode* root_ = nullptr;
  uint32_t nameless_ = 0;
  uint64_t next_node_ = kRoot + 1;
};

}  // namespace trapeze
