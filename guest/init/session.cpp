#include "init/session.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "init/disks.h"
#include "init/sessions.h"
#include "init/system.h"

namespace trapeze::guest {
namespace {

// What busybox halt, poweroff and reboot send to PID 1.
constexpr int kPowerOffSignals[] = {SIGUSR1, SIGUSR2, SIGTERM};

int open_signals(Session::Kind kind) {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGCHLD);
  if (kind == Session::Kind::Main) {
    for (const int number : kPowerOffSignals) ::sigaddset(&set, number);
  }
  ::sigprocmask(SIG_SETMASK, &set, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  return ::signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

// Frames to the host are few and small: waiting for room costs nothing.
bool write_all(int fd, const void* data, size_t size) {
  const char* next = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = ::write(fd, next, size);
    if (written > 0) {
      next += written;
      size -= static_cast<size_t>(written);
      continue;
    }
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno != EAGAIN) return false;
    pollfd room{.fd = fd, .events = POLLOUT, .revents = 0};
    if (::poll(&room, 1, -1) < 0 && errno != EINTR) return false;
    if ((room.revents & POLLHUP) != 0) return false;
  }
  return true;
}

constexpr size_t kFrameBytes = sizeof(agent::FrameHeader) + agent::kMaxPayloadBytes;

// Zeroed memory that costs nothing until it is touched. There is nothing to do without it.
void* map_buffer(size_t size) {
  void* memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory != MAP_FAILED) return memory;
  complain("no memory for buffers", errno);
  power_off();
}

char* map_stream_buffer() { return static_cast<char*>(map_buffer(Stream::kBufferBytes)); }

enum PollSlot : size_t {
  kSignals,
  kControl,
  kStdinPort,
  kStdinCommand,
  kStdoutCommand,
  kStdoutPort,
  kStderrCommand,
  kStderrPort,
  kListener,
  kPollSlots,
};

}  // namespace

void Session::run(const Ports& ports, int listener) {
  ports_ = ports;
  listener_ = listener;
  frame_ = static_cast<std::byte*>(map_buffer(kFrameBytes));
  signals_ = open_signals(kind_);
  if (signals_ < 0) {
    complain("signalfd", errno);
    return;
  }
  send(agent::FrameType::Ready, nullptr, 0);
  while (state_ != State::Over) {
    wait();
    pump_streams();
    report_when_drained();
  }
  // A machine that goes on without whoever ordered the command: as when a terminal is closed.
  if (kind_ == Kind::Further && command_.pid > 0) ::kill(-command_.pid, SIGHUP);
}

void Session::wait() {
  const bool running = state_ == State::Running;
  const auto slot = [](int fd, bool wanted, short events) {
    return pollfd{.fd = wanted ? fd : -1, .events = events, .revents = 0};
  };
  pollfd slots[kPollSlots];
  slots[kSignals] = slot(signals_, true, POLLIN);
  slots[kControl] = slot(ports_.control, true, POLLIN);
  slots[kStdinPort] = slot(ports_.stdio, running && stdin_.wants_read(), POLLIN);
  slots[kStdinCommand] = slot(command_.stdin_to, running && stdin_.wants_write(), POLLOUT);
  slots[kStdoutCommand] = slot(command_.stdout_from, stdout_.wants_read(), POLLIN);
  slots[kStdoutPort] = slot(ports_.stdio, stdout_.wants_write(), POLLOUT);
  slots[kStderrCommand] = slot(command_.stderr_from, stderr_.wants_read(), POLLIN);
  slots[kStderrPort] = slot(ports_.stderr_out, stderr_.wants_write(), POLLOUT);
  slots[kListener] = slot(listener_, true, POLLIN);
  if (::poll(slots, kPollSlots, -1) < 0) return;
  // A port that hung up takes nothing any more, and would wake us forever.
  if ((slots[kStdoutPort].revents & POLLHUP) != 0) stdout_.drop_output();
  if ((slots[kStderrPort].revents & POLLHUP) != 0) stderr_.drop_output();
  if (slots[kSignals].revents != 0) handle_signals();
  if (slots[kControl].revents != 0) handle_control();
  if (slots[kListener].revents != 0) accept_session(listener_);
}

void Session::handle_signals() {
  signalfd_siginfo info;
  while (::read(signals_, &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) {
    if (info.ssi_signo == SIGCHLD) continue;
    power_off_asked_ = true;
    ::kill(-1, SIGKILL);
    if (state_ == State::Waiting) state_ = State::Over;
  }
  reap();
}

void Session::reap() {
  int status = 0;
  pid_t pid = 0;
  while ((pid = ::waitpid(-1, &status, WNOHANG)) > 0) {
    if (pid != command_.pid || state_ != State::Running) continue;
    command_ended(status);
    command_.pid = -1;  // another process may get that number
  }
}

void Session::command_ended(int wait_status) {
  if (power_off_asked_) {
    exited_ = {.kind = agent::EndKind::Exited, .value = 0};
  } else if (WIFSIGNALED(wait_status)) {
    exited_ = {.kind = agent::EndKind::Signaled,
               .value = static_cast<uint32_t>(WTERMSIG(wait_status))};
  } else {
    exited_ = {.kind = agent::EndKind::Exited,
               .value = static_cast<uint32_t>(WEXITSTATUS(wait_status))};
  }
  state_ = State::Draining;
  if (kind_ == Kind::Further) return end_outputs();
  // Whoever still holds the command's stdout would keep the session open: the machine ends with its
  // command, as a container does. What they have written so far is still delivered.
  ::kill(-1, SIGKILL);
}

// What the command has written by its end is delivered; what it left running may go on writing, to
// nobody. A terminal hangs up with its session, so little can come after.
void Session::end_outputs() {
  if (command_.on_terminal) return stdout_.end_when_empty();
  const auto end_pipe = [](Stream& stream, int from) {
    int waiting = 0;
    if (from < 0 || ::ioctl(from, FIONREAD, &waiting) != 0) return stream.end_when_empty();
    stream.end_after(stream.total_bytes() + static_cast<unsigned>(waiting));
  };
  end_pipe(stdout_, command_.stdout_from);
  end_pipe(stderr_, command_.stderr_from);
}

void Session::handle_control() {
  for (;;) {
    const auto* header = reinterpret_cast<const agent::FrameHeader*>(frame_);
    const bool have_header = received_ >= sizeof(agent::FrameHeader);
    const size_t wanted = sizeof(agent::FrameHeader) + (have_header ? header->payload_bytes : 0);
    if (received_ < wanted) {
      const ssize_t size = ::read(ports_.control, frame_ + received_, wanted - received_);
      if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
      if (size <= 0) {
        state_ = State::Over;
        return;
      }
      received_ += static_cast<size_t>(size);
      if (received_ < wanted) continue;
    }
    if (!agent::is_sound(*header)) {
      complain("senseless order from the host", 0);
      state_ = State::Over;
      return;
    }
    if (!have_header && header->payload_bytes != 0) continue;
    handle_frame(*header, std::span<const std::byte>(frame_ + sizeof(agent::FrameHeader),
                                                     header->payload_bytes));
    received_ = 0;
    if (state_ == State::Over) return;
  }
}

void Session::handle_frame(const agent::FrameHeader& header, std::span<const std::byte> payload) {
  agent::StdinEnd stdin_end;
  agent::Signal signal;
  agent::WindowSize size;
  agent::OutputClosed closed;
  switch (header.type) {
    case agent::FrameType::Exec:
      if (state_ == State::Waiting) start(payload);
      return;
    case agent::FrameType::Mount:
      if (state_ == State::Waiting) mount(payload);
      return;
    case agent::FrameType::StdinEnd:
      if (agent::decode(payload, stdin_end)) stdin_.end_after(stdin_end.total_bytes);
      return;
    case agent::FrameType::Signal:
      if (agent::decode(payload, signal) && state_ == State::Running && signal.number < 65 &&
          command_.pid > 0) {
        ::kill(-command_.pid, static_cast<int>(signal.number));
      }
      return;
    case agent::FrameType::WindowSize:
      if (agent::decode(payload, size)) set_window_size(size);
      return;
    case agent::FrameType::OutputClosed:
      if (agent::decode(payload, closed)) close_output(closed.role);
      return;
    case agent::FrameType::PowerOff:
      state_ = State::Over;
      return;
    case agent::FrameType::Ready:
    case agent::FrameType::Started:
    case agent::FrameType::ExecFailed:
    case agent::FrameType::Exited:
      break;
  }
  complain("senseless order from the host", 0);
  state_ = State::Over;
}

void Session::mount(std::span<const std::byte> payload) {
  agent::MountHeader order;
  std::string_view tag;
  std::string_view path;
  if (!agent::decode_mount(payload, order, tag, path)) {
    complain("senseless order from the host", 0);
    state_ = State::Over;
    return;
  }
  const uint32_t index = mounts_++;
  const int os_error =
      mount_share(tag.data(), path.data(), (order.flags & agent::kMountReadOnly) != 0);
  if (os_error == 0 || mount_failure_.os_error != 0) return;
  mount_failure_ = {.stage = agent::ExecStage::Mount,
                    .os_error = static_cast<uint32_t>(os_error),
                    .mount = index};
}

void Session::report_failure(const agent::ExecFailed& failure) {
  send(agent::FrameType::ExecFailed, &failure, sizeof(failure));
  state_ = State::Reported;
}

void Session::start(std::span<const std::byte> payload) {
  agent::ExecHeader order;
  std::span<const std::byte> strings;
  if (!agent::decode_exec(payload, order, strings)) {
    complain("senseless order from the host", 0);
    state_ = State::Over;
    return;
  }
  credit_entropy(order.seed);
  if (mount_failure_.os_error != 0) return report_failure(mount_failure_);
  const StartFailure failure = start_command(order, strings, command_);
  if (failure.os_error != 0) {
    return report_failure(
        {.stage = failure.stage, .os_error = static_cast<uint32_t>(failure.os_error), .mount = 0});
  }
  stdin_.connect(ports_.stdio, command_.stdin_to, map_stream_buffer());
  stdout_.connect(command_.stdout_from, ports_.stdio, map_stream_buffer());
  if (!command_.on_terminal) {
    stderr_.connect(command_.stderr_from, ports_.stderr_out, map_stream_buffer());
  }
  state_ = State::Running;
  const agent::Started started{.pid = static_cast<uint32_t>(command_.pid)};
  send(agent::FrameType::Started, &started, sizeof(started));
}

void Session::set_window_size(const agent::WindowSize& size) {
  if (!command_.on_terminal || command_.stdin_to < 0) return;
  winsize window{};
  window.ws_row = size.rows;
  window.ws_col = size.columns;
  ::ioctl(command_.stdin_to, TIOCSWINSZ, &window);  // the kernel sends SIGWINCH
}

void Session::pump_streams() {
  if (state_ == State::Running && command_.stdin_to >= 0) {
    stdin_.pump();
    if (stdin_.is_done()) close_stdin();
  }
  if (state_ == State::Running || state_ == State::Draining) {
    stdout_.pump();
    if (command_.stderr_from >= 0) stderr_.pump();
  }
}

void Session::close_stdin() {
  if (command_.on_terminal) {
    constexpr char kEndOfTransmission = 4;  // what a terminal takes for "end of file"
    [[maybe_unused]] const auto written = ::write(command_.stdin_to, &kEndOfTransmission, 1);
  } else {
    ::close(command_.stdin_to);
  }
  command_.stdin_to = -1;
}

void Session::close_output(agent::PortRole role) {
  const bool is_stderr = role == agent::PortRole::Stderr;
  (is_stderr ? stderr_ : stdout_).close_source();
  int& source = is_stderr ? command_.stderr_from : command_.stdout_from;
  if (source < 0) return;
  // The last end of a pipe: SIGPIPE for its writers. The master of a terminal: a hang-up.
  ::close(source);
  if (source == command_.stdin_to) command_.stdin_to = -1;
  source = -1;
}

void Session::report_when_drained() {
  if (state_ != State::Draining) return;
  if (!stdout_.is_done() || (command_.stderr_from >= 0 && !stderr_.is_done())) return;
  exited_.stdout_bytes = stdout_.total_bytes();
  exited_.stderr_bytes = stderr_.total_bytes();
  send(agent::FrameType::Exited, &exited_, sizeof(exited_));
  if (state_ != State::Over) state_ = State::Reported;
}

void Session::send(agent::FrameType type, const void* payload, size_t payload_bytes) {
  // One write, so that the host sees whole frames.
  char frame[sizeof(agent::FrameHeader) + sizeof(agent::Exited)];
  const agent::FrameHeader header{.type = type,
                                  .payload_bytes = static_cast<uint32_t>(payload_bytes)};
  __builtin_memcpy(frame, &header, sizeof(header));
  if (payload_bytes != 0) __builtin_memcpy(frame + sizeof(header), payload, payload_bytes);
  if (!write_all(ports_.control, frame, sizeof(header) + payload_bytes)) state_ = State::Over;
}

}  // namespace trapeze::guest
