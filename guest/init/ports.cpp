#include "init/ports.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "agent/protocol.h"
#include "init/system.h"

namespace trapeze::guest {
namespace {

constexpr char kPortDirectory[] = "/sys/class/virtio-ports";

// Opens /dev/<device> and greets. The write blocks until the host has opened its end; before that,
// reads would return "end of file" (drivers/char/virtio_console.c, port_fops_read).
int open_port(const char* device, agent::PortRole role) {
  char path[300];
  std::snprintf(path, sizeof(path), "/dev/%s", device);
  const int fd = ::open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) {
    complain(path, errno);
    return -1;
  }
  const agent::Greeting greeting{.role = role};
  if (::write(fd, &greeting, sizeof(greeting)) != static_cast<ssize_t>(sizeof(greeting)) ||
      ::fcntl(fd, F_SETFL, O_NONBLOCK) != 0) {
    complain(path, errno);
    ::close(fd);
    return -1;
  }
  return fd;
}

bool read_port_name(const char* device, char (&name)[64]) {
  char path[300];
  std::snprintf(path, sizeof(path), "%s/%s/name", kPortDirectory, device);
  const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;  // has no name, or not yet
  const ssize_t size = ::read(fd, name, sizeof(name) - 1);
  ::close(fd);
  if (size <= 0) return false;
  name[size] = '\0';
  if (char* newline = std::strchr(name, '\n')) *newline = '\0';
  return true;
}

void take_port(const char* device, Ports& ports) {
  char name_bytes[64];
  if (!read_port_name(device, name_bytes)) return;
  const std::string_view name(name_bytes);
  if (name == agent::kControlPort && ports.control < 0) {
    ports.control = open_port(device, agent::PortRole::Control);
  } else if (name == agent::kStdioPort && ports.stdio < 0) {
    ports.stdio = open_port(device, agent::PortRole::Stdio);
  } else if (name == agent::kStderrPort && ports.stderr_out < 0) {
    ports.stderr_out = open_port(device, agent::PortRole::Stderr);
  }
}

template <typename Visitor>
void for_each_entry(const char* directory, Visitor&& visit) {
  DIR* dir = ::opendir(directory);
  if (dir == nullptr) return;
  while (const dirent* entry = ::readdir(dir)) {
    if (entry->d_name[0] != '.') visit(entry->d_name);
  }
  ::closedir(dir);
}

}  // namespace

int open_uevents() {
  const int fd = ::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT);
  if (fd < 0) {
    complain("uevent socket", errno);
    return -1;
  }
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = 1;  // the kernel's own broadcasts
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    complain("uevent socket", errno);
    ::close(fd);
    return -1;
  }
  return fd;
}

bool has_console_device() {
  bool found = false;
  for_each_entry("/sys/bus/virtio/drivers/virtio_console",
                 [&](const char* name) { found |= std::strncmp(name, "virtio", 6) == 0; });
  return found;
}

bool open_ports(int uevents, Ports& ports) {
  for (;;) {
    for_each_entry(kPortDirectory, [&](const char* device) { take_port(device, ports); });
    if (ports.all_open()) return true;
    // Every new port and every name makes an event. An overrun (ENOBUFS) is as good as one.
    char event[2048];
    if (::recv(uevents, event, sizeof(event), 0) < 0 && errno != EINTR && errno != ENOBUFS) {
      complain("waiting for the agent's ports", errno);
      return false;
    }
  }
}

}  // namespace trapeze::guest
