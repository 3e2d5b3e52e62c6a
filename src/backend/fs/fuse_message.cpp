#include "backend/fs/fuse_message.h"

#include <algorithm>

namespace trapeze {
namespace {

// Calls `visit` with each contiguous piece of [offset, offset + bytes).
template <typename Visit>
void for_each_piece(std::span<const iovec> parts, uint64_t offset, uint64_t bytes, Visit&& visit) {
  for (const iovec& part : parts) {
    if (bytes == 0) return;
    if (offset >= part.iov_len) {
      offset -= part.iov_len;
      continue;
    }
    const uint64_t step = std::min<uint64_t>(part.iov_len - offset, bytes);
    visit(static_cast<std::byte*>(part.iov_base) + offset, static_cast<size_t>(step));
    bytes -= step;
    offset = 0;
  }
}

}  // namespace

uint64_t total_bytes(std::span<const iovec> parts) {
  uint64_t total = 0;
  for (const iovec& part : parts) total += part.iov_len;
  return total;
}

size_t copy_out(std::span<const iovec> from, uint64_t offset, std::span<std::byte> to) {
  size_t done = 0;
  for_each_piece(from, offset, to.size(), [&](const std::byte* at, size_t bytes) {
    std::memcpy(to.data() + done, at, bytes);
    done += bytes;
  });
  // The copy is the only look: the compiler must not go back to guest memory for it.
  asm volatile("" ::: "memory");
  return done;
}

size_t copy_in(std::span<const iovec> to, uint64_t offset, std::span<const std::byte> from) {
  size_t done = 0;
  for_each_piece(to, offset, from.size(), [&](std::byte* at, size_t bytes) {
    std::memcpy(at, from.data() + done, bytes);
    done += bytes;
  });
  return done;
}

void slice(std::span<const iovec> parts, uint64_t offset, uint64_t bytes, std::vector<iovec>& to) {
  to.clear();
  for_each_piece(parts, offset, bytes, [&](std::byte* at, size_t count) {
    to.push_back({at, count});
  });
}

std::optional<std::string> FuseArguments::take_name() {
  const auto* begin = reinterpret_cast<const char*>(left_.data());
  const void* end = left_.empty() ? nullptr : std::memchr(begin, 0, left_.size());
  if (end == nullptr) return std::nullopt;
  const auto bytes = static_cast<size_t>(static_cast<const char*>(end) - begin);
  left_ = left_.subspan(bytes + 1);
  return std::string(begin, bytes);
}

std::optional<std::span<const std::byte>> FuseArguments::take_bytes(size_t bytes) {
  if (left_.size() < bytes) return std::nullopt;
  const auto taken = left_.first(bytes);
  left_ = left_.subspan(bytes);
  return taken;
}

}  // namespace trapeze
