// ChainWalk: follows a descriptor chain and checks every rule about it. Private to virtio/queue.
#pragma once

#include <cstdint>

#include "memory/guest_memory.h"
#include "virtio/queue/chain.h"
#include "virtio/queue/queue_fault.h"
#include "virtio/queue/split_ring.h"

namespace trapeze {

class ChainWalk {
 public:
  ChainWalk(GuestMemory& memory, bool is_indirect_allowed, Chain& chain)
      : memory_(memory), chain_(chain), is_indirect_allowed_(is_indirect_allowed) {}

  // Fills the chain from the descriptor table of `size` entries at `table`.
  QueueFault walk(const std::byte* table, uint16_t size, uint16_t head);

 private:
  QueueFault walk_table(const std::byte* table, uint32_t size, uint32_t head, bool is_indirect);
  QueueFault walk_indirect(const split_ring::Descriptor& descriptor);
  QueueFault add(const split_ring::Descriptor& descriptor);

  GuestMemory& memory_;
  Chain& chain_;
  bool is_indirect_allowed_;
  uint32_t ttl_ = 0;  // descriptors that may still come; ends loops
};

}  // namespace trapeze
