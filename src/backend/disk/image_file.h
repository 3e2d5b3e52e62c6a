// ImageFile: an open, locked disk image or block device of the host.
#pragma once

#include <cstdint>
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace trapeze {

struct ImageFile {
  Fd fd;
  std::string path;
  uint64_t size_bytes = 0;
  bool is_block_device = false;
  int64_t mtime_s = 0;
  uint32_t mtime_ns = 0;
};

enum class ImageAccess : uint8_t { ReadOnly, ReadWrite };

// Opens it and locks it for as long as it is open (OFD locks: any number of readers, or one
// writer). Refuses what is no disk of whole sectors, and qcow2 and other formats unless
// `accept_any_format`. Messages name the path and say what to do.
Result<ImageFile> open_image(const std::string& path, ImageAccess access, bool accept_any_format);

// Locks a file as above; `path` is for the message.
Result<void> lock_image(const Fd& fd, const std::string& path, ImageAccess access);

// Reads all of `to`, or fails.
Result<void> read_exactly(const Fd& fd, const std::string& path, uint64_t offset, void* to,
                          uint64_t bytes);

}  // namespace trapeze
