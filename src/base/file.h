// FileBytes: the content of a whole file, for kernels, initial RAM disks and the like. A regular
// file is mapped (private, read-only), so that only what is looked at costs memory; pipes and
// files of unknown size are read. Whoever truncates the file meanwhile takes the reader down with
// SIGBUS: use it for the administrator's files and let go of it soon.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/mapping.h"
#include "base/result.h"

namespace trapeze {

class FileBytes {
 public:
  FileBytes() = default;
  // Errors name the path: not readable, a directory, or longer than `limit_bytes`.
  static Result<FileBytes> open(const std::string& path, uint64_t limit_bytes);

  // Valid as long as this object (moving it is fine).
  std::span<const std::byte> bytes() const {
    return mapping_.size() != 0 ? std::span<const std::byte>(mapping_.bytes()) : read_;
  }

  // The file behind bytes(), offset for offset, for who maps parts of it elsewhere; nullptr when it
  // was read and not mapped. Valid as long as this object stays where it is.
  const Fd* file() const { return mapping_.size() != 0 ? &fd_ : nullptr; }

 private:
  Fd fd_;  // open while mapping_ is there
  Mapping mapping_;
  std::vector<std::byte> read_;
};

}  // namespace trapeze
