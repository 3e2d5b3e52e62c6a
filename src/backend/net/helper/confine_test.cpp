#include "backend/net/helper/confine.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <functional>

namespace trapeze {
namespace {

// The answer of a child that has given up its rights.
int in_confined_child(const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(confine_helper() ? body() : 99);
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + status;
}

TEST(Confine, sockets_of_the_internet_are_left) {
  EXPECT_EQ(in_confined_child([] {
              const int tcp = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
              const int udp = ::socket(AF_INET6, SOCK_DGRAM, 0);
              return tcp >= 0 && (udp >= 0 || errno == EAFNOSUPPORT) ? 0 : errno;
            }),
            0);
}

TEST(Confine, other_sockets_are_gone) {
  EXPECT_EQ(in_confined_child([] { return ::socket(AF_UNIX, SOCK_STREAM, 0) < 0 ? errno : 0; }),
            EPERM);
  EXPECT_EQ(in_confined_child([] { return ::socket(AF_PACKET, SOCK_RAW, 0) < 0 ? errno : 0; }),
            EPERM);
  EXPECT_EQ(in_confined_child([] { return ::socket(AF_NETLINK, SOCK_RAW, 0) < 0 ? errno : 0; }),
            EPERM);
  EXPECT_EQ(
      in_confined_child([] { return ::socket(AF_INET, SOCK_RAW, IPPROTO_RAW) < 0 ? errno : 0; }),
      EPERM);
}

TEST(Confine, files_cannot_be_written_and_programs_not_run) {
  EXPECT_EQ(in_confined_child([] {
              return ::open("/tmp/trapeze-confine-test", O_WRONLY | O_CREAT, 0600) < 0 ? errno : 0;
            }),
            EPERM);
  EXPECT_EQ(in_confined_child([] { return ::unlink("/tmp/x") < 0 ? errno : 0; }), EPERM);
  EXPECT_EQ(in_confined_child([] {
              ::execl("/bin/true", "true", nullptr);
              return errno;
            }),
            EPERM);
  EXPECT_EQ(in_confined_child([] { return ::fork() < 0 ? errno : 0; }), EPERM);
}

TEST(Confine, files_elsewhere_cannot_be_read_where_landlock_is_there) {
  const int answer =
      in_confined_child([] { return ::open("/proc/self/status", O_RDONLY) < 0 ? errno : 0; });
  EXPECT_TRUE(answer == EACCES || answer == 0) << answer;
}

TEST(Confine, memory_cannot_be_made_executable) {
  EXPECT_EQ(in_confined_child([] {
              void* page =
                  ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
              if (page == MAP_FAILED) return 1;
              return ::mprotect(page, 4096, PROT_READ | PROT_EXEC) < 0 ? errno : 0;
            }),
            EPERM);
}

TEST(Confine, root_is_nobody_without_rights) {
  if (::geteuid() != 0) GTEST_SKIP() << "only for root";
  EXPECT_EQ(in_confined_child([] { return ::setuid(0) < 0 ? errno : 0; }), EPERM);
}

}  // namespace
}  // namespace trapeze
