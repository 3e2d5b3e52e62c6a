#include "init/disks.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "init/system.h"
#include "init/text_file.h"

namespace trapeze::guest {
namespace {

constexpr char kRootArgument[] = "trapeze.root=";
constexpr char kNewRoot[] = "/newroot";
constexpr char kLower[] = "/newroot.lower";
constexpr char kLayer[] = "/newroot.layer";
constexpr char kSharedFolder[] = "virtiofs";

unsigned count_virtio_devices(const char* type) {
  constexpr char kDevices[] = "/sys/bus/virtio/devices";
  DIR* dir = ::opendir(kDevices);
  if (dir == nullptr) return 0;
  unsigned count = 0;
  while (const dirent* entry = ::readdir(dir)) {
    if (entry->d_name[0] == '.') continue;
    char path[300];
    char text[16];
    std::snprintf(path, sizeof(path), "%s/%s/device", kDevices, entry->d_name);
    read_text(path, text);
    if (std::strncmp(text, type, std::strlen(type)) == 0) ++count;
  }
  ::closedir(dir);
  return count;
}

// The nvdimm bus looks for its devices on threads of its own: a command must not come before them.
void wait_for_pmem(unsigned count) {
  constexpr int kTries = 2000;
  for (int i = 0; i < kTries; ++i) {
    unsigned found = 0;
    for (unsigned n = 0; n < count; ++n) {
      char path[32];
      std::snprintf(path, sizeof(path), "/dev/pmem%u", n);
      if (::access(path, F_OK) == 0) ++found;
    }
    if (found == count) return;
    ::usleep(1000);
  }
  complain("not all virtio-pmem devices have come up", 0);
}

void load_with_dependencies(const char* module) {
  const pid_t child = ::vfork();
  if (child == 0) {
    ::execl("/sbin/modprobe", "modprobe", "-q", module, nullptr);
    ::_exit(127);
  }
  if (child > 0) ::waitpid(child, nullptr, 0);
}

struct RootOrder {
  char* device = nullptr;
  char* type = nullptr;
  char* mode = nullptr;
};

// Cuts `cmdline` into pieces. False when there is no order.
bool find_root_order(char* cmdline, RootOrder& order) {
  char* rest = nullptr;
  for (char* word = ::strtok_r(cmdline, " \n", &rest); word != nullptr;
       word = ::strtok_r(nullptr, " \n", &rest)) {
    if (std::strncmp(word, kRootArgument, sizeof(kRootArgument) - 1) != 0) continue;
    char* parts = nullptr;
    order.device = ::strtok_r(word + sizeof(kRootArgument) - 1, ":", &parts);
    order.type = ::strtok_r(nullptr, ":", &parts);
    order.mode = ::strtok_r(nullptr, ":", &parts);
    return true;
  }
  return false;
}

// A folder of the host is read in requests of up to a megabyte, as long as one may be
// (FUSE_MAX_MAX_PAGES), instead of the 128 KiB that suit disks: each has to wake up the other side.
// The server's reply to FUSE_INIT can only lower it. What fails leaves what was.
void read_further_ahead(const char* where, const char* type) {
  struct stat info {};
  if (std::strcmp(type, kSharedFolder) != 0 || ::stat(where, &info) != 0) return;
  char path[80];
  std::snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", major(info.st_dev),
                minor(info.st_dev));
  const int setting = ::open(path, O_WRONLY | O_CLOEXEC);
  if (setting < 0) return;
  constexpr char kKib[] = "1024\n";
  [[maybe_unused]] const ssize_t written = ::write(setting, kKib, sizeof(kKib) - 1);
  ::close(setting);
}

bool mount_or_complain(const char* device, const char* where, const char* type, unsigned long flags,
                       const char* options) {
  ::mkdir(where, 0755);
  if (::mount(device, where, type, flags, options) == 0) {
    read_further_ahead(where, type);
    return true;
  }
  char text[200];
  std::snprintf(text, sizeof(text), "cannot mount the root %s as %s%s", device, type,
                errno == ENODEV ? " (the kernel has no such file system: trapeze kit build)" : "");
  complain(text, errno);
  return false;
}

bool mount_root(const RootOrder& order) {
  if (std::strcmp(order.mode, "layer") != 0) {
    const bool is_read_only = std::strcmp(order.mode, "ro") == 0;
    return mount_or_complain(order.device, kNewRoot, order.type, is_read_only ? MS_RDONLY : 0,
                             nullptr);
  }
  if (!mount_or_complain(order.device, kLower, order.type, MS_RDONLY, nullptr)) return false;
  if (!mount_or_complain("tmpfs", kLayer, "tmpfs", 0, "mode=755")) return false;
  ::mkdir("/newroot.layer/upper", 0755);
  ::mkdir("/newroot.layer/work", 0755);
  return mount_or_complain("overlay", kNewRoot, "overlay", 0,
                           "lowerdir=/newroot.lower,upperdir=/newroot.layer/upper,"
                           "workdir=/newroot.layer/work");
}

bool move_mounts() {
  for (const char* where : {"/proc", "/sys", "/dev"}) {
    char target[32];
    std::snprintf(target, sizeof(target), "%s%s", kNewRoot, where);
    ::mkdir(target, 0755);
    if (::mount(where, target, nullptr, MS_MOVE, nullptr) != 0) {
      complain(target, errno);
      return false;
    }
  }
  return true;
}

// Where programs expect to be able to write, whatever the root is.
void mount_scratch() {
  for (const char* where : {"/tmp", "/run"}) {
    if (::mount("tmpfs", where, "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777") != 0) {
      complain(where, errno);
    }
  }
}

bool is_on_disk(const char* mount_line) { return std::strncmp(mount_line, "/dev/", 5) == 0; }

void end_other_processes() {
  constexpr int kTries = 200;
  ::kill(-1, SIGKILL);
  for (int i = 0; i < kTries; ++i) {
    pid_t ended = 0;
    do {
      ended = ::waitpid(-1, nullptr, WNOHANG);
    } while (ended > 0);
    if (ended < 0) return;
    ::usleep(10'000);
  }
}

// Paths in /proc/self/mounts have spaces and the like as octal escapes.
void unescape(char* text) {
  char* to = text;
  for (const char* from = text; *from != '\0';) {
    unsigned value = 0;
    if (from[0] == '\\' && std::sscanf(from + 1, "%3o", &value) == 1) {
      *to++ = static_cast<char>(value);
      from += 4;
    } else {
      *to++ = *from++;
    }
  }
  *to = '\0';
}

}  // namespace

void load_device_drivers() {
  struct Driver {
    const char* virtio_type;
    const char* module;
  };
  constexpr Driver kDrivers[] = {{"0x0001", "virtio_net"},
                                 {"0x0002", "virtio_blk"},
                                 {"0x0005", "virtio_balloon"},
                                 {"0x0013", "vmw_vsock_virtio_transport"},
                                 {"0x001a", "virtiofs"},
                                 {"0x001b", "nd_pmem"},
                                 {"0x001b", "virtio_pmem"}};
  for (const Driver& driver : kDrivers) {
    if (count_virtio_devices(driver.virtio_type) != 0) load_with_dependencies(driver.module);
  }
  if (const unsigned pmems = count_virtio_devices("0x001b"); pmems != 0) wait_for_pmem(pmems);
}

bool has_storage() {
  for (const char* type : {"0x0002", "0x001b"}) {  // block, pmem
    if (count_virtio_devices(type) != 0) return true;
  }
  return false;
}

bool enter_root() {
  char cmdline[4096];
  read_text("/proc/cmdline", cmdline);
  RootOrder order;
  if (!find_root_order(cmdline, order)) return true;
  if (order.device == nullptr || order.type == nullptr || order.mode == nullptr) {
    complain("trapeze.root= wants DEVICE:TYPE:MODE", 0);
    return false;
  }
  if (!mount_root(order) || !move_mounts()) return false;
  if (::chdir(kNewRoot) != 0 || ::mount(".", "/", nullptr, MS_MOVE, nullptr) != 0 ||
      ::chroot(".") != 0 || ::chdir("/") != 0) {
    complain("cannot change to the new root", errno);
    return false;
  }
  if (std::strcmp(order.mode, "ro") == 0) mount_scratch();
  return true;
}

int mount_share(const char* tag, const char* path, bool is_read_only) {
  char folder[4096];
  const size_t bytes = std::strlen(path);
  if (bytes >= sizeof(folder)) return ENAMETOOLONG;
  std::memcpy(folder, path, bytes + 1);
  for (size_t i = 1; i <= bytes; ++i) {
    if (folder[i] != '/' && folder[i] != '\0') continue;
    const char end = folder[i];
    folder[i] = '\0';
    // One that cannot be made may be there; if not, the mount says so.
    ::mkdir(folder, 0755);
    folder[i] = end;
  }
  if (::mount(tag, path, kSharedFolder, is_read_only ? MS_RDONLY : 0, nullptr) != 0) return errno;
  read_further_ahead(path, kSharedFolder);
  return 0;
}

void settle_disks() {
  static char mounts[64 * 1024];
  read_text("/proc/self/mounts", mounts);
  bool has_ended_others = false;
  char* rest = nullptr;
  for (char* line = ::strtok_r(mounts, "\n", &rest); line != nullptr;
       line = ::strtok_r(nullptr, "\n", &rest)) {
    if (!is_on_disk(line)) continue;
    if (!has_ended_others) end_other_processes();
    has_ended_others = true;
    char* fields = nullptr;
    ::strtok_r(line, " ", &fields);
    char* where = ::strtok_r(nullptr, " ", &fields);
    if (where == nullptr) continue;
    unescape(where);
    if (::mount(nullptr, where, nullptr, MS_REMOUNT | MS_RDONLY, nullptr) != 0) {
      complain(where, errno);
    }
  }
}

}  // namespace trapeze::guest
