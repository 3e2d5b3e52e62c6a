// SignalWatch: the signals that a run handles, as events of a loop instead of interruptions.
#pragma once

#include <functional>
#include <memory>

#include "base/event_loop.h"
#include "base/fd.h"

namespace trapeze {

class SignalWatch {
 public:
  // Blocks SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1 and SIGUSR2 in this thread and those
  // that it creates from now on, and ignores SIGPIPE and SIGXFSZ: for the rest of the process.
  static Result<std::unique_ptr<SignalWatch>> create(EventLoop& loop,
                                                     std::function<void(int)> on_signal);
  ~SignalWatch();

 private:
  SignalWatch(EventLoop& loop, Fd fd, std::function<void(int)> on_signal)
      : loop_(loop), fd_(std::move(fd)), on_signal_(std::move(on_signal)) {}
  EventLoop& loop_;
  const Fd fd_;
  const std::function<void(int)> on_signal_;
};

}  // namespace trapeze
