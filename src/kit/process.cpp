#include "kit/process.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>

#include "base/fd.h"

namespace trapeze::kit {
namespace {

struct Pipe {
  Fd read_end;
  Fd write_end;
  static Result<Pipe> create() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno("cannot create a pipe");
    return Pipe{Fd(ends[0]), Fd(ends[1])};
  }
};

// Reads both streams until they end; a program that fills one while we wait for the other would
// hang otherwise.
void collect(const Fd& out, const Fd& err, ProcessOutput& output) {
  std::array<pollfd, 2> slots = {pollfd{out.get(), POLLIN, 0}, pollfd{err.get(), POLLIN, 0}};
  const std::array<std::string*, 2> texts = {&output.out, &output.err};
  std::array<char, 16384> buffer;
  while (slots[0].fd >= 0 || slots[1].fd >= 0) {
    if (::poll(slots.data(), slots.size(), -1) < 0) continue;
    for (size_t i = 0; i < slots.size(); ++i) {
      if (slots[i].fd < 0 || slots[i].revents == 0) continue;
      const ssize_t size = ::read(slots[i].fd, buffer.data(), buffer.size());
      if (size > 0) {
        texts[i]->append(buffer.data(), static_cast<size_t>(size));
      } else if (size == 0 || errno != EINTR) {
        slots[i].fd = -1;
      }
    }
  }
}

}  // namespace

Result<ProcessOutput> run_process(const std::vector<std::string>& arguments,
                                  const std::filesystem::path& working_directory) {
  auto out = TRY(Pipe::create());
  auto err = TRY(Pipe::create());
  std::vector<char*> argv;
  for (const auto& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(&actions, out.write_end.get(), STDOUT_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, err.write_end.get(), STDERR_FILENO);
  ::posix_spawn_file_actions_addchdir_np(&actions, working_directory.c_str());
  pid_t pid = -1;
  errno = ::posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  const int spawn_error = errno;
  ::posix_spawn_file_actions_destroy(&actions);
  errno = spawn_error;
  if (spawn_error != 0) return fail_errno("cannot run {}", arguments[0]);

  out.write_end.reset();
  err.write_end.reset();
  ProcessOutput output;
  collect(out.read_end, err.read_end, output);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  output.exit_status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  return output;
}

bool program_exists(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::string_view rest = path == nullptr ? "/usr/bin:/bin" : path;
  while (!rest.empty()) {
    const size_t colon = rest.find(':');
    const std::string directory(rest.substr(0, colon));
    if (!directory.empty() && ::access((directory + "/" + name).c_str(), X_OK) == 0) return true;
    if (colon == std::string_view::npos) return false;
    rest.remove_prefix(colon + 1);
  }
  return false;
}

std::string last_lines(const std::string& text, size_t count) {
  size_t end = text.find_last_not_of(" \n");
  if (end == std::string::npos) return "no message";
  size_t begin = end + 1;
  for (size_t line = 0; line < count && begin > 0; ++line) {
    const size_t newline = begin < 2 ? std::string::npos : text.rfind('\n', begin - 2);
    begin = newline == std::string::npos ? 0 : newline + 1;
  }
  return text.substr(begin, end + 1 - begin);
}

}  // namespace trapeze::kit
