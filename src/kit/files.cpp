#include "kit/files.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "base/fd.h"

namespace trapeze::kit {

Result<std::vector<std::byte>> read_file(const std::filesystem::path& path) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status {};
  if (!fd.is_open() || ::fstat(fd.get(), &status) != 0) {
    return fail_errno("cannot read {}", path.string());
  }
  std::vector<std::byte> content(static_cast<size_t>(status.st_size));
  size_t done = 0;
  while (done < content.size()) {
    const ssize_t size = ::read(fd.get(), content.data() + done, content.size() - done);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return fail_errno("cannot read {}", path.string());
    if (size == 0) return fail("{}: shrank while it was read", path.string());
    done += static_cast<size_t>(size);
  }
  return content;
}

Result<void> write_file(const std::filesystem::path& path, std::span<const std::byte> content) {
  const Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!fd.is_open()) return fail_errno("cannot create {}", path.string());
  while (!content.empty()) {
    const ssize_t size = ::write(fd.get(), content.data(), content.size());
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return fail_errno("cannot write {}", path.string());
    content = content.subspan(static_cast<size_t>(size));
  }
  return {};
}

}  // namespace trapeze::kit
