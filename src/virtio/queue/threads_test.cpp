// Driver and device on two threads, with all the notification suppression that there is: nothing
// may be lost and, under ThreadSanitizer, nothing race.
#include <gtest/gtest.h>

#include <semaphore>
#include <thread>

#include "virtio/queue/iov.h"
#include "virtio/queue/test_driver.h"

namespace trapeze {
namespace {

constexpr uint32_t kMessages = 40000;

// Sends kMessages numbers, each in a chain of its own, and gets each back plus one.
void run_both_sides(QueueFeatures features) {
  const auto memory = make_test_memory();
  TestDriver driver(*memory, 16, Gpa{0x1000}, features);
  VirtQueue queue(*memory);
  ASSERT_EQ(queue.configure(driver.config(), features, 16), QueueFault::None);
  std::counting_semaphore<> kick(0);
  std::counting_semaphore<> irq(0);

  std::thread device([&] {
    Chain chain;
    for (uint32_t done = 0; done < kMessages;) {
      kick.acquire();
      bool has_more = true;
      while (has_more) {
        has_more = serve(queue, chain, 8, [&](Chain& taken) {
          const auto number = ChainReader(taken).read_value<uint32_t>();
          ChainWriter writer(taken);
          writer.write_value(number.value_or(0) + 1);
          queue.push_used(taken, writer.position());
          ++done;
          return true;
        });
        if (queue.needs_interrupt()) irq.release();
      }
    }
  });

  uint32_t sent = 0;
  uint32_t received = 0;
  std::vector<uint32_t> number_of(16);
  while (received < kMessages) {
    while (sent < kMessages && driver.free_descriptors() >= 2) {
      const uint32_t slot = sent % 16;
      const Gpa at{0x10000 + slot * 64};
      memory->store(at, sent);
      const uint16_t head =
          driver.add(std::array{TestDriver::Buffer{at, 4}, TestDriver::Buffer{at + 8, 4, true}});
      number_of[head] = sent++;
    }
    driver.publish();
    if (driver.needs_kick()) kick.release();
    driver.want_interrupt();
    if (driver.used_idx() == static_cast<uint16_t>(received)) irq.acquire();
    driver.refuse_interrupt();
    while (const auto used = driver.take_used()) {
      const uint32_t number = number_of[used->id];
      const Gpa answer{0x10000 + (number % 16) * 64 + 8};
      ASSERT_EQ(memory->load<uint32_t>(answer), number + 1);
      ++received;
    }
  }
  kick.release();  // in case the device waits for more than there is
  device.join();
  EXPECT_FALSE(queue.is_broken());
}

TEST(VirtQueueThreads, flags_lose_nothing) { run_both_sides({}); }

TEST(VirtQueueThreads, event_indices_lose_nothing) {
  run_both_sides({.event_idx = true, .indirect = false});
}

}  // namespace
}  // namespace trapeze
