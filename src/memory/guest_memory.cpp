#include "memory/guest_memory.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>

#include "base/units.h"

namespace trapeze {
namespace {

constexpr uint64_t kHugePageSize = 2 * MiB;

// As long as the guest's address space; holes cost nothing.
Result<Fd> create_shared_file(uint64_t size_bytes) {
  Fd file(::memfd_create("guest-memory", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!file.is_open() || ::ftruncate(file.get(), static_cast<off_t>(size_bytes)) != 0 ||
      ::fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return fail_errno("cannot make a file of {} bytes for shared guest memory", size_bytes);
  }
  return file;
}

bool make_accessible(std::byte* start, const GpaRange& range, const Fd& file) {
  if (!file.is_open()) return ::mprotect(start, range.size, PROT_READ | PROT_WRITE) == 0;
  return ::mmap(start, range.size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE,
                file.get(), static_cast<off_t>(range.start.raw())) != MAP_FAILED;
}

}  // namespace

Result<std::unique_ptr<GuestMemory>> GuestMemory::create(std::span<const GpaRange> ram, Gpa top,
                                                         Backing backing) {
  if (ram.empty()) return fail("a virtual machine needs at least one range of RAM");
  Gpa previous_end;
  for (const GpaRange& range : ram) {
    CHECK(range.start >= previous_end && range.size > 0);
    CHECK(range.start.raw() % kPageSize == 0 && range.size % kPageSize == 0);
    previous_end = range.end();
  }
  const uint64_t mapped_bytes =
      std::max(previous_end, top).raw() + 2 * kGuardBytes + kHugePageSize;
  Mapping mapping = TRY(Mapping::create(
      mapped_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0, "guest memory"));
  Fd file;
  if (backing == Backing::Shared) file = TRY(create_shared_file(previous_end.raw()));
  for (const GpaRange& range : ram) {
    std::byte* const start = base_of(mapping) + range.start.raw();
    if (!make_accessible(start, range, file)) {
      return fail_errno("cannot make {} bytes of guest memory accessible", range.size);
    }
  }
  // Guest RAM in a core dump would be huge, and is not ours to show.
  ::madvise(mapping.data(), mapping.size(), MADV_DONTDUMP);
  // Fewer page walks, on hardware in two dimensions. A host that has none to give does without.
  if (backing == Backing::Private) ::madvise(mapping.data(), mapping.size(), MADV_HUGEPAGE);
  return std::unique_ptr<GuestMemory>(
      new GuestMemory({ram.begin(), ram.end()}, std::move(mapping), std::move(file)));
}

// Huge pages want guest physical and host addresses to be alike, modulo their size.
std::byte* GuestMemory::base_of(const Mapping& mapping) {
  const auto start = reinterpret_cast<uintptr_t>(mapping.data());
  return mapping.data() + (align_up(start + kGuardBytes, kHugePageSize) - start);
}

uint64_t GuestMemory::size_bytes() const {
  uint64_t total = 0;
  for (const GpaRange& range : ram()) total += range.size;
  return total;
}

uint64_t GuestMemory::file_bytes() const {
  uint64_t total = 0;
  for (const GpaRange& range : regions().subspan(ram_count_)) total += range.size;
  return total;
}

Result<void> GuestMemory::add_file(GpaRange range, const Fd& file, FileSharing sharing) {
  CHECK(range.start >= top() && range.size > 0);
  CHECK(range.start.raw() % kPageSize == 0 && range.size % kPageSize == 0);
  CHECK(range.end().raw() + 2 * kGuardBytes + kHugePageSize <= mapping_.size());
  const int flags = sharing == FileSharing::Shared ? MAP_SHARED : MAP_PRIVATE | MAP_NORESERVE;
  std::byte* const to = host_base() + range.start.raw();
  if (::mmap(to, range.size, PROT_READ | PROT_WRITE, MAP_FIXED | flags, file.get(), 0) ==
      MAP_FAILED) {
    return fail_errno("cannot map {} bytes of a file into guest memory", range.size);
  }
  ::madvise(to, range.size, MADV_DONTDUMP);
  regions_.push_back(range);
  return {};
}

bool GuestMemory::is_ram(GpaRange range) const {
  return std::any_of(ram().begin(), ram().end(),
                     [&](const GpaRange& ram) { return ram.contains(range.start, range.size); });
}

std::byte* GuestMemory::host(Gpa gpa, uint64_t len) const {
  for (const GpaRange& range : regions_) {
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
  if (to == nullptr || len == 0 || file_.is_open() || !is_ram({gpa, len})) return false;
  if (gpa.raw() % kPageSize != 0 || offset % kPageSize != 0 || len % kPageSize != 0) return false;
  void* const mapped =
      ::mmap(to, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, file.get(),
             static_cast<off_t>(offset));
  if (mapped == MAP_FAILED) return false;
  ::madvise(to, len, MADV_DONTDUMP);
  files_.push_back({gpa, len});
  mark_written({gpa, len});
  return true;
}

bool GuestMemory::touches_file(GpaRange range) const {
  return std::any_of(files_.begin(), files_.end(), [&](const GpaRange& file) {
    return range.start < file.end() && file.start < range.end();
  });
}

bool GuestMemory::give_back(GpaRange range) {
  std::byte* const start = host(range.start, range.size);
  const bool is_whole = range.start.raw() % kPageSize == 0 && range.size % kPageSize == 0;
  if (start == nullptr || !is_whole || range.size == 0 || !is_ram(range)) return false;
  if (touches_file(range)) {
    // Dropped pages of a mapped file would show the file again.
    void* const fresh = ::mmap(start, range.size, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    if (fresh == MAP_FAILED) return false;
    ::madvise(start, range.size, MADV_DONTDUMP);
    ::madvise(start, range.size, MADV_HUGEPAGE);
  } else if (::madvise(start, range.size, file_.is_open() ? MADV_REMOVE : MADV_DONTNEED) != 0) {
    return false;
  }
  mark_written(range);
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
