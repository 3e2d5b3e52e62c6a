#include "backend/console/terminal.h"

#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>

namespace trapeze {
namespace {

// Signals that end the process by default. SIGINT, SIGTERM and SIGHUP may belong to the command
// line (which ends in an orderly way): ours then never runs.
constexpr std::array kDeadlySignals{SIGSEGV, SIGBUS, SIGILL,  SIGFPE,  SIGABRT,
                                    SIGHUP,  SIGINT, SIGQUIT, SIGTERM, SIGSYS};

// What the signal handlers use. Written while no handler of ours is installed, but for
// `resized_event`.
struct Slot {
  std::atomic<bool> is_taken{false};
  int fd = -1;
  termios saved{};
  std::array<struct sigaction, kDeadlySignals.size()> previous{};
  struct sigaction previous_winch {};
  std::atomic<int> resized_event{-1};
};
Slot slot;  // the signal-handler slot: handlers have no other way to state

void on_deadly_signal(int signal) {
  ::tcsetattr(slot.fd, TCSANOW, &slot.saved);
  for (size_t i = 0; i < kDeadlySignals.size(); ++i) {
    if (kDeadlySignals[i] == signal) ::sigaction(signal, &slot.previous[i], nullptr);
  }
  // Delivered to whoever was there before when this handler returns; a fault happens again.
  ::raise(signal);
}

void on_window_change(int /*signal*/) {
  const int saved_errno = errno;
  const int event = slot.resized_event.load(std::memory_order_relaxed);
  const uint64_t one = 1;
  if (event >= 0) {
    [[maybe_unused]] const auto written = ::write(event, &one, sizeof(one));
  }
  errno = saved_errno;
}

void install(int signal, void (*handler)(int), struct sigaction& previous) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART | SA_ONSTACK;
  ::sigemptyset(&action.sa_mask);
  ::sigaction(signal, &action, &previous);
}

}  // namespace

TerminalSize terminal_size(int fd) {
  winsize size{};
  if (::ioctl(fd, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 || size.ws_row == 0) return {80, 25};
  return {size.ws_col, size.ws_row};
}

Result<std::unique_ptr<RawTerminal>> RawTerminal::create(int fd) {
  termios saved{};
  if (::tcgetattr(fd, &saved) != 0) return fail_errno("file descriptor {} is no terminal", fd);
  if (slot.is_taken.exchange(true)) return fail("the terminal is in raw mode already");
  slot.fd = fd;
  slot.saved = saved;
  auto terminal = std::unique_ptr<RawTerminal>(new RawTerminal(fd));
  for (size_t i = 0; i < kDeadlySignals.size(); ++i) {
    // One that somebody handles or ignores stays theirs, except for crashes.
    struct sigaction current {};
    ::sigaction(kDeadlySignals[i], nullptr, &current);
    slot.previous[i] = current;
    if (current.sa_handler == SIG_DFL) install(kDeadlySignals[i], on_deadly_signal, current);
  }
  termios raw = saved;
  ::cfmakeraw(&raw);
  if (::tcsetattr(fd, TCSADRAIN, &raw) != 0) return fail_errno("cannot set the terminal");
  return terminal;
}

RawTerminal::~RawTerminal() {
  unwatch_size();
  restore();
}

void RawTerminal::restore() {
  // TCSADRAIN: the guest's last output was written for raw mode.
  ::tcsetattr(fd_, TCSADRAIN, &slot.saved);
  for (size_t i = 0; i < kDeadlySignals.size(); ++i) {
    struct sigaction current {};
    ::sigaction(kDeadlySignals[i], nullptr, &current);
    if (current.sa_handler == on_deadly_signal) {
      ::sigaction(kDeadlySignals[i], &slot.previous[i], nullptr);
    }
  }
  slot.is_taken.store(false);
}

Result<void> RawTerminal::watch_size(EventLoop& loop, SizeHandler handler) {
  resized_ = Fd(::eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK));  // 1: tell the size at once
  if (!resized_.is_open()) return fail_errno("cannot create an eventfd");
  TRY(loop.watch(resized_.get(), EPOLLIN, [this, handler = std::move(handler)](uint32_t) {
    uint64_t count = 0;
    [[maybe_unused]] const auto got = ::read(resized_.get(), &count, sizeof(count));
    handler(terminal_size(fd_));
  }));
  loop_ = &loop;
  slot.resized_event.store(resized_.get(), std::memory_order_relaxed);
  install(SIGWINCH, on_window_change, slot.previous_winch);
  return {};
}

void RawTerminal::unwatch_size() {
  if (loop_ == nullptr) return;
  ::sigaction(SIGWINCH, &slot.previous_winch, nullptr);
  slot.resized_event.store(-1, std::memory_order_relaxed);
  loop_->unwatch(resized_.get());
  resized_.reset();
  loop_ = nullptr;
}

}  // namespace trapeze
