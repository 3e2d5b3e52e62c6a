// RawTerminal: the host's terminal while the guest has it: every key goes to the guest, and the
// settings come back whatever happens: at destruction, and when a signal ends the process.
//
// At most one at a time (the signal handlers need a global slot). Create and destroy it on the main
// thread; watch_size's callback runs on the loop's thread.
#pragma once

#include <termios.h>

#include <cstdint>
#include <functional>
#include <memory>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/result.h"

namespace trapeze {

struct TerminalSize {
  uint16_t columns = 0;
  uint16_t rows = 0;
  bool operator==(const TerminalSize&) const = default;
};

// Size of the terminal `fd`; 80x25 when it does not tell.
TerminalSize terminal_size(int fd);

class RawTerminal {
 public:
  using SizeHandler = std::function<void(TerminalSize)>;

  // Switches the terminal `fd` to raw mode; `fd` must stay open meanwhile. Fails when it is no
  // terminal, or another RawTerminal exists.
  static Result<std::unique_ptr<RawTerminal>> create(int fd);
  ~RawTerminal();
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;

  // Calls `handler` with each new size (SIGWINCH), and once at the start. Call before the loop runs
  // or on its thread, once; end with unwatch_size() there.
  Result<void> watch_size(EventLoop& loop, SizeHandler handler);
  void unwatch_size();

 private:
  explicit RawTerminal(int fd) : fd_(fd) {}
  void restore();

  const int fd_;
  EventLoop* loop_ = nullptr;
  Fd resized_;  // eventfd that the SIGWINCH handler writes
};

}  // namespace trapeze
