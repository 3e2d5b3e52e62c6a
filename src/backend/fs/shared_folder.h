// SharedFolder: operations on the files of one folder of the host, for a guest that is not trusted.
// Files are named by the guest's inode numbers and by names of entries; open files by handles.
// Whatever the numbers and names are, nothing outside the folder is reached (host_files.h), special
// files are not opened, and memory and descriptors stay within FolderLimits.
//
// Not done for any guest: device nodes; set-user-ID and set-group-ID bits of files, with which a
// guest could hand its host's user to somebody else on the host; attributes other than "user.".
//
// Loop thread. Functions that end in a system call may take as long as the host's storage does.
#pragma once

#include <sys/statvfs.h>
#include <sys/uio.h>

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "backend/fs/host_files.h"
#include "backend/fs/inode_table.h"
#include "backend/fs/ownership.h"
#include "backend/fs/session_state.h"

namespace trapeze {

struct FolderLimits {
  InodeLimits inodes;
  uint32_t handles = 256;
};

struct FolderConfig {
  std::string path;
  bool is_read_only = false;
  // Nobody changes the files while the guest looks: it may keep what it has read.
  bool is_static = false;
  FolderLimits limits;
};

// A file that the guest got to know: counted as one lookup of it.
struct FolderEntry {
  uint64_t node = 0;
  FileStat stat;
};

struct OpenedFile {
  uint64_t handle = 0;
  bool is_unchanged = false;  // since it was opened last
};

struct NewFile {
  uint32_t mode = 0;  // permissions, the guest's umask already taken off
  Owner owner;
};

struct AttributeChange {
  std::optional<uint32_t> mode;
  std::optional<uint32_t> uid;
  std::optional<uint32_t> gid;
  std::optional<uint64_t> size;
  std::optional<timespec> access_time;  // tv_nsec may be UTIME_NOW
  std::optional<timespec> change_time;  // of the content
  bool drops_set_id = false;
};

struct FolderItem {
  std::string name;
  uint64_t ino = 0;
  uint64_t next = 0;  // position after it
  uint32_t type = 0;  // DT_*
};

class SharedFolder {
 public:
  // Errors name the path.
  static Result<std::unique_ptr<SharedFolder>> create(const FolderConfig& config);
  ~SharedFolder();

  bool is_read_only() const { return config_.is_read_only; }
  bool is_static() const { return config_.is_static; }
  const std::string& path() const { return config_.path; }
  Owner to_guest(Owner host) const { return ownership_.to_guest(host); }
  // An inode number that no other file of the folder has, also when it spans file systems.
  uint64_t guest_ino(const FileStat& stat) { return guest_ino(device_of(stat), stat.stx_ino); }

  // Names (names.cpp)
  OsResult<FolderEntry> lookup(uint64_t parent, const std::string& name);
  void forget(uint64_t node, uint64_t lookups);
  OsResult<std::string> read_link(uint64_t node);
  OsResult<FolderEntry> make_node(uint64_t parent, const std::string& name, uint32_t type,
                                  const NewFile& file);
  OsResult<FolderEntry> make_folder(uint64_t parent, const std::string& name, const NewFile& file);
  OsResult<FolderEntry> make_symlink(uint64_t parent, const std::string& name,
                                     const std::string& target, const NewFile& file);
  OsResult<FolderEntry> link(uint64_t node, uint64_t parent, const std::string& name);
  OsResult<> unlink(uint64_t parent, const std::string& name, bool is_folder);
  OsResult<> rename(uint64_t parent, const std::string& name, uint64_t new_parent,
                    const std::string& new_name, uint32_t flags);

  // Attributes (attributes.cpp)
  OsResult<FileStat> stat(uint64_t node, std::optional<uint64_t> handle = {});
  OsResult<FileStat> change(uint64_t node, std::optional<uint64_t> handle,
                            const AttributeChange& change);
  OsResult<> access(uint64_t node, uint32_t mask);
  OsResult<struct statvfs> stat_file_system(uint64_t node);
  OsResult<size_t> get_attribute(uint64_t node, const std::string& name, std::span<std::byte> to);
  OsResult<std::string> list_attributes(uint64_t node);  // names, a zero after each
  OsResult<> set_attribute(uint64_t node, const std::string& name, std::span<const std::byte> value,
                           uint32_t flags);
  OsResult<> remove_attribute(uint64_t node, const std::string& name);

  // Open files (files.cpp)
  OsResult<OpenedFile> open(uint64_t node, uint32_t flags);
  OsResult<OpenedFile> create(uint64_t parent, const std::string& name, uint32_t flags,
                              const NewFile& file, FolderEntry& entry);
  void close(uint64_t handle);
  OsResult<size_t> read(uint64_t handle, std::span<const iovec> to, uint64_t offset);
  OsResult<size_t> write(uint64_t handle, std::span<const iovec> from, uint64_t offset,
                         bool drops_set_id);
  OsResult<> sync(uint64_t handle, bool is_data_only);
  OsResult<> sync_all();
  OsResult<> allocate(uint64_t handle, uint32_t mode, uint64_t offset, uint64_t bytes);
  OsResult<uint64_t> seek(uint64_t handle, uint64_t offset, uint32_t whence);
  OsResult<size_t> copy(uint64_t from, uint64_t from_offset, uint64_t to, uint64_t to_offset,
                        uint64_t bytes);

  // Folders (listing.cpp)
  OsResult<OpenedFile> open_folder(uint64_t node);
  // From the position on, until `take` says false; an item that it refuses comes again next time.
  OsResult<> list(uint64_t handle, uint64_t position,
                  const std::function<bool(const FolderItem& item)>& take);
  // A listed item as if looked up; the handle's folder is its parent.
  OsResult<FolderEntry> lookup_listed(uint64_t handle, const std::string& name);

  // After each request.
  void trim() { inodes_.trim(); }
  bool wants_forgets() const { return inodes_.wants_forgets(); }
  void reset();
  // While no request is served. Files without a name are not saved.
  FolderState save() const;
  void restore(const FolderState& state);

  const InodeTable& inodes() const { return inodes_; }
  size_t open_handles() const { return handles_.size(); }

 private:
  struct Handle {
    Fd fd;  // none for sealed folders
    Inode* inode = nullptr;
    uint32_t flags = 0;
    bool is_folder = false;
  };

  SharedFolder(const FolderConfig& config, HostFiles host, Fd root, const FileStat& stat,
               uint32_t umask);
  uint64_t guest_ino(uint64_t dev, uint64_t ino);
  OsResult<Inode*> known(uint64_t node);
  // A folder that may be searched: its O_PATH descriptor.
  OsResult<int> folder_of(uint64_t node);
  OsResult<int> writable_folder(uint64_t node, const std::string& name);
  OsResult<Handle*> handle(uint64_t handle, bool is_folder = false);
  OsResult<OpenedFile> add_handle(Fd fd, Inode& inode, uint32_t flags, bool is_folder);
  OsResult<FolderEntry> enter(Inode& parent, int folder, const std::string& name);
  OsResult<FolderEntry> finish_new(uint64_t parent, int folder, const std::string& name,
                                   const NewFile& file, uint32_t type);
  OsResult<Fd> create_file(int folder, Inode& parent, const std::string& name, uint32_t flags,
                           const NewFile& file);
  OsResult<> own(int folder, int fd, const char* name, const NewFile& file, uint32_t type);
  OsResult<> drop_set_id(int fd);
  OsResult<> resize(Inode& inode, std::optional<uint64_t> handle, uint64_t size);
  OsResult<> prepare_loss(Inode& parent, const std::string& name, int folder);
  OsResult<std::string> attribute_path(uint64_t node);
  OsResult<> fill_listing(Handle& handle, uint64_t handle_number, uint64_t position);

  const FolderConfig config_;
  const HostFiles host_;
  const Ownership ownership_;
  const uint32_t umask_;  // of this process
  InodeTable inodes_;
  std::unordered_map<uint64_t, Handle> handles_;
  uint64_t next_handle_ = 1;
  std::unordered_map<uint64_t, uint64_t> device_numbers_;

  // What getdents64() gave last, for the handle that asked.
  std::vector<std::byte> listing_;
  size_t listing_at_ = 0;
  size_t listing_end_ = 0;
  uint64_t listing_handle_ = 0;
  uint64_t listing_position_ = 0;
};

}  // namespace trapeze
