#include "init/system.h"

#include <fcntl.h>
#include <linux/random.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "init/disks.h"

namespace trapeze::guest {
namespace {

struct MountPoint {
  const char* type;
  const char* where;
  unsigned long flags;
  const char* options;
};

constexpr unsigned long kSafe = MS_NOSUID | MS_NODEV | MS_NOEXEC;
constexpr MountPoint kMountPoints[] = {
    {"proc", "/proc", kSafe, nullptr},
    {"sysfs", "/sys", kSafe, nullptr},
    {"devtmpfs", "/dev", MS_NOSUID, "mode=755"},
    {"devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"},
    {"tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777"},
};

// The root is the initramfs and so already in memory: /tmp and /run need no mount of their own.
void link_standard_streams() {
  constexpr const char* kLinks[][2] = {{"/proc/self/fd", "/dev/fd"},
                                       {"/proc/self/fd/0", "/dev/stdin"},
                                       {"/proc/self/fd/1", "/dev/stdout"},
                                       {"/proc/self/fd/2", "/dev/stderr"}};
  for (const auto& link : kLinks) {
    if (::symlink(link[0], link[1]) != 0 && errno != EEXIST) complain(link[1], errno);
  }
}

void load_module(const char* path) {
  const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return complain(path, errno);
  if (::syscall(SYS_finit_module, fd, "", 0) != 0 && errno != EEXIST) complain(path, errno);
  ::close(fd);
}

}  // namespace

void complain(const char* what, int os_error) {
  char line[256];
  const char* reason = os_error == 0 ? nullptr : ::strerror(os_error);
  const int length = std::snprintf(line, sizeof(line), "init: %s%s%s\n", what,
                                   reason == nullptr ? "" : ": ", reason == nullptr ? "" : reason);
  if (length <= 0) return;
  const auto size =
      static_cast<size_t>(length) < sizeof(line) ? static_cast<size_t>(length) : sizeof(line) - 1;
  // Nowhere to complain about a console that takes nothing.
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line, size);
}

void mount_file_systems() {
  for (const auto& point : kMountPoints) {
    ::mkdir(point.where, 0755);
    if (::mount(point.type, point.where, point.type, point.flags, point.options) != 0 &&
        errno != EBUSY) {
      complain(point.where, errno);
    }
  }
  link_standard_streams();
}

void load_boot_modules() {
  utsname name{};
  ::uname(&name);
  char path[256];
  std::snprintf(path, sizeof(path), "/lib/modules/%s/trapeze.boot", name.release);
  const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  char list[4096];
  const ssize_t size = ::read(fd, list, sizeof(list) - 1);
  ::close(fd);
  if (size <= 0) return;
  list[size] = '\0';
  char* rest = nullptr;
  for (char* line = ::strtok_r(list, "\n", &rest); line != nullptr;
       line = ::strtok_r(nullptr, "\n", &rest)) {
    load_module(line);
  }
}

void set_up_network() {
  constexpr char kHostName[] = "trapeze";
  if (::sethostname(kHostName, sizeof(kHostName) - 1) != 0) complain("sethostname", errno);
  const int fd = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return;  // a kernel without IPv4
  ifreq request{};
  std::memcpy(request.ifr_name, "lo", sizeof("lo"));
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (::ioctl(fd, SIOCSIFFLAGS, &request) != 0) complain("lo", errno);
  ::close(fd);
}

void credit_entropy(std::span<const unsigned char> seed) {
  constexpr size_t kMaxSeedBytes = 64;
  if (seed.size() > kMaxSeedBytes) seed = seed.first(kMaxSeedBytes);
  alignas(rand_pool_info) unsigned char request[sizeof(rand_pool_info) + kMaxSeedBytes] = {};
  const int sizes[2] = {static_cast<int>(seed.size() * 8), static_cast<int>(seed.size())};
  std::memcpy(request, sizes, sizeof(sizes));
  std::memcpy(request + offsetof(rand_pool_info, buf), seed.data(), seed.size());
  const int fd = ::open("/dev/random", O_RDWR | O_CLOEXEC);
  if (fd < 0) return complain("/dev/random", errno);
  if (::ioctl(fd, RNDADDENTROPY, request) != 0) complain("RNDADDENTROPY", errno);
  ::close(fd);
}

void power_off() {
  if (has_storage()) ::sync();
  settle_disks();
  ::reboot(RB_POWER_OFF);
  complain("reboot(RB_POWER_OFF)", errno);
  // PID 1 may not end: the kernel would panic.
  for (;;) ::pause();
}

}  // namespace trapeze::guest
