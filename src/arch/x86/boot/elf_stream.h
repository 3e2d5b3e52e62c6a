// ElfStreamLoader: takes an ELF kernel as a stream of bytes (from a decompressor) and puts each
// segment to its place in guest memory at once, so that no copy of the whole file is ever held.
// What lies between and behind the segments (symbols, the relocations that the kernel build
// appends) is dropped.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "arch/x86/boot/boot.h"
#include "arch/x86/boot/decompress.h"
#include "arch/x86/boot/placement.h"

namespace trapeze::boot {

class ElfStreamLoader final : public OutputSink {
 public:
  // Segments are claimed in `placement` before anything is written. All references must outlive
  // this object.
  ElfStreamLoader(GuestMemory& memory, Placement& placement, const BootConfig& config);

  Result<void> put(std::span<const std::byte> bytes) override;
  uint64_t limit_bytes() const override { return limit_bytes_; }

  // After the last byte: the image, when every segment has arrived in full. Clears the BSS unless
  // RAM is zero.
  Result<ElfImage> finish();

 private:
  // A run of file bytes that goes to guest memory.
  struct Route {
    FileExtent file;
    Gpa to;
    uint64_t end() const { return file.offset + file.size; }
  };
  Result<void> read_headers();
  Result<void> plan_routes();
  void route(std::span<const std::byte> bytes);

  GuestMemory& memory_;
  Placement& placement_;
  const BootConfig& config_;
  uint64_t limit_bytes_;

  // The first bytes of the file are held back until the program headers in them are known.
  std::vector<std::byte> head_;
  std::optional<ElfImage> elf_;

  std::vector<Route> routes_;  // by file offset, not overlapping
  size_t next_route_ = 0;
  uint64_t position_ = 0;  // in the file; everything before has been placed or dropped
};

}  // namespace trapeze::boot
