// FuseServer: requests about names and attributes.
#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>

#include <algorithm>

#include "backend/fs/fuse_server.h"

namespace trapeze {
namespace {

// How long the guest may use what it was told without asking again: where the host's files may
// change, as long as virtiofsd says by default; else about as long as a machine runs.
constexpr uint64_t kSecondsValid = 1;
constexpr uint64_t kSecondsValidStatic = 86'400;

int status_of(const OsResult<>& result) { return result ? 0 : result.error().value; }

uint32_t guest_device(const FileStat& stat) {
  const uint32_t minor = stat.stx_rdev_minor;
  return (minor & 0xff) | (stat.stx_rdev_major << 8) | ((minor & ~0xffU) << 12);
}

}  // namespace

uint64_t FuseServer::seconds_valid() const {
  return folder_->is_static() ? kSecondsValidStatic : kSecondsValid;
}

fuse_attr FuseServer::attributes_of(const FileStat& stat) {
  const Owner owner = folder_->to_guest({stat.stx_uid, stat.stx_gid});
  fuse_attr attr{};
  attr.ino = folder_->guest_ino(stat);
  attr.size = stat.stx_size;
  attr.blocks = stat.stx_blocks;
  attr.atime = static_cast<uint64_t>(stat.stx_atime.tv_sec);
  attr.mtime = static_cast<uint64_t>(stat.stx_mtime.tv_sec);
  attr.ctime = static_cast<uint64_t>(stat.stx_ctime.tv_sec);
  attr.atimensec = stat.stx_atime.tv_nsec;
  attr.mtimensec = stat.stx_mtime.tv_nsec;
  attr.ctimensec = stat.stx_ctime.tv_nsec;
  attr.mode = stat.stx_mode;
  attr.nlink = stat.stx_nlink;
  attr.uid = owner.uid;
  attr.gid = owner.gid;
  attr.rdev = guest_device(stat);
  attr.blksize = stat.stx_blksize;
  return attr;
}

fuse_entry_out FuseServer::entry_of(const FolderEntry& entry) {
  fuse_entry_out out{};
  out.nodeid = entry.node;
  out.entry_valid = out.attr_valid = seconds_valid();
  out.attr = attributes_of(entry.stat);
  return out;
}

FuseServer::Status FuseServer::put_entry(const OsResult<FolderEntry>& entry) {
  if (!entry) return entry.error().value;
  payload_.put(entry_of(*entry));
  return 0;
}

FuseServer::Status FuseServer::put_attributes(const OsResult<FileStat>& stat) {
  if (!stat) return stat.error().value;
  fuse_attr_out out{};
  out.attr_valid = seconds_valid();
  out.attr = attributes_of(*stat);
  payload_.put(out);
  return 0;
}

FuseServer::Status FuseServer::lookup(FuseArguments& arguments) {
  const auto name = arguments.take_name();
  if (!name) return EINVAL;
  const auto entry = folder_->lookup(header_.nodeid, *name);
  if (entry || entry.error().value != ENOENT) return put_entry(entry);
  // Node 0: there is no such file, and that is true for a while.
  fuse_entry_out none{};
  none.entry_valid = seconds_valid();
  payload_.put(none);
  return 0;
}

void FuseServer::forget(FuseArguments& arguments) {
  if (const auto in = arguments.take<fuse_forget_in>()) {
    folder_->forget(header_.nodeid, in->nlookup);
  }
}

void FuseServer::forget_batch(FuseArguments& arguments) {
  const auto in = arguments.take<fuse_batch_forget_in>();
  if (!in) return;
  for (uint32_t i = 0; i < in->count; ++i) {
    const auto one = arguments.take<fuse_forget_one>();
    if (!one) return;
    folder_->forget(one->nodeid, one->nlookup);
  }
}

FuseServer::Status FuseServer::get_attributes(FuseArguments& arguments) {
  const auto in = arguments.take<fuse_getattr_in>();
  if (!in) return EINVAL;
  const bool has_handle = (in->getattr_flags & FUSE_GETATTR_FH) != 0;
  return put_attributes(
      folder_->stat(header_.nodeid, has_handle ? std::optional(in->fh) : std::nullopt));
}

FuseServer::Status FuseServer::set_attributes(FuseArguments& arguments) {
  const auto in = arguments.take<fuse_setattr_in>();
  if (!in) return EINVAL;
  const auto has = [&](uint32_t bit) { return (in->valid & bit) != 0; };
  const auto time = [](uint64_t seconds, uint32_t nanoseconds, bool is_now) {
    timespec value{};
    value.tv_sec = static_cast<time_t>(seconds);
    value.tv_nsec = is_now ? UTIME_NOW : static_cast<long>(std::min(nanoseconds, 999'999'999U));
    return value;
  };
  AttributeChange change;
  if (has(FATTR_MODE)) change.mode = in->mode;
  if (has(FATTR_UID)) change.uid = in->uid;
  if (has(FATTR_GID)) change.gid = in->gid;
  if (has(FATTR_SIZE)) change.size = in->size;
  if (has(FATTR_ATIME)) change.access_time = time(in->atime, in->atimensec, has(FATTR_ATIME_NOW));
  if (has(FATTR_MTIME)) change.change_time = time(in->mtime, in->mtimensec, has(FATTR_MTIME_NOW));
  change.drops_set_id = has(FATTR_KILL_SUIDGID);
  return put_attributes(folder_->change(
      header_.nodeid, has(FATTR_FH) ? std::optional(in->fh) : std::nullopt, change));
}

FuseServer::Status FuseServer::read_link() {
  const auto target = folder_->read_link(header_.nodeid);
  if (!target) return target.error().value;
  payload_.put_text(*target);
  return 0;
}

FuseServer::Status FuseServer::make_symlink(FuseArguments& arguments) {
  const auto name = arguments.take_name();
  const auto target = arguments.take_name();
  if (!name || !target) return EINVAL;
  return put_entry(
      folder_->make_symlink(header_.nodeid, *name, *target, {.mode = 0777, .owner = sender()}));
}

FuseServer::Status FuseServer::make_node(FuseArguments& arguments) {
  const auto in = arguments.take<fuse_mknod_in>();
  const auto name = arguments.take_name();
  if (!in || !name) return EINVAL;
  return put_entry(folder_->make_node(header_.nodeid, *name, in->mode & S_IFMT,
                                      {.mode = in->mode, .owner = sender()}));
}

FuseServer::Status FuseServer::make_folder(FuseArguments& arguments) {
  const auto in = arguments.take<fuse_mkdir_in>();
  const auto name = arguments.take_name();
  if (!in || !name) return EINVAL;
  return put_entry(
      folder_->make_folder(header_.nodeid, *name, {.mode = in->mode, .owner = sender()}));
}

FuseServer::Status FuseServer::unlink(FuseArguments& arguments, bool is_folder) {
  const auto name = arguments.take_name();
  if (!name) return EINVAL;
  return status_of(folder_->unlink(header_.nodeid, *name, is_folder));
}

FuseServer::Status FuseServer::rename(FuseArguments& arguments, bool has_flags) {
  fuse_rename2_in in{};
  if (has_flags) {
    const auto given = arguments.take<fuse_rename2_in>();
    if (!given) return EINVAL;
    in = *given;
  } else {
    const auto given = arguments.take<fuse_rename_in>();
    if (!given) return EINVAL;
    in.newdir = given->newdir;
  }
  const auto name = arguments.take_name();
  const auto new_name = arguments.take_name();
  if (!name || !new_name) return EINVAL;
  return status_of(folder_->rename(header_.nodeid, *name, in.newdir, *new_name, in.flags));
}

FuseServer::Status FuseServer::link(FuseArguments& arguments) {
  const auto in = arguments.take<fuse_link_in>();
  const auto name = arguments.take_name();
  if (!in || !name) return EINVAL;
  return put_entry(folder_->link(in->oldnodeid, header_.nodeid, *name));
}

FuseServer::Status FuseServer::stat_file_system() {
  const auto info = folder_->stat_file_system(header_.nodeid);
  if (!info) return info.error().value;
  fuse_statfs_out out{};
  out.st.blocks = info->f_blocks;
  out.st.bfree = info->f_bfree;
  out.st.bavail = info->f_bavail;
  out.st.files = info->f_files;
  out.st.ffree = info->f_ffree;
  out.st.bsize = static_cast<uint32_t>(info->f_bsize);
  out.st.namelen = static_cast<uint32_t>(info->f_namemax);
  out.st.frsize = static_cast<uint32_t>(info->f_frsize);
  payload_.put(out);
  return 0;
}

FuseServer::Status FuseServer::access(FuseArguments& arguments) {
  const auto in = arguments.take<fuse_access_in>();
  if (!in) return EINVAL;
  return status_of(folder_->access(header_.nodeid, in->mask));
}

// Extended attributes -----------------------------------------------------------------------------

namespace {
constexpr uint32_t kMaxXattrBytes = 64 * 1024;  // XATTR_SIZE_MAX
}

// Size 0 asks for the size.
FuseServer::Status FuseServer::get_xattr(FuseArguments& arguments) {
  const auto in = arguments.take<fuse_getxattr_in>();
  const auto name = arguments.take_name();
  if (!in || !name) return EINVAL;
  const size_t wanted = std::min(in->size, kMaxXattrBytes);
  const auto got = folder_->get_attribute(header_.nodeid, *name, payload_.grow(wanted));
  if (!got) return got.error().value;
  if (in->size != 0) {
    payload_.shrink_to(std::min(*got, wanted));
  } else {
    payload_.put(fuse_getxattr_out{.size = static_cast<uint32_t>(*got), .padding = 0});
  }
  return 0;
}

FuseServer::Status FuseServer::list_xattr(FuseArguments& arguments) {
  const auto in = arguments.take<fuse_getxattr_in>();
  if (!in) return EINVAL;
  const auto names = folder_->list_attributes(header_.nodeid);
  if (!names) return names.error().value;
  if (in->size == 0) {
    payload_.put(fuse_getxattr_out{.size = static_cast<uint32_t>(names->size()), .padding = 0});
    return 0;
  }
  if (names->size() > in->size) return ERANGE;
  payload_.put_text(*names);
  return 0;
}

FuseServer::Status FuseServer::set_xattr(FuseArguments& arguments) {
  // Without FUSE_SETXATTR_EXT only its first part comes.
  struct In {
    uint32_t size;
    uint32_t flags;
  };
  static_assert(sizeof(In) == FUSE_COMPAT_SETXATTR_IN_SIZE);
  const auto in = arguments.take<In>();
  const auto name = arguments.take_name();
  if (!in || !name || in->size > kMaxXattrBytes) return EINVAL;
  const auto value = arguments.take_bytes(in->size);
  if (!value) return EINVAL;
  return status_of(folder_->set_attribute(header_.nodeid, *name, *value, in->flags));
}

FuseServer::Status FuseServer::remove_xattr(FuseArguments& arguments) {
  const auto name = arguments.take_name();
  if (!name) return EINVAL;
  return status_of(folder_->remove_attribute(header_.nodeid, *name));
}

}  // namespace trapeze
