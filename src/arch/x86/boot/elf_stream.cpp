#include "arch/x86/boot/elf_stream.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace trapeze::boot {
namespace {

// Symbols and relocations that follow the segments may exceed a small guest's RAM a little.
constexpr uint64_t kDroppedBytesAllowance = 32 * MiB;
constexpr size_t kDropBufferBytes = 64 * KiB;

}  // namespace

ElfStreamLoader::ElfStreamLoader(GuestMemory& memory, Placement& placement, std::string_view name)
    : memory_(memory),
      placement_(placement),
      name_(name),
      limit_bytes_(memory.size_bytes() + kDroppedBytesAllowance),
      dropped_(kDropBufferBytes) {}

Result<std::span<std::byte>> ElfStreamLoader::room() {
  if (!elf_) return std::span(head_).subspan(head_bytes_);
  if (position_ >= limit_bytes_) {
    return fail(
        "{}: the kernel unpacks to more than {} MiB, which does not fit into the memory "
        "of the virtual machine",
        name_, limit_bytes_ / MiB);
  }
  uint64_t gap_end = limit_bytes_;
  if (next_route_ < routes_.size()) {
    const Route& route = routes_[next_route_];
    if (position_ >= route.file.offset) {
      const uint64_t left = route.end() - position_;
      std::byte* to = memory_.host(route.to + (position_ - route.file.offset), left);
      CHECK(to != nullptr);  // the segment was claimed
      return std::span(to, left);
    }
    gap_end = std::min(gap_end, route.file.offset);
  }
  return std::span(dropped_).first(std::min<uint64_t>(dropped_.size(), gap_end - position_));
}

Result<void> ElfStreamLoader::advance(size_t size) {
  if (!elf_) {
    head_bytes_ += size;
    CHECK(head_bytes_ <= head_.size());
    return head_bytes_ == head_.size() ? read_headers() : Result<void>();
  }
  position_ += size;
  if (next_route_ < routes_.size() && position_ >= routes_[next_route_].end()) {
    const Route& done = routes_[next_route_];
    memory_.mark_written({done.to, done.file.size});
    ++next_route_;
  }
  return {};
}

Result<void> ElfStreamLoader::read_headers() {
  const auto head = std::span<const std::byte>(head_).first(head_bytes_);
  elf_ = TRY(parse_elf(head, name_));
  TRY(placement_.claim_segments(*elf_));
  TRY(plan_routes());
  for (size_t done = 0; done < head.size();) {
    const std::span<std::byte> to = TRY(room());
    const size_t size = std::min(to.size(), head.size() - done);
    std::memcpy(to.data(), head.data() + done, size);
    TRY(advance(size));
    done += size;
  }
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
      return fail("{}: ELF segments overlap in the file", name_);
    }
  }
  return {};
}

Result<ElfImage> ElfStreamLoader::finish() {
  if (!elf_) TRY(read_headers());
  if (next_route_ < routes_.size()) {
    return fail("{}: the kernel inside is truncated: it ends at byte {}, a segment at {}", name_,
                position_, routes_.back().end());
  }
  return std::move(*elf_);
}

}  // namespace trapeze::boot
