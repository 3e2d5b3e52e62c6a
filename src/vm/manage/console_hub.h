// ConsoleHub: the console of a running machine, with its scrollback, for whoever attaches: the
// guest's serial port, or, of a detached machine with an agent, the streams of its first command.
//
// Threads: write() and room_available() from any, the rest on the loop's thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>

#include "base/event_loop.h"
#include "base/units.h"
#include "device/byte_sink.h"
#include "vm/manage/scrollback.h"

namespace trapeze::manage {

class ConsoleHub final : public ByteSink {
 public:
  static constexpr size_t kKeptBytes = 256 * KiB;

  struct Handlers {
    // Returns how many bytes were taken; fewer than all means "not now", until room_available().
    std::function<size_t(std::span<const std::byte>)> input;
    std::function<void(uint16_t rows, uint16_t columns)> resize;
  };
  // Of whoever shows it.
  struct Viewers {
    std::function<void()> output_arrived;
    std::function<void()> input_possible;
  };

  // `next`, which may be null, gets all that is written; it and `loop` outlive this.
  ConsoleHub(EventLoop& loop, ByteSink* next) : loop_(loop), next_sink_(next) {}

  void set_handlers(Handlers handlers) { handlers_ = std::move(handlers); }
  void set_viewers(Viewers viewers) { viewers_ = std::move(viewers); }

  // Guest to viewers.
  void write(std::span<const uint8_t> bytes) override;
  size_t read(uint64_t& position, std::span<std::byte> to) const;
  uint64_t oldest_line() const;

  // Viewers to guest. Without a handler everything is taken and dropped.
  size_t input(std::span<const std::byte> bytes);
  void resize(uint16_t rows, uint16_t columns);
  void room_available();

 private:
  EventLoop& loop_;
  ByteSink* const next_sink_;
  Handlers handlers_;
  Viewers viewers_;
  mutable std::mutex mutex_;
  Scrollback kept_{kKeptBytes};  // guarded by mutex_
  bool is_told_ = false;         // output_arrived is posted; guarded by mutex_
};

}  // namespace trapeze::manage
