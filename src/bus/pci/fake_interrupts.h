// FakeInterrupts: an InterruptSink for tests that remembers what it was told.
#pragma once

#include <map>
#include <vector>

#include "irq/interrupt_sink.h"

namespace trapeze {

struct FakeInterrupts final : InterruptSink {
  void set_irq_level(Gsi gsi, bool asserted) override { levels[gsi.raw()] = asserted; }
  void send_msi(const MsiMessage& message) override { messages.push_back(message); }
  std::map<uint32_t, bool> levels;
  std::vector<MsiMessage> messages;
};

}  // namespace trapeze
