// MSI-X table and pending bits of one PCI function (PCI 3.0 §6.8.2). Owned by PciDevice.
//
// Threads: the guest writes the table from vCPU threads, the device calls notify() from any thread;
// one mutex. The InterruptSink is called with it held, so that no message leaves after the guest
// has masked its vector and read that back.
//
// A vector's event (MsiEvent) can be lent to somebody who writes to it himself: the host's kernel
// then sends the message without this process. While the vector is masked the event is held, and
// its counter is the pending bit.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "base/result.h"
#include "base/strong.h"
#include "irq/interrupt_sink.h"

namespace trapeze {

struct MsixEntry {
  MsiMessage message;
  bool masked = true;
  bool pending = false;
  bool operator==(const MsixEntry&) const = default;
};

struct MsixState {
  bool enabled = false;
  bool function_masked = false;
  std::vector<MsixEntry> vectors;
  bool operator==(const MsixState&) const = default;
};

class Msix {
 public:
  static constexpr uint16_t kMaxVectors = 2048;
  static constexpr uint64_t kEntryBytes = 16;

  explicit Msix(uint16_t vectors);

  uint16_t vectors() const { return static_cast<uint16_t>(state_.vectors.size()); }
  uint64_t table_bytes() const { return state_.vectors.size() * kEntryBytes; }
  uint64_t pending_bytes() const { return (state_.vectors.size() + 63) / 64 * 8; }

  // Until this is called, notify() leaves the vector pending.
  void connect(InterruptSink& sink);
  // Sends the vector's message, or marks it pending while it is masked. Dropped when MSI-X is not
  // enabled or there is no such vector.
  void notify(uint16_t vector);
  bool is_enabled() const;
  // Writing to it is notify(), until it is recalled; stays open as long as this object. Null where
  // the sink has no events, MSI-X is not enabled or there is no such vector.
  const Fd* lend(uint16_t vector);

  // Whether events that were lent are void from now on, and what was written last may be lost:
  // MSI-X was disabled, or the host has no more routes. Whoever has one calls notify() instead.
  enum class Lent : uint8_t { Valid, Recalled };

  // Message Control, bits 15 (enable) and 14 (function mask).
  Lent set_control(bool enabled, bool function_masked);
  // The table and the pending bits, as the BAR shows them.
  uint64_t table_read(uint64_t offset, Width width) const;
  Lent table_write(uint64_t offset, Width width, uint64_t value);
  uint64_t pending_read(uint64_t offset, Width width) const;

  MsixState save() const;
  // Fails when the number of vectors differs. Sends nothing. Events that were lent are void.
  Result<void> restore(const MsixState& state);

 private:
  uint32_t dword(uint64_t index) const;
  Lent set_dword(uint64_t index, uint32_t value);
  bool is_open(size_t vector) const;
  bool is_pending(size_t vector) const;
  void send_if_ready(size_t vector);
  bool send_by_event(size_t vector);
  MsiEvent* event_of(size_t vector);
  Lent follow(size_t vector);

  mutable std::mutex mutex_;
  InterruptSink* sink_ = nullptr;
  MsixState state_;
  // What the sink gave for a vector when it was first used; null where it gives none.
  struct Event {
    bool is_asked_for = false;
    bool is_lent = false;
    std::unique_ptr<MsiEvent> event;
  };
  std::vector<Event> events_;
};

}  // namespace trapeze
