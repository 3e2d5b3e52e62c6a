#include "app/cli/detach.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "app/cli/commands.h"
#include "base/fd.h"
#include "base/log.h"
#include "vm/run.h"

namespace trapeze::cli {
namespace {

// What the new process tells: a status byte, then what goes to stderr. Nothing at all: it died.
void report(const Fd& pipe, int status, const std::string& text) {
  std::string bytes(1, static_cast<char>(status));
  bytes += text;
  // The reader waits for just this; when it has gone there is nobody to tell.
  [[maybe_unused]] const auto written = ::write(pipe.get(), bytes.data(), bytes.size());
}

std::string read_report(const Fd& pipe) {
  std::string bytes;
  char part[4096];
  for (;;) {
    const ssize_t got = ::read(pipe.get(), part, sizeof(part));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return bytes;
    bytes.append(part, static_cast<size_t>(got));
  }
}

int run_in_background(RunConfig& config, Fd pipe) {
  ::setsid();
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) ::dup2(null, fd);
  config.managed->on_started = [&pipe] {
    report(pipe, 0, {});
    pipe.reset();
  };
  auto outcome = run_vm(config);
  std::string text;
  int status = kStatusOwnError;
  if (outcome) {
    status = outcome->status;
    for (const auto& message : outcome->messages) text += "trapeze: " + message + "\n";
  } else {
    text = "trapeze: " + outcome.error().message + "\n";
  }
  if (pipe.is_open()) report(pipe, status, text);
  return status;
}

}  // namespace

std::string make_up_name() {
  uint32_t number = 0;
  // Without random numbers the process's own does: it is unique among those that run.
  if (::getrandom(&number, sizeof(number), 0) != sizeof(number)) {
    number = static_cast<uint32_t>(::getpid());
  }
  return fmt::format("vm-{:08x}", number);
}

int run_detached(RunConfig config) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return own_error("cannot create a pipe");
  Fd read_end(ends[0]);
  Fd write_end(ends[1]);
  const pid_t child = ::fork();
  if (child < 0) return own_error("cannot start a process: " + errno_text(errno));
  if (child == 0) {
    read_end.reset();
    return run_in_background(config, std::move(write_end));
  }
  write_end.reset();
  const std::string bytes = read_report(read_end);
  if (bytes.empty()) return own_error("the machine's process ended unexpectedly");
  const std::string_view text = std::string_view(bytes).substr(1);
  if (!text.empty()) std::fwrite(text.data(), 1, text.size(), stderr);
  const int status = static_cast<unsigned char>(bytes[0]);
  if (status == 0 && text.empty()) fmt::print("{}\n", config.managed->name);
  return status;
}

}  // namespace trapeze::cli
