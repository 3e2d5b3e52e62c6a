#include "init/command.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

namespace trapeze::guest {
namespace {

// The child's ends, to become 0, 1, 2.
struct ChildEnds {
  int in = -1;
  int out = -1;
  int err = -1;
};

constexpr int kPipeBytes = 256 * 1024;  // fewer switches between the command and us

bool make_pipe(int& read_end, int& write_end, int& ours) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return false;
  read_end = ends[0];
  write_end = ends[1];
  ::fcntl(ends[0], F_SETPIPE_SZ, kPipeBytes);  // only a wish
  return ::fcntl(ours, F_SETFL, O_NONBLOCK) == 0;
}

bool open_pipes(Command& command, ChildEnds& child) {
  return make_pipe(child.in, command.stdin_to, command.stdin_to) &&
         make_pipe(command.stdout_from, child.out, command.stdout_from) &&
         make_pipe(command.stderr_from, child.err, command.stderr_from);
}

bool open_terminal(const agent::ExecHeader& order, Command& command, ChildEnds& child) {
  const int master = ::open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
  if (master < 0) return false;
  command.stdin_to = master;
  command.stdout_from = master;
  int unlocked = 0;
  if (::ioctl(master, TIOCSPTLCK, &unlocked) != 0) return false;
  const int slave = ::ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (slave < 0) return false;
  winsize size{};
  size.ws_row = order.rows;
  size.ws_col = order.columns;
  ::ioctl(slave, TIOCSWINSZ, &size);
  child.in = child.out = child.err = slave;
  return true;
}

void close_once(int fd) {
  if (fd > STDERR_FILENO) ::close(fd);
}

// argv and envp in one array of pointers into the order; kept until the next start.
class ArgumentTable {
 public:
  // False when there is no memory.
  bool fill(const agent::ExecHeader& order, std::span<const std::byte> strings) {
    const size_t slots = size_t{order.argc} + order.envc + std::size(kDefaultEnvironment) + 4;
    void* memory = ::mmap(nullptr, slots * sizeof(char*), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return false;
    char** next = static_cast<char**>(memory);
    agent::StringCursor cursor(strings);
    argv = next;
    for (uint32_t i = 0; i < order.argc; ++i) *next++ = writable(cursor.next());
    if (order.argc == 0) {
      const bool on_terminal = (order.flags & agent::kExecOnTerminal) != 0;
      *next++ = writable(on_terminal ? "-sh" : "sh");  // a dash makes it a login shell
    }
    *next++ = nullptr;
    envp = next;
    for (uint32_t i = 0; i < order.envc; ++i) *next++ = writable(cursor.next());
    char** const given_end = next;
    for (const char* fallback : kDefaultEnvironment) {
      if (!has_variable(given_end, fallback)) *next++ = writable(fallback);
    }
    *next++ = nullptr;
    working_directory = cursor.next().data();
    // An image that is the root may have no such folder.
    if (*working_directory == '\0')
      working_directory = ::access("/root", X_OK) == 0 ? "/root" : "/";
    program = order.argc == 0 ? "/bin/sh" : argv[0];
    return true;
  }

  char** argv = nullptr;
  char** envp = nullptr;
  const char* program = nullptr;
  const char* working_directory = nullptr;

 private:
  static constexpr const char* kDefaultEnvironment[] = {
      "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
      "HOME=/root",
      "USER=root",
      "LOGNAME=root",
      "SHELL=/bin/sh",
      "TERM=linux"};

  // exec wants char*, and promises to leave the characters alone.
  static char* writable(std::string_view text) { return const_cast<char*>(text.data()); }

  bool has_variable(char** end, const char* assignment) const {
    const size_t name_and_sign = std::strcspn(assignment, "=") + 1;
    for (char** variable = envp; variable != end; ++variable) {
      if (std::strncmp(*variable, assignment, name_and_sign) == 0) return true;
    }
    return false;
  }
};

// Runs in the vfork child: shares our memory until exec, so it reports through `failure`.
[[noreturn]] void become_command(const ArgumentTable& table, const ChildEnds& ends,
                                 bool on_terminal, volatile StartFailure& failure) {
  const auto give_up = [&](agent::ExecStage stage) {
    failure.os_error = errno;
    failure.stage = stage;
    ::_exit(127);
  };
  ::setsid();
  if (::dup2(ends.in, STDIN_FILENO) < 0 || ::dup2(ends.out, STDOUT_FILENO) < 0 ||
      ::dup2(ends.err, STDERR_FILENO) < 0) {
    give_up(agent::ExecStage::Setup);
  }
  if (on_terminal) ::ioctl(STDIN_FILENO, TIOCSCTTY, 0);
  ::signal(SIGPIPE, SIG_DFL);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  if (::chdir(table.working_directory) != 0) give_up(agent::ExecStage::WorkingDirectory);
  ::execvp(table.program, table.argv);
  give_up(agent::ExecStage::Exec);
  __builtin_unreachable();
}

}  // namespace

StartFailure start_command(const agent::ExecHeader& order, std::span<const std::byte> strings,
                           Command& command) {
  ArgumentTable table;
  ChildEnds ends;
  command.on_terminal = (order.flags & agent::kExecOnTerminal) != 0;
  const bool ready =
      table.fill(order, strings) &&
      (command.on_terminal ? open_terminal(order, command, ends) : open_pipes(command, ends));
  if (!ready) return {agent::ExecStage::Setup, errno};
  ::environ = table.envp;  // execvp searches the command's PATH, not ours
  volatile StartFailure failure;
  failure.os_error = 0;
  // vfork: no page tables to copy, and the outcome of exec is known when it returns.
  const pid_t pid = ::vfork();
  if (pid == 0) become_command(table, ends, command.on_terminal, failure);
  const int fork_error = errno;
  close_once(ends.in);
  if (!command.on_terminal) {
    close_once(ends.out);
    close_once(ends.err);
  }
  if (pid < 0) return {agent::ExecStage::Setup, fork_error};
  command.pid = pid;
  return {const_cast<StartFailure&>(failure).stage, failure.os_error};
}

}  // namespace trapeze::guest
