#include "backend/disk/image_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>

#include "base/log.h"
#include "base/units.h"

namespace trapeze {
namespace {

constexpr uint64_t kSector = 512;
// Offsets are signed for the host, and the guest counts sectors.
constexpr uint64_t kMaxImageBytes = uint64_t{1} << 62;

struct Format {
  std::string_view magic;
  uint64_t offset;
  const char* name;
};
constexpr std::array<Format, 5> kFormats = {
    Format{{"QFI\xfb", 4}, 0, "qcow2"}, Format{"KDMV", 0, "VMDK"}, Format{"vhdxfile", 0, "VHDX"},
    Format{"conectix", 0, "VHD"}, Format{"<<< Oracle VM VirtualBox Disk Image >>>", 0, "VDI"}};

Result<void> refuse_other_formats(const ImageFile& image) {
  std::array<char, 64> head{};
  const uint64_t bytes = std::min<uint64_t>(head.size(), image.size_bytes);
  TRY(read_exactly(image.fd, image.path, 0, head.data(), bytes));
  for (const Format& format : kFormats) {
    if (std::string_view(head.data(), head.size())
            .substr(format.offset)
            .starts_with(format.magic)) {
      return fail(
          "{}: looks like a {} image, and only raw images are supported. Convert it with: "
          "qemu-img convert -O raw {} OUTPUT (if it is raw all the same, add format=raw)",
          image.path, format.name, image.path);
    }
  }
  return {};
}

Result<void> measure(ImageFile& image) {
  struct stat info {};
  if (::fstat(image.fd.get(), &info) != 0) return fail_errno("{}", image.path);
  image.mtime_s = info.st_mtim.tv_sec;
  image.mtime_ns = static_cast<uint32_t>(info.st_mtim.tv_nsec);
  if (S_ISBLK(info.st_mode)) {
    image.is_block_device = true;
    if (::ioctl(image.fd.get(), BLKGETSIZE64, &image.size_bytes) != 0) {
      return fail_errno("{}: cannot get the size of the block device", image.path);
    }
  } else if (S_ISREG(info.st_mode)) {
    image.size_bytes = static_cast<uint64_t>(info.st_size);
  } else {
    return fail("{}: is {}; a disk is an image file or a block device", image.path,
                S_ISDIR(info.st_mode) ? "a folder" : "neither a file nor a block device");
  }
  if (image.size_bytes == 0) {
    return fail(
        "{}: is empty; make it as large as the disk shall be, for example: truncate -s 1G {}",
        image.path, image.path);
  }
  if (image.size_bytes % kSector != 0) {
    return fail(
        "{}: {} bytes is no whole number of sectors (512 bytes). Is it complete? To fill up the "
        "last sector: truncate -s %512 {}",
        image.path, image.size_bytes, image.path);
  }
  if (image.size_bytes > kMaxImageBytes) {
    return fail("{}: {} bytes is more than a disk can have", image.path, image.size_bytes);
  }
  return {};
}

}  // namespace

Result<void> lock_image(const Fd& fd, const std::string& path, ImageAccess access) {
  struct flock lock {};
  lock.l_type = access == ImageAccess::ReadWrite ? F_WRLCK : F_RDLCK;
  lock.l_whence = SEEK_SET;  // from 0 with length 0: all of it, however it grows
  if (::fcntl(fd.get(), F_OFD_SETLK, &lock) == 0) return {};
  if (errno != EAGAIN && errno != EACCES) {
    log(LogLevel::Warning, "{}: cannot be locked here ({}): take care that nobody else uses it",
        path, errno_text(errno));
    return {};
  }
  if (access == ImageAccess::ReadOnly) {
    return fail("{}: in use: another virtual machine writes to it", path);
  }
  return fail(
      "{}: in use by another virtual machine, or twice by this one; two cannot write to one image. "
      "Use a copy, overlay=tmp for a throw-away layer on it, or ro for all of them",
      path);
}

Result<void> read_exactly(const Fd& fd, const std::string& path, uint64_t offset, void* to,
                          uint64_t bytes) {
  auto* next = static_cast<char*>(to);
  while (bytes > 0) {
    const ssize_t got = ::pread(fd.get(), next, bytes, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno("cannot read {}", path);
    if (got == 0) return fail("{}: ends at byte {}, too early", path, offset);
    next += got;
    offset += static_cast<uint64_t>(got);
    bytes -= static_cast<uint64_t>(got);
  }
  return {};
}

Result<ImageFile> open_image(const std::string& path, ImageAccess access, bool accept_any_format) {
  ImageFile image;
  image.path = path;
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return fail_errno("{}", path);
  const bool is_writing = access == ImageAccess::ReadWrite;
  int flags = O_CLOEXEC | O_NOCTTY | O_NONBLOCK | (is_writing ? O_RDWR : O_RDONLY);
  // The kernel then refuses devices that are mounted or otherwise in use.
  if (is_writing && S_ISBLK(info.st_mode)) flags |= O_EXCL;
  if (!S_ISDIR(info.st_mode)) image.fd = Fd(::open(path.c_str(), flags));
  if (S_ISDIR(info.st_mode)) {
    return fail("{}: is a folder; a disk is an image file or a block device", path);
  }
  if (!image.fd.is_open()) {
    if (is_writing && (errno == EACCES || errno == EROFS || errno == EPERM)) {
      return fail_errno("{}: cannot be opened for writing (add ro, or overlay=tmp)", path);
    }
    if (errno == EBUSY) return fail("{}: the device is in use (mounted?)", path);
    return fail_errno("{}", path);
  }
  TRY(measure(image));
  TRY(lock_image(image.fd, path, access));
  if (!accept_any_format) TRY(refuse_other_formats(image));
  return image;
}

}  // namespace trapeze
