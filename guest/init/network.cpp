#include "init/network.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <net/route.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "init/system.h"
#include "init/text_file.h"

namespace trapeze::guest {
namespace {

constexpr char kArgument[] = "trapeze.net=";
constexpr char kInterfaces[] = "/sys/class/net";
constexpr char kResolverFile[] = "/etc/resolv.conf";
constexpr char kBoundResolverFile[] = "/run/trapeze.resolv.conf";

// What name servers there are, as lines of resolv.conf; kept for the root that comes later.
char name_servers[1024];

struct Address {
  const char* address = nullptr;
  unsigned prefix = 0;
  const char* gateway = nullptr;  // null or empty: none
};

void complain_about(const char* interface, const char* what, int os_error) {
  char text[128];
  std::snprintf(text, sizeof(text), "%s: %s", interface, what);
  complain(text, os_error);
}

// The name of the interface with that MAC address.
bool find_interface(const char* mac, char (&name)[IFNAMSIZ]) {
  DIR* dir = ::opendir(kInterfaces);
  if (dir == nullptr) return false;
  bool found = false;
  while (const dirent* entry = found ? nullptr : ::readdir(dir)) {
    if (entry->d_name[0] == '.' || std::strlen(entry->d_name) >= IFNAMSIZ) continue;
    char path[300];
    char text[32];
    std::snprintf(path, sizeof(path), "%s/%s/address", kInterfaces, entry->d_name);
    read_text(path, text);
    if (std::strncmp(text, mac, std::strlen(mac)) != 0) continue;
    std::strcpy(name, entry->d_name);
    found = true;
  }
  ::closedir(dir);
  return found;
}

bool set_address(sockaddr& to, const char* text) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  if (::inet_pton(AF_INET, text, &address.sin_addr) != 1) return false;
  std::memcpy(&to, &address, sizeof(address));
  return true;
}

void set_netmask(sockaddr& to, unsigned prefix) {
  sockaddr_in mask{};
  mask.sin_family = AF_INET;
  mask.sin_addr.s_addr = prefix == 0 ? 0 : htonl(~uint32_t{0} << (32 - prefix));
  std::memcpy(&to, &mask, sizeof(mask));
}

ifreq request_for(const char* interface) {
  ifreq request{};
  std::strncpy(request.ifr_name, interface, IFNAMSIZ - 1);
  return request;
}

void bring_up(int socket, const char* interface) {
  ifreq request = request_for(interface);
  if (::ioctl(socket, SIOCGIFFLAGS, &request) != 0) return complain(interface, errno);
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  if (::ioctl(socket, SIOCSIFFLAGS, &request) != 0) complain(interface, errno);
}

void add_default_route(int socket, const char* interface, const char* gateway) {
  rtentry route{};
  char device[IFNAMSIZ];
  std::strncpy(device, interface, IFNAMSIZ);
  route.rt_dev = device;
  route.rt_flags = RTF_UP | RTF_GATEWAY;
  set_netmask(route.rt_dst, 0);
  set_netmask(route.rt_genmask, 0);
  if (!set_address(route.rt_gateway, gateway)) return complain_about(interface, gateway, EINVAL);
  if (::ioctl(socket, SIOCADDRT, &route) != 0 && errno != EEXIST) {
    complain_about(interface, gateway, errno);
  }
}

void set_static_address(int socket, const char* interface, const Address& wanted) {
  ifreq request = request_for(interface);
  if (!set_address(request.ifr_addr, wanted.address)) {
    return complain_about(interface, wanted.address, EINVAL);
  }
  if (::ioctl(socket, SIOCSIFADDR, &request) != 0) return complain(interface, errno);
  request = request_for(interface);
  set_netmask(request.ifr_netmask, wanted.prefix);
  if (::ioctl(socket, SIOCSIFNETMASK, &request) != 0) complain(interface, errno);
  bring_up(socket, interface);
  if (wanted.gateway != nullptr && wanted.gateway[0] != '\0') {
    add_default_route(socket, interface, wanted.gateway);
  }
}

bool write_file(const char* path, const char* text) {
  const int fd = ::open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return false;
  const auto size = static_cast<ssize_t>(std::strlen(text));
  const bool is_written = ::write(fd, text, static_cast<size_t>(size)) == size;
  ::close(fd);
  return is_written;
}

// One or more addresses with spaces between them.
void add_name_servers(const char* servers) {
  char copy[256];
  std::snprintf(copy, sizeof(copy), "%s", servers);
  char* rest = nullptr;
  for (char* server = ::strtok_r(copy, " ", &rest); server != nullptr;
       server = ::strtok_r(nullptr, " ", &rest)) {
    const size_t used = std::strlen(name_servers);
    std::snprintf(name_servers + used, sizeof(name_servers) - used, "nameserver %s\n", server);
  }
  if (name_servers[0] != '\0' && !write_file(kResolverFile, name_servers)) {
    complain(kResolverFile, errno);
  }
}

// Ends when there is an address, and goes on in the background; or says that there is none.
void ask_dhcp(int socket, const char* interface) {
  bring_up(socket, interface);
  const pid_t child = ::vfork();
  if (child == 0) {
    ::execl("/sbin/udhcpc", "udhcpc", "-i", interface, "-n", "-t", "4", "-T", "1", "-S", "-s",
            "/init", nullptr);
    ::_exit(127);
  }
  int status = 0;
  if (child > 0) ::waitpid(child, &status, 0);
  if (child < 0 || status != 0) complain_about(interface, "no address by DHCP", 0);
  read_text(kResolverFile, name_servers);
}

// Cuts `order` into pieces.
void configure_card(int socket, char* order) {
  char* rest = order;
  const char* mac = ::strsep(&rest, ",");
  char* how = ::strsep(&rest, ",");
  if (how == nullptr) return complain("trapeze.net= wants MAC,HOW", 0);
  char interface[IFNAMSIZ];
  if (!find_interface(mac, interface)) {
    return complain_about(mac, "no such network card (does the kernel have virtio_net?)", 0);
  }
  if (std::strcmp(how, "none") == 0) return bring_up(socket, interface);
  if (std::strcmp(how, "dhcp") == 0) return ask_dhcp(socket, interface);
  Address wanted;
  wanted.address = ::strsep(&how, "/");
  wanted.prefix = how == nullptr ? 32 : static_cast<unsigned>(std::atoi(how));
  wanted.gateway = ::strsep(&rest, ",");
  const char* dns = ::strsep(&rest, ",");
  if (wanted.prefix > 32) return complain_about(interface, how, EINVAL);
  set_static_address(socket, interface, wanted);
  if (dns != nullptr && dns[0] != '\0') add_name_servers(dns);
}

void make_parents(char* path) {
  for (char* slash = std::strchr(path + 1, '/'); slash != nullptr;
       slash = std::strchr(slash + 1, '/')) {
    *slash = '\0';
    ::mkdir(path, 0755);
    *slash = '/';
  }
}

// Many images have a link there, to a file that a service makes in /run.
bool write_through_link() {
  char target[PATH_MAX];
  const ssize_t size = ::readlink(kResolverFile, target, sizeof(target) - 1);
  if (size <= 0) return false;
  target[size] = '\0';
  char path[PATH_MAX + 8];
  std::snprintf(path, sizeof(path), "%s%s", target[0] == '/' ? "" : "/etc/", target);
  make_parents(path);
  return write_file(path, name_servers);
}

}  // namespace

void configure_network_cards() {
  char cmdline[4096];
  read_text("/proc/cmdline", cmdline);
  int socket = -1;
  char* rest = nullptr;
  for (char* word = ::strtok_r(cmdline, " \n", &rest); word != nullptr;
       word = ::strtok_r(nullptr, " \n", &rest)) {
    if (std::strncmp(word, kArgument, sizeof(kArgument) - 1) != 0) continue;
    if (socket < 0) socket = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (socket < 0) return complain("no IPv4", errno);
    configure_card(socket, word + sizeof(kArgument) - 1);
  }
  if (socket >= 0) ::close(socket);
}

// An image's own file stays as it is: ours is put over it.
void publish_name_servers() {
  if (name_servers[0] == '\0') return;
  char there[sizeof(name_servers)];
  read_text(kResolverFile, there);
  if (std::strcmp(there, name_servers) == 0 || write_through_link()) return;
  if (::access(kResolverFile, F_OK) != 0 && write_file(kResolverFile, name_servers)) return;
  ::mkdir("/run", 0755);
  if (write_file(kBoundResolverFile, name_servers) &&
      ::mount(kBoundResolverFile, kResolverFile, nullptr, MS_BIND, nullptr) == 0) {
    return;
  }
  complain(kResolverFile, errno);
}

bool is_dhcp_script(int argc, char** argv) {
  return argc == 2 && ::getenv("interface") != nullptr && argv[1][0] != '\0';
}

int run_dhcp_script(const char* event) {
  if (std::strcmp(event, "bound") != 0 && std::strcmp(event, "renew") != 0) return 0;
  const char* interface = ::getenv("interface");
  const char* prefix = ::getenv("mask");
  const char* dns = ::getenv("dns");
  char gateway[64] = "";
  if (const char* routers = ::getenv("router")) std::sscanf(routers, "%63s", gateway);
  Address wanted{.address = ::getenv("ip"),
                 .prefix = prefix == nullptr ? 24U : static_cast<unsigned>(std::atoi(prefix)),
                 .gateway = gateway};
  if (wanted.address == nullptr || wanted.prefix > 32) return 1;
  const int socket = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (socket < 0) return 1;
  set_static_address(socket, interface, wanted);
  ::close(socket);
  if (dns != nullptr && std::strcmp(event, "bound") == 0) {
    read_text(kResolverFile, name_servers);  // of other cards
    add_name_servers(dns);
  }
  return 0;
}

}  // namespace trapeze::guest
