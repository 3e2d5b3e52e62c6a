#include "backend/disk/overlay_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace trapeze {
namespace {

BaseIdentity identity_of(const ImageFile& base) {
  if (base.is_block_device) return {.size_bytes = base.size_bytes};
  return {base.size_bytes, base.mtime_s, base.mtime_ns};
}

Result<Fd> open_nameless(const std::string& folder) {
  Fd fd(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (fd.is_open()) return fd;
  // File systems without O_TMPFILE.
  std::string path = folder + "/trapeze-overlay.XXXXXX";
  fd = Fd(::mkostemp(path.data(), O_CLOEXEC));
  if (!fd.is_open()) return fail_errno("{}: cannot make a temporary file for an overlay", folder);
  ::unlink(path.c_str());
  return fd;
}

Result<Fd> open_temporary() {
  const char* chosen = std::getenv("TMPDIR");
  if (chosen != nullptr && chosen[0] != '\0') return open_nameless(chosen);
  // /tmp is often memory.
  auto fd = open_nameless("/var/tmp");
  return fd ? std::move(fd) : open_nameless("/tmp");
}

Result<void> write_exactly(const Fd& fd, const std::string& path, uint64_t offset,
                           std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t done = ::pwrite(fd.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return fail_errno("overlay={}: cannot write", path);
    offset += static_cast<uint64_t>(done);
    bytes = bytes.subspan(static_cast<size_t>(done));
  }
  return {};
}

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

Result<void> check_base(const std::string& path, const OverlayLayout& layout,
                        const ImageFile& base) {
  const BaseIdentity now = identity_of(base);
  if (layout.base == now) return {};
  if (layout.base.size_bytes != now.size_bytes) {
    return fail(
        "overlay={}: was made on {} with {} bytes, but {} has {}; name the right base, or another "
        "overlay file",
        path, layout.base_path, layout.base.size_bytes, base.path, now.size_bytes);
  }
  return fail(
      "overlay={}: {} was changed (its modification time is another) since the overlay was made on "
      "{}; the overlay's blocks no longer fit. Bring the base back as it was, or use another "
      "overlay file",
      path, base.path, layout.base_path);
}

}  // namespace

OverlayFile::~OverlayFile() {
  if (fd_.is_open() && !created_path_.empty()) ::unlink(created_path_.c_str());
}

Result<OverlayFile> OverlayFile::create_temporary(const ImageFile& base) {
  Fd fd = TRY(open_temporary());
  if (::ftruncate(fd.get(), static_cast<off_t>(base.size_bytes)) != 0) {
    return fail_errno("{}: cannot make a temporary overlay of {} bytes", base.path,
                      base.size_bytes);
  }
  return OverlayFile(std::move(fd), TRY(BlockMap::create(base.size_bytes)));
}

// Nothing when the file exists.
Result<std::optional<Fd>> OverlayFile::make_file(const std::string& path,
                                                 const OverlayLayout& layout) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) == 0) return std::optional<Fd>();
  // Complete before it has a name: there is never half an overlay.
  Fd fd(::open(folder_of(path).c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0666));
  const bool is_nameless = fd.is_open();
  if (!is_nameless) {
    if (errno == ENOENT || errno == EACCES || errno == EROFS || errno == ENOTDIR) {
      return fail_errno("overlay={}: cannot be made", path);
    }
    fd = Fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666));
    if (!fd.is_open() && errno == EEXIST) return std::optional<Fd>();
    if (!fd.is_open()) return fail_errno("overlay={}: cannot be made", path);
  }
  auto made = [&]() -> Result<void> {
    if (::ftruncate(fd.get(), static_cast<off_t>(layout.file_bytes())) != 0) {
      return fail_errno("overlay={}: cannot be made {} bytes long", path, layout.file_bytes());
    }
    TRY(write_exactly(fd, path, 0, encode_overlay_header(layout)));
    if (::fdatasync(fd.get()) != 0) return fail_errno("overlay={}: cannot be written", path);
    return {};
  }();
  if (made && is_nameless) {
    const std::string link = fmt::format("/proc/self/fd/{}", fd.get());
    if (::linkat(AT_FDCWD, link.c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) != 0) {
      if (errno == EEXIST) return std::optional<Fd>();
      return fail_errno("overlay={}: cannot be made", path);
    }
  }
  if (!made) {
    if (!is_nameless) ::unlink(path.c_str());
    return Unexpected(std::move(made.error()));
  }
  return std::optional<Fd>(std::move(fd));
}

Result<OverlayFile> OverlayFile::open_kept(const std::string& path, const ImageFile& base) {
  OverlayLayout layout = plan_overlay(identity_of(base), base.path);
  auto made = TRY(make_file(path, layout));
  const bool is_new = made.has_value();
  Fd fd = is_new ? *std::move(made)
                 : Fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd.is_open()) return fail_errno("overlay={}", path);
  OverlayFile file(std::move(fd), TRY(BlockMap::create(base.size_bytes)));
  if (is_new) file.created_path_ = path;
  const auto locked = lock_image(file.fd_, path, ImageAccess::ReadWrite);
  if (!locked) {
    file.keep();  // somebody else has found it already
    return fail("overlay={}", locked.error().message);
  }
  struct stat info {};
  if (::fstat(file.fd_.get(), &info) != 0) return fail_errno("overlay={}", path);
  if (!S_ISREG(info.st_mode)) return fail("overlay={}: is no regular file", path);
  if (!is_new) {
    const auto size = static_cast<uint64_t>(info.st_size);
    std::vector<std::byte> head(std::min(size, kOverlayMapOffset));
    TRY(read_exactly(file.fd_, path, 0, head.data(), head.size()));
    auto decoded = decode_overlay_header(head);
    if (!decoded) {
      return fail("overlay={}: {}; name a file that does not exist yet, or an overlay", path,
                  decoded.error().message);
    }
    TRY(check_base(path, *decoded, base));
    if (size < decoded->file_bytes()) {
      return fail("overlay={}: is cut off: {} bytes instead of {}", path, size,
                  decoded->file_bytes());
    }
    layout = *std::move(decoded);
  }
  file.is_kept_ = true;
  file.data_offset_ = layout.data_offset;
  if (!is_new) TRY(file.load_map(path));
  return file;
}

// Holes are not read: a large empty map costs nothing.
Result<void> OverlayFile::load_map(const std::string& path) {
  const uint64_t end = kOverlayMapOffset + map_.bytes().size();
  uint64_t at = kOverlayMapOffset;
  while (at < end) {
    const off_t data = ::lseek(fd_.get(), static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;
    const uint64_t from = data < 0 ? at : std::max(at, static_cast<uint64_t>(data));
    if (from >= end) break;
    const off_t hole = data < 0 ? -1 : ::lseek(fd_.get(), data, SEEK_HOLE);
    const uint64_t to = hole < 0 ? end : std::min(end, static_cast<uint64_t>(hole));
    TRY(read_exactly(fd_, path, from, map_.bytes().data() + (from - kOverlayMapOffset), to - from));
    at = to;
  }
  // Bits beyond the disk would speak of nothing.
  for (uint64_t block = map_.blocks(); block < map_.bytes().size() * 8; ++block) {
    if (map_.has(block))
      return fail("overlay={}: is damaged (its map is larger than the disk)", path);
  }
  return {};
}

std::vector<OverlayFile::MapPage> OverlayFile::take_map_changes() {
  std::vector<MapPage> pages;
  for (const uint64_t index : map_.take_dirty_pages()) {
    const auto bytes = map_.bytes().subspan(index * BlockMap::kPageBytes, BlockMap::kPageBytes);
    pages.push_back({index, {bytes.begin(), bytes.end()}});
  }
  return pages;
}

int OverlayFile::write_map(IoEngine& engine, const std::vector<MapPage>& pages) {
  int os_error = 0;
  for (const MapPage& page : pages) {
    IoOp op;
    op.kind = IoOp::Kind::Write;
    op.fd = fd_.get();
    op.offset = kOverlayMapOffset + page.index * BlockMap::kPageBytes;
    op.bytes = page.bytes.size();
    op.parts.push_back({const_cast<std::byte*>(page.bytes.data()), page.bytes.size()});
    if (os_error == 0) os_error = engine.run(op);
    if (os_error != 0) map_.mark_dirty(page.index);
  }
  return os_error;
}

}  // namespace trapeze
