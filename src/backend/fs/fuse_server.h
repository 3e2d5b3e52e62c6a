// FuseServer: FUSE (protocol 7.31 and later) for the guest's kernel, over a SharedFolder. It reads
// requests and writes replies; what is done to files is the folder's business.
//
// What the guest is offered: writes and reads of 1 MiB between host files and guest memory without
// a copy in between, listings with attributes, cached symbolic links, truncation by open, and data
// that stays cached over opens as long as the file is the same. Not offered: a write-back cache
// (the host would see files late and with the guest's sizes), POSIX ACLs, and locks: the guest's
// kernel keeps them itself, for all its processes, where a wait for one can be interrupted.
//
// Loop thread.
#pragma once

#include <memory>

#include "backend/fs/fuse_message.h"
#include "backend/fs/shared_folder.h"
#include "virtio/fs/server.h"

namespace trapeze {

class FuseServer final : public FsServer {
 public:
  static Result<std::unique_ptr<FuseServer>> create(const FolderConfig& config);

  bool is_short(const FsRequest& request) const override;
  bool wants_forgets() const override { return folder_->wants_forgets(); }
  FsOutcome serve(const FsRequest& request) override;
  void reset() override;

  // While no request is served.
  FsSessionState save() const;
  void restore(const FsSessionState& state);

  const SharedFolder& folder() const { return *folder_; }

 private:
  // 0, or the errno value of the answer; what the answer holds is in payload_ (or, for reads, in
  // the guest's memory already: direct_bytes_).
  using Status = int;

  explicit FuseServer(std::unique_ptr<SharedFolder> folder) : folder_(std::move(folder)) {}
  FsOutcome answer(Status status);
  Status dispatch(FuseArguments& arguments);
  Status dispatch_names(FuseArguments& arguments);
  Status dispatch_files(FuseArguments& arguments);
  Status dispatch_others(FuseArguments& arguments);

  Status init(FuseArguments& arguments);
  Status lookup(FuseArguments& arguments);
  void forget(FuseArguments& arguments);
  void forget_batch(FuseArguments& arguments);
  Status get_attributes(FuseArguments& arguments);
  Status set_attributes(FuseArguments& arguments);
  Status read_link();
  Status make_symlink(FuseArguments& arguments);
  Status make_node(FuseArguments& arguments);
  Status make_folder(FuseArguments& arguments);
  Status unlink(FuseArguments& arguments, bool is_folder);
  Status rename(FuseArguments& arguments, bool has_flags);
  Status link(FuseArguments& arguments);
  Status create(FuseArguments& arguments);
  Status open(FuseArguments& arguments);
  Status open_folder();
  Status release(FuseArguments& arguments);
  Status read(FuseArguments& arguments);
  Status write();
  Status sync(FuseArguments& arguments);
  Status list(FuseArguments& arguments, bool with_attributes);
  Status stat_file_system();
  Status get_xattr(FuseArguments& arguments);
  Status list_xattr(FuseArguments& arguments);
  Status set_xattr(FuseArguments& arguments);
  Status remove_xattr(FuseArguments& arguments);
  Status access(FuseArguments& arguments);
  Status allocate(FuseArguments& arguments);
  Status seek(FuseArguments& arguments);
  Status copy(FuseArguments& arguments);

  fuse_attr attributes_of(const FileStat& stat);
  fuse_entry_out entry_of(const FolderEntry& entry);
  Status put_entry(const OsResult<FolderEntry>& entry);
  Status put_attributes(const OsResult<FileStat>& stat);
  Owner sender() const { return {header_.uid, header_.gid}; }
  uint64_t seconds_valid() const;
  void put_item(const FolderItem& item);
  bool put_item_with_attributes(uint64_t handle, const FolderItem& item);

  const std::unique_ptr<SharedFolder> folder_;
  bool is_started_ = false;

  // Of the request being served.
  FsRequest request_;
  fuse_in_header header_{};
  uint64_t room_bytes_ = 0;  // for the reply, its header included
  uint64_t direct_bytes_ = 0;
  uint64_t touched_bytes_ = 0;
  std::vector<std::byte> message_;
  FusePayload payload_;
  std::vector<iovec> data_;
};

}  // namespace trapeze
