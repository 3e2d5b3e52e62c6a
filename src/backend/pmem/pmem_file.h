// PmemFile: a file of the host as persistent memory of a guest. Opened and locked as disk images
// are (any number of readers, or one writer).
//
// A file that the guest writes to gets all its blocks when it is opened: a store of the guest into
// a hole of a sparse file, with the disk full, would be a SIGBUS that no guest could be told of.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "backend/disk/image_file.h"
#include "base/result.h"
#include "base/units.h"
#include "virtio/pmem/backing.h"

namespace trapeze {

class PmemFile final : public PmemBacking {
 public:
  // What Linux wants of memory that it gets at run time (a subsection, mm/sparse.c).
  static constexpr uint64_t kAlignBytes = 2 * MiB;

  // ReadOnly: the file stays as it is.
  static Result<std::unique_ptr<PmemFile>> open(const std::string& path, ImageAccess access);

  const Fd& fd() const { return image_.fd; }
  uint64_t size_bytes() const { return image_.size_bytes; }
  ImageAccess access() const { return access_; }
  bool flush() override;

 private:
  PmemFile(ImageFile image, ImageAccess access) : image_(std::move(image)), access_(access) {}

  ImageFile image_;
  const ImageAccess access_;
  bool has_complained_ = false;
};

}  // namespace trapeze
