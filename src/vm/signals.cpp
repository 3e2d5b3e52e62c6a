#include "vm/signals.h"

#include <pthread.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <csignal>

namespace trapeze {

Result<std::unique_ptr<SignalWatch>> SignalWatch::create(EventLoop& loop,
                                                         std::function<void(int)> on_signal) {
  sigset_t set;
  ::sigemptyset(&set);
  for (const int number : {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2}) {
    ::sigaddset(&set, number);
  }
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  // A disk image at the file size limit: the guest sees an I/O error, the VM lives.
  std::signal(SIGXFSZ, SIG_IGN);
  Fd fd(::signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
  if (!fd.is_open()) return fail_errno("cannot create a signalfd");
  std::unique_ptr<SignalWatch> watch(new SignalWatch(loop, std::move(fd), std::move(on_signal)));
  TRY(loop.watch(watch->fd_.get(), EPOLLIN, [target = watch.get()](uint32_t) {
    signalfd_siginfo info;
    while (::read(target->fd_.get(), &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) {
      target->on_signal_(static_cast<int>(info.ssi_signo));
    }
  }));
  return watch;
}

SignalWatch::~SignalWatch() { loop_.unwatch(fd_.get()); }

}  // namespace trapeze
