#include "arch/x86/boot/elf_stream.h"

#include <algorithm>

#include "base/units.h"

namespace trapeze::boot {
namespace {

// Symbols and relocations that follow the segments may exceed a small guest's RAM a little.
constexpr uint64_t kDroppedBytesAllowance = 32 * MiB;
// The ELF header and the program headers must lie in this many first bytes.
constexpr size_t kHeadBytes = kPageSize;

}  // namespace

ElfStreamLoader::ElfStreamLoader(GuestMemory& memory, Placement& placement,
                                 const BootConfig& config)
    : memory_(memory),
      placement_(placement),
      config_(config),
      limit_bytes_(memory.size_bytes() + kDroppedBytesAllowance) {}

Result<void> ElfStreamLoader::put(std::span<const std::byte> bytes) {
  if (bytes.size() > limit_bytes_ - position_ - head_.size()) {
    return fail(
        "{}: the kernel unpacks to more than {} MiB, which does not fit into the memory "
        "of the virtual machine",
        config_.kernel_name, limit_bytes_ / MiB);
  }
  if (!elf_) {
    const size_t missing = std::min(kHeadBytes - head_.size(), bytes.size());
    head_.insert(head_.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(missing));
    bytes = bytes.subspan(missing);
    if (head_.size() < kHeadBytes) return {};
    TRY(read_headers());
  }
  route(bytes);
  return {};
}

Result<void> ElfStreamLoader::read_headers() {
  elf_ = TRY(parse_elf(head_, config_.kernel_name));
  TRY(placement_.claim_segments(*elf_));
  TRY(plan_routes());
  route(head_);
  head_.clear();
  return {};
}

Result<void> ElfStreamLoader::plan_routes() {
  for (const ElfSegment& segment : elf_->segments) {
    if (segment.file.size != 0) routes_.push_back({segment.file, segment.memory.start});
  }
  std::sort(routes_.begin(), routes_.end(), [](const Route& left, const Route& right) {
    return left.file.offset < right.file.offset;
  });
  for (size_t i = 1; i < routes_.size(); ++i) {
    if (routes_[i].file.offset < routes_[i - 1].end()) {
      return fail("{}: ELF segments overlap in the file", config_.kernel_name);
    }
  }
  return {};
}

void ElfStreamLoader::route(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    if (next_route_ == routes_.size()) {
      position_ += bytes.size();
      return;
    }
    const Route& route = routes_[next_route_];
    const bool inside = position_ >= route.file.offset;
    const uint64_t end = inside ? route.end() : route.file.offset;
    const auto part = bytes.first(std::min<uint64_t>(bytes.size(), end - position_));
    if (inside) {
      copy_to_ram(memory_, route.to + (position_ - route.file.offset), part, config_.ram_is_zero);
    }
    position_ += part.size();
    bytes = bytes.subspan(part.size());
    if (position_ == route.end()) ++next_route_;
  }
}

Result<ElfImage> ElfStreamLoader::finish() {
  if (!elf_) TRY(read_headers());
  if (next_route_ < routes_.size()) {
    return fail("{}: the kernel inside is truncated: it ends at byte {}, a segment at {}",
                config_.kernel_name, position_, routes_.back().end());
  }
  if (!config_.ram_is_zero) clear_bss(*elf_, memory_);
  return std::move(*elf_);
}

}  // namespace trapeze::boot
