// Guest RAM: one host mapping that mirrors the guest physical address space, so that host address =
// host_base + gpa for every RAM byte; the hole between the regions stays unmapped. So do 2 GiB on
// either side: an access that is off by any 32-bit displacement faults instead of hitting something
// of the host's.
//
// Threads: all members may be called from any thread once created. Bytes of guest RAM are shared
// with running vCPUs and change at any time: copy once, check the copy, use the copy.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include "base/fd.h"
#include "base/mapping.h"
#include "base/result.h"
#include "memory/guest_addr.h"

namespace trapeze {

// Told of every write that a device or the VMM makes to guest RAM (not of writes by vCPUs).
// The software engine drops translated code, a dirty log marks pages.
class WriteObserver {
 public:
  virtual ~WriteObserver() = default;
  virtual void guest_memory_written(GpaRange range) = 0;  // any thread
};

class GuestMemory {
 public:
  // RAM at the given ranges: page-aligned, ascending, not overlapping. Untouched memory costs
  // nothing.
  static Result<std::unique_ptr<GuestMemory>> create(std::span<const GpaRange> ram);

  std::span<const GpaRange> ram() const { return ram_; }
  uint64_t size_bytes() const;
  // First address above all RAM.
  Gpa end() const { return ram_.back().end(); }

  // Host address of [gpa, gpa+len) when all of it is RAM of one range, else nullptr.
  std::byte* host(Gpa gpa, uint64_t len) const;
  // Address that guest physical address 0 has, or would have, in this process.
  std::byte* host_base() const { return mapping_.data() + kGuardBytes; }
  // Inaccessible, below host_base() and above end().
  static constexpr size_t kGuardBytes = size_t{2} << 30;

  // Copies; false (and nothing copied) when a byte of the range is not RAM.
  bool read(Gpa gpa, std::span<std::byte> to) const;
  bool write(Gpa gpa, std::span<const std::byte> from);
  bool fill(Gpa gpa, std::byte value, uint64_t len);

  // Makes a range of RAM show the bytes of `file` from `offset` on, without copying them: pages
  // that nobody writes stay those of the page cache, shared with every other VM that has mapped
  // them. The file may be closed afterwards, but whoever writes or truncates it changes the guest's
  // memory: only for files that are replaced and never written in place. Before the VM runs.
  //
  // False, and nothing changed: the range is no RAM, something is no multiple of the page size, or
  // the host refuses; the caller copies then. RAM that other processes map (vhost-user) must refuse
  // too.
  bool map_file(Gpa gpa, const Fd& file, uint64_t offset, uint64_t len);

  template <typename T>
  requires std::is_trivially_copyable_v<T> std::optional<T> load(Gpa gpa)
  const {
    T value;
    const std::byte* from = host(gpa, sizeof(T));
    if (from == nullptr) return std::nullopt;
    std::memcpy(&value, from, sizeof(T));
    return value;
  }
  template <typename T>
  requires std::is_trivially_copyable_v<T>
  bool store(Gpa gpa, const T& value) {
    return write(gpa, std::as_bytes(std::span<const T, 1>(&value, 1)));
  }

  // Whoever writes through host() says so here, after the write.
  void mark_written(GpaRange range) {
    WriteObserver* observer = observer_.load(std::memory_order_acquire);
    if (observer != nullptr) observer->guest_memory_written(range);
  }
  // At most one; must outlive this object or be cleared with nullptr.
  void set_write_observer(WriteObserver* observer) {
    observer_.store(observer, std::memory_order_release);
  }

 private:
  GuestMemory(std::vector<GpaRange> ram, Mapping mapping)
      : ram_(std::move(ram)), mapping_(std::move(mapping)) {}

  std::vector<GpaRange> ram_;
  Mapping mapping_;
  std::atomic<WriteObserver*> observer_{nullptr};
};

}  // namespace trapeze
