// FuseServer: requests about open files and folders.
#include <algorithm>
#include <string>

#include "backend/fs/fuse_server.h"

namespace trapeze {
namespace {

constexpr uint32_t kMaxDataBytes = 1 << 20;     // of one read or write
constexpr uint64_t kMaxListingBytes = 1 << 17;  // of one reply

int status_of(const OsResult<>& result) { return result ? 0 : result.error().value; }

}  // namespace

FuseServer::Status FuseServer::open(FuseArguments& arguments) {
  const auto in = arguments.take<fuse_open_in>();
  if (!in) return EINVAL;
  const auto opened = folder_->open(header_.nodeid, in->flags);
  if (!opened) return opened.error().value;
  fuse_open_out out{};
  out.fh = opened->handle;
  out.open_flags = opened->is_unchanged ? FOPEN_KEEP_CACHE : 0;
  payload_.put(out);
  return 0;
}

FuseServer::Status FuseServer::create(FuseArguments& arguments) {
  const auto in = arguments.take<fuse_create_in>();
  const auto name = arguments.take_name();
  if (!in || !name) return EINVAL;
  FolderEntry entry;
  const auto opened = folder_->create(header_.nodeid, *name, in->flags,
                                      {.mode = in->mode, .owner = sender()}, entry);
  if (!opened) return opened.error().value;
  payload_.put(entry_of(entry));
  fuse_open_out out{};
  out.fh = opened->handle;
  payload_.put(out);
  return 0;
}

FuseServer::Status FuseServer::open_folder() {
  const auto opened = folder_->open_folder(header_.nodeid);
  if (!opened) return opened.error().value;
  fuse_open_out out{};
  out.fh = opened->handle;
  out.open_flags = opened->is_unchanged ? FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR : 0;
  payload_.put(out);
  return 0;
}

FuseServer::Status FuseServer::release(FuseArguments& arguments) {
  const auto in = arguments.take<fuse_release_in>();
  if (!in) return EINVAL;
  folder_->close(in->fh);
  return 0;
}

// HOT
FuseServer::Status FuseServer::read(FuseArguments& arguments) {
  const auto in = arguments.take<fuse_read_in>();
  if (!in) return EINVAL;
  const uint64_t room = room_bytes_ - sizeof(fuse_out_header);
  const uint64_t wanted = std::min<uint64_t>({in->size, room, kMaxDataBytes});
  slice(request_.reply, sizeof(fuse_out_header), wanted, data_);
  // Also where the read fails half-way.
  touched_bytes_ = sizeof(fuse_out_header) + wanted;
  const auto got = folder_->read(in->fh, data_, in->offset);
  if (!got) return got.error().value;
  direct_bytes_ = *got;
  return 0;
}

// HOT
FuseServer::Status FuseServer::write() {
  FuseArguments arguments(message_);
  const auto in = arguments.take<fuse_write_in>();
  if (!in || in->size > kMaxDataBytes) return EINVAL;
  constexpr uint64_t kDataOffset = sizeof(fuse_in_header) + sizeof(fuse_write_in);
  if (header_.len - kDataOffset < in->size) return EINVAL;
  slice(request_.message, kDataOffset, in->size, data_);
  const bool drops_set_id = (in->write_flags & FUSE_WRITE_KILL_SUIDGID) != 0;
  const auto put = folder_->write(in->fh, data_, in->offset, drops_set_id);
  if (!put) return put.error().value;
  payload_.put(fuse_write_out{.size = static_cast<uint32_t>(*put), .padding = 0});
  return 0;
}

FuseServer::Status FuseServer::sync(FuseArguments& arguments) {
  const auto in = arguments.take<fuse_fsync_in>();
  if (!in) return EINVAL;
  return status_of(folder_->sync(in->fh, (in->fsync_flags & FUSE_FSYNC_FDATASYNC) != 0));
}

FuseServer::Status FuseServer::allocate(FuseArguments& arguments) {
  const auto in = arguments.take<fuse_fallocate_in>();
  if (!in) return EINVAL;
  return status_of(folder_->allocate(in->fh, in->mode, in->offset, in->length));
}

FuseServer::Status FuseServer::seek(FuseArguments& arguments) {
  const auto in = arguments.take<fuse_lseek_in>();
  if (!in) return EINVAL;
  const auto found = folder_->seek(in->fh, in->offset, in->whence);
  if (!found) return found.error().value;
  payload_.put(fuse_lseek_out{.offset = *found});
  return 0;
}

FuseServer::Status FuseServer::copy(FuseArguments& arguments) {
  const auto in = arguments.take<fuse_copy_file_range_in>();
  if (!in) return EINVAL;
  if (in->flags != 0) return EINVAL;
  const auto copied = folder_->copy(in->fh_in, in->off_in, in->fh_out, in->off_out, in->len);
  if (!copied) return copied.error().value;
  payload_.put(fuse_write_out{.size = static_cast<uint32_t>(*copied), .padding = 0});
  return 0;
}

// Listings ----------------------------------------------------------------------------------------

void FuseServer::put_item(const FolderItem& item) {
  fuse_dirent header{};
  header.ino = item.ino;
  header.off = item.next;
  header.namelen = static_cast<uint32_t>(item.name.size());
  header.type = item.type;
  payload_.put_bytes(
      std::as_bytes(std::span<const fuse_dirent, 1>(&header, 1)).first(FUSE_NAME_OFFSET));
  payload_.put_text(item.name);
  payload_.pad_to_record();
}

// False: it is gone by now.
bool FuseServer::put_item_with_attributes(uint64_t handle, const FolderItem& item) {
  fuse_entry_out entry{};  // node 0: to be looked up by name
  if (item.name != "." && item.name != "..") {
    const auto found = folder_->lookup_listed(handle, item.name);
    if (found) {
      entry = entry_of(*found);
    } else if (found.error().value == ENOENT) {
      return false;
    }
  }
  payload_.put(entry);
  put_item(item);
  return true;
}

FuseServer::Status FuseServer::list(FuseArguments& arguments, bool with_attributes) {
  const auto in = arguments.take<fuse_read_in>();
  if (!in) return EINVAL;
  const uint64_t room = room_bytes_ - sizeof(fuse_out_header);
  const uint64_t limit = std::min<uint64_t>({in->size, room, kMaxListingBytes});
  const uint64_t fixed = with_attributes ? FUSE_NAME_OFFSET_DIRENTPLUS : FUSE_NAME_OFFSET;
  const auto listed = folder_->list(in->fh, in->offset, [&](const FolderItem& item) {
    // Looked at before it is looked up: what is not shown must not be counted.
    if (payload_.size() + FUSE_REC_ALIGN(fixed + item.name.size()) > limit) return false;
    if (with_attributes) {
      put_item_with_attributes(in->fh, item);
    } else {
      put_item(item);
    }
    return true;
  });
  // What is there already has been looked up, so it has to be told.
  if (!listed && payload_.size() == 0) return listed.error().value;
  return 0;
}

}  // namespace trapeze
