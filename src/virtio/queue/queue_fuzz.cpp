// Any memory, any addresses, any order of calls: a queue may break, but everything that it hands
// out lies in RAM, and it never takes more than the ring holds.
#include <memory>

#include "virtio/queue/fuzz_input.h"
#include "virtio/queue/iov.h"
#include "virtio/queue/test_driver.h"

namespace trapeze {
namespace {

constexpr uint64_t kRamBytes = 64 * KiB;

std::unique_ptr<GuestMemory> make_ram() {
  const std::array<GpaRange, 2> ram{GpaRange{Gpa{0}, kRamBytes},
                                    GpaRange{Gpa{2 * kRamBytes}, kPageSize}};
  return std::move(GuestMemory::create(ram)).value();
}

void check_parts(const GuestMemory& memory, std::span<const iovec> parts, uint64_t total) {
  uint64_t sum = 0;
  for (const iovec& part : parts) {
    const auto offset =
        static_cast<uint64_t>(static_cast<std::byte*>(part.iov_base) - memory.host_base());
    CHECK(part.iov_len > 0);
    CHECK(memory.host(Gpa{offset}, part.iov_len) == part.iov_base);
    sum += part.iov_len;
  }
  CHECK(sum == total);
}

void exercise(GuestMemory& memory, VirtQueue& queue, FuzzInput& input) {
  Chain chain;
  bool has_chain = false;
  uint32_t in_flight = 0;
  std::array<std::byte, 256> buffer{};
  for (int step = 0; step < 200 && !input.is_empty(); ++step) {
    switch (input.below(9)) {
      case 0:
      case 1:
        has_chain = queue.pop(chain);
        if (!has_chain) break;
        CHECK(++in_flight <= queue.size());
        check_parts(memory, chain.readable(), chain.readable_bytes());
        check_parts(memory, chain.writable(), chain.writable_bytes());
        break;
      case 2:
        if (!has_chain) break;
        CHECK(ChainReader(chain).read(buffer) <= buffer.size());
        break;
      case 3:
        if (has_chain) ChainWriter(chain).write(buffer);
        break;
      case 4:
        if (!has_chain) break;
        queue.push_used(chain, input.take<uint64_t>());
        has_chain = false;
        --in_flight;
        break;
      case 5:
        if (!has_chain) break;
        queue.undo_pop();
        has_chain = false;
        --in_flight;
        break;
      case 6: {
        // The guest writes somewhere: avail.idx, a descriptor, its own tables.
        const Gpa at{input.below(kRamBytes - 64)};
        memory.write(at, std::as_bytes(input.take_bytes(input.below(32))));
        break;
      }
      case 7:
        queue.suppress_kicks();
        (void)queue.needs_interrupt();
        break;
      default:
        (void)queue.allow_kicks();
        break;
    }
    if (queue.is_broken()) CHECK(queue.pending() == 0);
  }
}

}  // namespace
}  // namespace trapeze

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trapeze;
  static const std::unique_ptr<GuestMemory> memory = make_ram();
  FuzzInput input(data, size);
  memory->fill(Gpa{0}, std::byte{0}, kRamBytes);
  QueueConfig config;
  const auto shape = input.take<uint8_t>();
  if ((shape & 1) != 0) {  // anything
    config = {input.take<uint16_t>(), Gpa{input.take<uint64_t>()}, Gpa{input.take<uint64_t>()},
              Gpa{input.take<uint64_t>()}};
  } else {
    config = TestDriver(*memory, static_cast<uint16_t>(1U << (shape >> 1) % 6), Gpa{0}).config();
  }
  const QueueFeatures features{.event_idx = (shape & 64) != 0, .indirect = (shape & 128) != 0};
  // The first page: rings of a sound configuration, and tables for the chains.
  memory->write(Gpa{0}, std::as_bytes(input.take_bytes(input.below(2048))));
  VirtQueue queue(*memory);
  if (queue.configure(config, features, 64) == QueueFault::None) exercise(*memory, queue, input);
  VirtQueue copy(*memory);
  CHECK(copy.restore(queue.save()) == queue.fault());
  return 0;
}
