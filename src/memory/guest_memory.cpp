#include "memory/guest_memory.h"

#include <sys/mman.h>

#include "base/units.h"

namespace trapeze {

Result<std::unique_ptr<GuestMemory>> GuestMemory::create(std::span<const GpaRange> ram) {
  if (ram.empty()) return fail("a virtual machine needs at least one range of RAM");
  Gpa previous_end;
  for (const GpaRange& range : ram) {
    CHECK(range.start >= previous_end && range.size > 0);
    CHECK(range.start.raw() % kPageSize == 0 && range.size % kPageSize == 0);
    previous_end = range.end();
  }
  Mapping mapping =
      TRY(Mapping::create(previous_end.raw() + 2 * kGuardBytes, PROT_NONE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0, "guest memory"));
  for (const GpaRange& range : ram) {
    std::byte* const start = mapping.data() + kGuardBytes + range.start.raw();
    if (::mprotect(start, range.size, PROT_READ | PROT_WRITE) != 0) {
      return fail_errno("cannot make {} bytes of guest memory accessible", range.size);
    }
  }
  // Guest RAM in a core dump would be huge, and is not ours to show.
  ::madvise(mapping.data(), mapping.size(), MADV_DONTDUMP);
  return std::unique_ptr<GuestMemory>(
      new GuestMemory({ram.begin(), ram.end()}, std::move(mapping)));
}

uint64_t GuestMemory::size_bytes() const {
  uint64_t total = 0;
  for (const GpaRange& range : ram_) total += range.size;
  return total;
}

std::byte* GuestMemory::host(Gpa gpa, uint64_t len) const {
  for (const GpaRange& range : ram_) {
    if (range.contains(gpa, len)) return host_base() + gpa.raw();
  }
  return nullptr;
}

bool GuestMemory::read(Gpa gpa, std::span<std::byte> to) const {
  const std::byte* from = host(gpa, to.size());
  if (from == nullptr) return false;
  if (!to.empty()) std::memcpy(to.data(), from, to.size());  // an empty span may have no address
  return true;
}

bool GuestMemory::write(Gpa gpa, std::span<const std::byte> from) {
  std::byte* to = host(gpa, from.size());
  if (to == nullptr) return false;
  if (!from.empty()) std::memcpy(to, from.data(), from.size());
  mark_written({gpa, from.size()});
  return true;
}

bool GuestMemory::map_file(Gpa gpa, const Fd& file, uint64_t offset, uint64_t len) {
  std::byte* const to = host(gpa, len);
  if (to == nullptr || len == 0) return false;
  if (gpa.raw() % kPageSize != 0 || offset % kPageSize != 0 || len % kPageSize != 0) return false;
  void* const mapped =
      ::mmap(to, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, file.get(),
             static_cast<off_t>(offset));
  if (mapped == MAP_FAILED) return false;
  ::madvise(to, len, MADV_DONTDUMP);
  mark_written({gpa, len});
  return true;
}

bool GuestMemory::fill(Gpa gpa, std::byte value, uint64_t len) {
  std::byte* to = host(gpa, len);
  if (to == nullptr) return false;
  std::memset(to, static_cast<int>(value), len);
  mark_written({gpa, len});
  return true;
}

}  // namespace trapeze
