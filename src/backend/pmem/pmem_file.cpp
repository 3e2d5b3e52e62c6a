#include "backend/pmem/pmem_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/log.h"

namespace trapeze {
namespace {

Result<void> reserve_blocks(const ImageFile& image) {
  if (image.is_block_device) return {};
  if (::fallocate(image.fd.get(), 0, 0, static_cast<off_t>(image.size_bytes)) == 0) return {};
  if (errno == EOPNOTSUPP) {
    log(LogLevel::Warning,
        "{}: its file system cannot reserve blocks; when it is full, the machine will end",
        image.path);
    return {};
  }
  return fail_errno("{}: cannot reserve its {} MiB on the host", image.path,
                    image.size_bytes / MiB);
}

}  // namespace

Result<std::unique_ptr<PmemFile>> PmemFile::open(const std::string& path, ImageAccess access) {
  // Its content is the guest's: there is no format to mistake.
  ImageFile image = TRY(open_image(path, access, true));
  if (image.size_bytes % kAlignBytes != 0) {
    return fail(
        "{}: {} bytes is no multiple of 2 MiB, which a guest needs to map it. To fill it up: "
        "truncate -s %2M {}",
        path, image.size_bytes, path);
  }
  if (access == ImageAccess::ReadWrite) TRY(reserve_blocks(image));
  return std::unique_ptr<PmemFile>(new PmemFile(std::move(image), access));
}

bool PmemFile::flush() {
  if (access_ == ImageAccess::ReadOnly) return true;  // what the guest wrote is to be forgotten
  if (::fsync(image_.fd.get()) == 0) return true;
  // Once: a guest may try as often as it likes.
  if (!std::exchange(has_complained_, true)) {
    log(LogLevel::Error, "{}: cannot be flushed: {}; the guest sees an I/O error", image_.path,
        errno_text(errno));
  }
  return false;
}

}  // namespace trapeze
