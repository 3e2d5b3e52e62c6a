#include "backend/fs/fuse_server.h"

#include <algorithm>

namespace trapeze {
namespace {

// All but the data of writes; the largest is an extended attribute of 64 KiB with its name.
constexpr uint64_t kMaxMessageBytes = 128 * 1024;
constexpr uint64_t kMaxShortBytes = 32 * 1024;
constexpr uint32_t kMinMinorVersion = 31;
constexpr uint16_t kMaxPages = 256;  // of a request; all that Linux takes
constexpr uint32_t kMaxWriteBytes = kMaxPages * 4096;
constexpr uint16_t kMaxBackground = 64;
constexpr uint32_t kOffered = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_ATOMIC_O_TRUNC |
                              FUSE_AUTO_INVAL_DATA | FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO |
                              FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS | FUSE_HANDLE_KILLPRIV_V2 |
                              FUSE_MAX_PAGES | FUSE_CACHE_SYMLINKS;

bool wants_reply(uint32_t opcode) {
  return opcode != FUSE_FORGET && opcode != FUSE_BATCH_FORGET && opcode != FUSE_INTERRUPT;
}

}  // namespace

Result<std::unique_ptr<FuseServer>> FuseServer::create(const FolderConfig& config) {
  auto folder = TRY(SharedFolder::create(config));
  return std::unique_ptr<FuseServer>(new FuseServer(std::move(folder)));
}

void FuseServer::reset() {
  is_started_ = false;
  folder_->reset();
}

FsSessionState FuseServer::save() const {
  return {.is_started = is_started_, .folder = folder_->save()};
}

void FuseServer::restore(const FsSessionState& state) {
  is_started_ = state.is_started;
  folder_->restore(state.folder);
}

// Names and attributes are mostly in the host's caches. Data of some length is better copied, and
// storage waited for, while the vCPU goes on.
bool FuseServer::is_short(const FsRequest& request) const {
  fuse_in_header header{};
  const auto bytes = std::as_writable_bytes(std::span<fuse_in_header, 1>(&header, 1));
  if (copy_out(request.message, 0, bytes) != sizeof(header)) return false;
  switch (header.opcode) {
    case FUSE_INIT:
    case FUSE_DESTROY:
    case FUSE_FSYNC:
    case FUSE_FSYNCDIR:
    case FUSE_SYNCFS:
    case FUSE_FALLOCATE:
    case FUSE_COPY_FILE_RANGE:
      return false;
    default:
      return total_bytes(request.message) + total_bytes(request.reply) <= kMaxShortBytes;
  }
}

FsOutcome FuseServer::serve(const FsRequest& request) {
  request_ = request;
  payload_.clear();
  direct_bytes_ = touched_bytes_ = 0;
  room_bytes_ = total_bytes(request.reply);
  const uint64_t message_bytes = total_bytes(request.message);
  header_ = {};
  const auto header_bytes = std::as_writable_bytes(std::span<fuse_in_header, 1>(&header_, 1));
  const bool is_whole =
      copy_out(request.message, 0, header_bytes) == sizeof(header_) && header_.len == message_bytes;
  if (!is_whole) return answer(EINVAL);
  if (wants_reply(header_.opcode) && room_bytes_ < sizeof(fuse_out_header)) return answer(EINVAL);
  // The data of a write stays where it is.
  uint64_t argument_bytes = message_bytes - sizeof(header_);
  if (header_.opcode == FUSE_WRITE) {
    argument_bytes = std::min<uint64_t>(argument_bytes, sizeof(fuse_write_in));
  }
  if (argument_bytes > kMaxMessageBytes) return answer(EINVAL);
  message_.resize(argument_bytes);
  message_.resize(copy_out(request.message, sizeof(header_), message_));
  FuseArguments arguments(message_);
  const Status status = dispatch(arguments);
  folder_->trim();
  return answer(status);
}

FsOutcome FuseServer::answer(Status status) {
  FsOutcome outcome;
  outcome.is_error = status != 0;
  if (room_bytes_ < sizeof(fuse_out_header)) {
    outcome.has_no_room = wants_reply(header_.opcode);
    return outcome;
  }
  if (!wants_reply(header_.opcode)) return outcome;
  if (sizeof(fuse_out_header) + payload_.size() > room_bytes_) status = EIO;
  if (status != 0) {
    payload_.clear();
    direct_bytes_ = 0;
  }
  outcome.reply_bytes = sizeof(fuse_out_header) + payload_.size() + direct_bytes_;
  outcome.touched_bytes = std::max(outcome.reply_bytes, touched_bytes_);
  const fuse_out_header header{.len = static_cast<uint32_t>(outcome.reply_bytes),
                               .error = -status,
                               .unique = header_.unique};
  copy_in(request_.reply, 0, std::as_bytes(std::span<const fuse_out_header, 1>(&header, 1)));
  copy_in(request_.reply, sizeof(header), payload_.bytes());
  return outcome;
}

FuseServer::Status FuseServer::dispatch(FuseArguments& arguments) {
  if (header_.opcode == FUSE_INIT) return init(arguments);
  if (!is_started_) return EPROTO;
  return dispatch_names(arguments);
}

// The numbers are the guest's: what is none of these goes on to the next.
FuseServer::Status FuseServer::dispatch_names(FuseArguments& arguments) {
  switch (header_.opcode) {
    case FUSE_LOOKUP:
      return lookup(arguments);
    case FUSE_FORGET:
      forget(arguments);
      return 0;
    case FUSE_BATCH_FORGET:
      forget_batch(arguments);
      return 0;
    case FUSE_READLINK:
      return read_link();
    case FUSE_SYMLINK:
      return make_symlink(arguments);
    case FUSE_MKNOD:
      return make_node(arguments);
    case FUSE_MKDIR:
      return make_folder(arguments);
    case FUSE_UNLINK:
      return unlink(arguments, false);
    case FUSE_RMDIR:
      return unlink(arguments, true);
    case FUSE_RENAME:
      return rename(arguments, false);
    case FUSE_RENAME2:
      return rename(arguments, true);
    case FUSE_LINK:
      return link(arguments);
    default:
      return dispatch_files(arguments);
  }
}

FuseServer::Status FuseServer::dispatch_files(FuseArguments& arguments) {
  switch (header_.opcode) {
    case FUSE_OPEN:
      return open(arguments);
    case FUSE_CREATE:
      return create(arguments);
    case FUSE_READ:
      return read(arguments);
    case FUSE_WRITE:
      return write();
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
      return release(arguments);
    case FUSE_FSYNC:
    case FUSE_FSYNCDIR:
      return sync(arguments);
    case FUSE_OPENDIR:
      return open_folder();
    case FUSE_READDIR:
      return list(arguments, false);
    case FUSE_READDIRPLUS:
      return list(arguments, true);
    case FUSE_FALLOCATE:
      return allocate(arguments);
    case FUSE_LSEEK:
      return seek(arguments);
    case FUSE_COPY_FILE_RANGE:
      return copy(arguments);
    default:
      return dispatch_others(arguments);
  }
}

// ENOSYS says "never ask again". For FLUSH that saves a request each close(): there are no locks
// to drop, and errors of the host's storage come with fsync().
FuseServer::Status FuseServer::dispatch_others(FuseArguments& arguments) {
  switch (header_.opcode) {
    case FUSE_GETATTR:
      return get_attributes(arguments);
    case FUSE_SETATTR:
      return set_attributes(arguments);
    case FUSE_STATFS:
      return stat_file_system();
    case FUSE_GETXATTR:
      return get_xattr(arguments);
    case FUSE_LISTXATTR:
      return list_xattr(arguments);
    case FUSE_SETXATTR:
      return set_xattr(arguments);
    case FUSE_REMOVEXATTR:
      return remove_xattr(arguments);
    case FUSE_ACCESS:
      return access(arguments);
    case FUSE_SYNCFS: {
      const auto synced = folder_->sync_all();
      return synced ? 0 : synced.error().value;
    }
    case FUSE_DESTROY:
      reset();
      return 0;
    case FUSE_INTERRUPT:  // every request is served before the next one is seen
      return 0;
    default:
      return ENOSYS;
  }
}

FuseServer::Status FuseServer::init(FuseArguments& arguments) {
  // Older kernels send less of it.
  constexpr size_t kOldInitBytes = 16;
  const auto bytes = arguments.take_bytes(std::min(message_.size(), sizeof(fuse_init_in)));
  if (!bytes || bytes->size() < kOldInitBytes) return EINVAL;
  fuse_init_in in{};
  std::memcpy(&in, bytes->data(), bytes->size());
  fuse_init_out out{};
  out.major = FUSE_KERNEL_VERSION;
  out.minor = FUSE_KERNEL_MINOR_VERSION;
  if (in.major > FUSE_KERNEL_VERSION) {
    // It asks again, in our version (fuse.h, "protocol versioning").
    payload_.put(out);
    return 0;
  }
  if (in.major < FUSE_KERNEL_VERSION || in.minor < kMinMinorVersion) return EPROTO;
  reset();  // a file system mounted anew
  is_started_ = true;
  out.max_readahead = in.max_readahead;
  out.flags = in.flags & kOffered;
  out.max_background = kMaxBackground;
  out.congestion_threshold = kMaxBackground * 3 / 4;
  out.max_write = kMaxWriteBytes;
  out.time_gran = 1;
  out.max_pages = kMaxPages;
  payload_.put(out);
  return 0;
}

}  // namespace trapeze
