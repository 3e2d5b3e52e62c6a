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
  // nothing. Private RAM asks for transparent huge pages, aligned in the guest as in the host.
  // Files may be added up to `top`.
  // Shared: other processes can be given it (shared_file()); costs huge pages and map_file().
  enum class Backing : uint8_t { Private, Shared };
  static Result<std::unique_ptr<GuestMemory>> create(std::span<const GpaRange> ram, Gpa top = {},
                                                     Backing backing = Backing::Private);
  static Result<std::unique_ptr<GuestMemory>> create(std::span<const GpaRange> ram,
                                                     Backing backing) {
    return create(ram, Gpa{}, backing);
  }

  // What the guest has as memory besides: a file, page-aligned, above everything so far. To vCPUs
  // and devices it is like RAM; ram(), end() and size_bytes() leave it out. Before any accelerator
  // sees this object. Shared: the guest's writes are writes to the file.
  enum class FileSharing : uint8_t { Shared, CopyOnWrite };
  Result<void> add_file(GpaRange range, const Fd& file, FileSharing sharing);

  std::span<const GpaRange> ram() const { return std::span(regions_).first(ram_count_); }
  uint64_t size_bytes() const;
  // First address above all RAM.
  Gpa end() const { return ram().back().end(); }

  // RAM, then files.
  std::span<const GpaRange> regions() const { return regions_; }
  uint64_t file_bytes() const;
  Gpa top() const { return regions_.back().end(); }

  // Host address of [gpa, gpa+len) when all of it is memory of one region, else nullptr.
  std::byte* host(Gpa gpa, uint64_t len) const;
  // Address that guest physical address 0 has, or would have, in this process.
  std::byte* host_base() const { return base_of(mapping_); }
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
  // False, and nothing changed: the range is no RAM, something is no multiple of the page size, the
  // host refuses, or the RAM is shared (who else maps it would not see the file); the caller copies
  // then.
  bool map_file(Gpa gpa, const Fd& file, uint64_t offset, uint64_t len);

  // Gives the host's memory behind a range of RAM back: it reads as zeroes, and costs memory again
  // when somebody writes there. While the VM runs: host addresses stay valid, so TLBs need nothing.
  // False, and nothing changed: it is no RAM, or not whole pages.
  bool give_back(GpaRange range);

  // Shared RAM: the file behind it, in which the byte at guest physical address n has offset n.
  // Sealed: whoever gets it cannot make it shorter, which would take this process down with SIGBUS.
  // nullptr when the RAM is private.
  const Fd* shared_file() const { return file_.is_open() ? &file_ : nullptr; }

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
  static std::byte* base_of(const Mapping& mapping);
  GuestMemory(std::vector<GpaRange> ram, Mapping mapping, Fd file)
      : regions_(std::move(ram)),
        ram_count_(regions_.size()),
        mapping_(std::move(mapping)),
        file_(std::move(file)) {}

  bool touches_file(GpaRange range) const;

  bool is_ram(GpaRange range) const;

  std::vector<GpaRange> regions_;
  size_t ram_count_;
  std::vector<GpaRange> files_;  // by map_file(); fixed once the VM runs
  Mapping mapping_;
  std::atomic<WriteObserver*> observer_{nullptr};
  Fd file_;  // of shared RAM
};

}  // namespace trapeze
