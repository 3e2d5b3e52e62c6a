#include "base/file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "base/units.h"

namespace trapeze {
namespace {

Result<std::vector<std::byte>> read_all(const Fd& fd, const std::string& path,
                                        uint64_t limit_bytes) {
  std::vector<std::byte> all;
  std::vector<std::byte> chunk(64 * KiB);
  for (;;) {
    const ssize_t got = ::read(fd.get(), chunk.data(), chunk.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno("cannot read {}", path);
    if (got == 0) return all;
    if (static_cast<uint64_t>(got) > limit_bytes - all.size()) {
      return fail("{}: longer than {} bytes", path, limit_bytes);
    }
    all.insert(all.end(), chunk.begin(), chunk.begin() + got);
  }
}

}  // namespace

Result<FileBytes> FileBytes::open(const std::string& path, uint64_t limit_bytes) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.is_open()) return fail_errno("cannot open {}", path);
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return fail_errno("cannot look at {}", path);
  if (S_ISDIR(info.st_mode)) return fail("{}: is a directory, not a file", path);

  FileBytes file;
  if (S_ISREG(info.st_mode) && info.st_size > 0) {
    const auto size = static_cast<uint64_t>(info.st_size);
    if (size > limit_bytes) {
      return fail("{}: {} bytes is longer than the limit of {} bytes", path, size, limit_bytes);
    }
    file.mapping_ = TRY(Mapping::create(size, PROT_READ, MAP_PRIVATE, fd.get(), 0, path.c_str()));
    file.fd_ = std::move(fd);
  } else {
    file.read_ = TRY(read_all(fd, path, limit_bytes));
  }
  return file;
}

}  // namespace trapeze
