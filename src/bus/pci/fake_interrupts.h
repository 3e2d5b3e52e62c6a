// FakeInterrupts: an InterruptSink for tests that remembers what it was told.
#pragma once

#include <sys/eventfd.h>

#include <map>
#include <vector>

#include "irq/interrupt_sink.h"

namespace trapeze {

// What an event was set to, and how often it was written.
struct FakeMsiEvent final : MsiEvent {
  struct Log {
    std::vector<MsiMessage> set;
    int signals = 0;
    int holds = 0;
    bool works = true;
  };
  explicit FakeMsiEvent(Log& to) : log(to) {}
  bool set(const MsiMessage& message) override {
    if (log.works) log.set.push_back(message);
    return log.works;
  }
  void hold() override { ++log.holds; }
  void signal() override { ++log.signals; }
  const Fd& event() const override { return fd; }
  Log& log;
  const Fd fd{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
};

struct FakeInterrupts final : InterruptSink {
  void set_irq_level(Gsi gsi, bool asserted) override { levels[gsi.raw()] = asserted; }
  void send_msi(const MsiMessage& message) override { messages.push_back(message); }
  std::unique_ptr<MsiEvent> create_msi_event() override {
    return events == nullptr ? nullptr : std::make_unique<FakeMsiEvent>(*events);
  }
  FakeMsiEvent::Log* events = nullptr;  // null: there are none
  std::map<uint32_t, bool> levels;
  std::vector<MsiMessage> messages;
};

}  // namespace trapeze
