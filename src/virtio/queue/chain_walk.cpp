#include "virtio/queue/chain_walk.h"

#include <algorithm>

namespace trapeze {

using split_ring::Descriptor;

namespace {

// An indirect table lets Linux build chains longer than a small queue; more parts than this no
// driver uses, and readv/writev take no more (UIO_MAXIOV).
constexpr uint32_t kMaxParts = 1024;
constexpr uint64_t kMaxChainBytes = 0xffff'ffff;  // what the used ring's `len` can express

}  // namespace

QueueFault ChainWalk::walk(const std::byte* table, uint16_t size, uint16_t head) {
  chain_.clear();
  chain_.head_ = head;
  ttl_ = std::max<uint32_t>(size, kMaxParts);
  const QueueFault fault = walk_table(table, size, head, false);
  if (fault != QueueFault::None) chain_.clear();
  return fault;
}

QueueFault ChainWalk::walk_table(const std::byte* table, uint32_t size, uint32_t head,
                                 bool is_indirect) {
  // Within one table more steps than entries mean a loop; ttl_ bounds both tables together.
  for (uint32_t steps = 0, index = head; steps < size && ttl_ > 0; ++steps, --ttl_) {
    const Descriptor descriptor =
        split_ring::load_descriptor(table + uint64_t{index} * sizeof(Descriptor));
    const bool has_next = (descriptor.flags & split_ring::kDescNext) != 0;
    if ((descriptor.flags & split_ring::kDescIndirect) != 0) {
      // §2.7.5.3.1: only negotiated, not nested, and as the last of its chain.
      if (is_indirect || has_next || !is_indirect_allowed_) return QueueFault::IndirectNotAllowed;
      return walk_indirect(descriptor);
    }
    const QueueFault fault = add(descriptor);
    if (fault != QueueFault::None) return fault;
    if (!has_next) return QueueFault::None;
    if (descriptor.next >= size) return QueueFault::NextOutOfRange;
    index = descriptor.next;
  }
  return QueueFault::ChainTooLong;
}

QueueFault ChainWalk::walk_indirect(const Descriptor& descriptor) {
  if (descriptor.len == 0 || descriptor.len % sizeof(Descriptor) != 0) {
    return QueueFault::BadIndirectTable;
  }
  const std::byte* table = memory_.host(Gpa{descriptor.addr}, descriptor.len);
  const auto entries = static_cast<uint32_t>(descriptor.len / sizeof(Descriptor));
  // `next` has 16 bits, so a larger table makes no sense.
  if (table == nullptr || entries > 65536) return QueueFault::BadIndirectTable;
  return walk_table(table, entries, 0, true);
}

QueueFault ChainWalk::add(const Descriptor& descriptor) {
  const bool is_writable = (descriptor.flags & split_ring::kDescWrite) != 0;
  if (!is_writable && chain_.writable_bytes_ > 0) return QueueFault::WritableFirst;
  if (descriptor.len == 0) return QueueFault::None;  // not forbidden, and there is nothing in it
  std::byte* host = memory_.host(Gpa{descriptor.addr}, descriptor.len);
  if (host == nullptr) return QueueFault::BufferOutsideRam;
  const uint64_t total = chain_.readable_bytes_ + chain_.writable_bytes_ + descriptor.len;
  if (total > kMaxChainBytes) return QueueFault::ChainTooManyBytes;
  if (is_writable) {
    chain_.writable_.push_back({host, descriptor.len});
    chain_.writable_bytes_ += descriptor.len;
  } else {
    chain_.readable_.push_back({host, descriptor.len});
    chain_.readable_bytes_ += descriptor.len;
  }
  return QueueFault::None;
}

}  // namespace trapeze
