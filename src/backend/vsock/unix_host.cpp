#include "backend/vsock/unix_host.h"

#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <utility>

#include "backend/vsock/unix_stream.h"
#include "base/unix_socket.h"

namespace trapeze {
namespace {

constexpr int kBacklog = 1024;

std::optional<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) return std::nullopt;
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

int with_address(int (*call)(int, const sockaddr*, socklen_t), int fd, const sockaddr_un& address) {
  return call(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
}

Fd open_socket() { return Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)); }

// True when `path` is a socket whose owner has gone.
bool is_stale(const std::string& path, const sockaddr_un& address) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0 || !S_ISSOCK(info.st_mode)) return false;
  const Fd probe = open_socket();
  return with_address(::connect, probe.get(), address) != 0 && errno == ECONNREFUSED;
}

// Each connection is a file descriptor; the customary soft limit of 1024 is for select().
void raise_file_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

std::optional<uint32_t> UnixHost::parse_order(std::string_view line) {
  constexpr std::string_view kWord = "CONNECT ";
  if (!line.starts_with(kWord)) return std::nullopt;
  line.remove_prefix(kWord.size());
  if (line.ends_with('\r')) line.remove_suffix(1);
  uint32_t port = 0;
  const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), port);
  if (error != std::errc{} || end != line.data() + line.size()) return std::nullopt;
  return port;
}

Result<std::unique_ptr<UnixHost>> UnixHost::create(const std::string& path, EventLoop& loop,
                                                   Peers peers) {
  raise_file_limit();
  std::unique_ptr<UnixHost> host(new UnixHost(path, loop, peers));
  TRY(host->listen());
  return host;
}

Result<void> UnixHost::listen() {
  const auto address = address_of(path_);
  if (!address) {
    return fail("{}: the path of a unix socket must have 1 to {} bytes", path_,
                sizeof(sockaddr_un::sun_path) - 1);
  }
  Fd fd = open_socket();
  if (!fd.is_open()) return fail_errno("cannot create a unix socket");
  if (with_address(::bind, fd.get(), *address) != 0) {
    if (errno != EADDRINUSE) return fail_errno("{}", path_);
    if (!is_stale(path_, *address)) {
      return fail(
          "{}: exists already; another machine may be using it. Name another path, or "
          "remove it",
          path_);
    }
    ::unlink(path_.c_str());
    if (with_address(::bind, fd.get(), *address) != 0) return fail_errno("{}", path_);
  }
  listener_ = std::move(fd);
  if (::listen(listener_.get(), kBacklog) != 0) return fail_errno("{}", path_);
  return loop_.watch(listener_.get(), EPOLLIN, [this](uint32_t) { on_connection(); });
}

UnixHost::~UnixHost() {
  while (!greeters_.empty()) drop(greeters_.begin());
  if (!listener_.is_open()) return;
  loop_.unwatch(listener_.get());
  ::unlink(path_.c_str());
}

std::unique_ptr<VsockStream> UnixHost::connect(uint32_t host_port) {
  const auto address = address_of(path_ + "_" + std::to_string(host_port));
  if (!address) return nullptr;
  Fd socket = open_socket();
  // A listener whose backlog is full (EAGAIN) refuses, too: waiting would be the guest's time.
  if (!socket.is_open() || with_address(::connect, socket.get(), *address) != 0) return nullptr;
  return std::make_unique<UnixStream>(std::move(socket), loop_);
}

void UnixHost::on_connection() {
  for (;;) {
    Fd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket.is_open()) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) {
        // The connection stays in the backlog: look again when some have ended.
        loop_.set_events(listener_.get(), 0);
        loop_.start_timer(std::chrono::milliseconds(100),
                          [this] { loop_.set_events(listener_.get(), EPOLLIN); });
      }
      return;
    }
    if (peers_ == Peers::OwnUserAndRoot && !is_own_user_or_root(socket.get())) continue;
    // Those that say nothing must not keep others out.
    if (greeters_.size() == kMaxGreeters) drop(greeters_.begin());
    const auto greeter = greeters_.insert(greeters_.end(), {std::move(socket), {}});
    const auto watched = loop_.watch(greeter->socket.get(), EPOLLIN,
                                     [this, greeter](uint32_t) { on_order(greeter); });
    if (!watched) {
      greeters_.erase(greeter);
      continue;
    }
    on_order(greeter);  // mostly it is there already; then this greeter makes room at once
  }
}

void UnixHost::drop(Greeters::iterator greeter) {
  loop_.unwatch(greeter->socket.get());
  greeters_.erase(greeter);
}

void UnixHost::on_order(Greeters::iterator greeter) {
  // Byte by byte: what follows the line is the guest's.
  for (;;) {
    char byte = 0;
    const ssize_t got = ::read(greeter->socket.get(), &byte, 1);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0 || greeter->line.size() == kMaxOrderBytes) return drop(greeter);
    if (byte == '\n') break;
    greeter->line += byte;
  }
  const auto port = parse_order(greeter->line);
  loop_.unwatch(greeter->socket.get());
  Fd socket = std::move(greeter->socket);
  greeters_.erase(greeter);
  if (port && guest_ != nullptr) {
    guest_->host_connects(*port, std::make_unique<UnixStream>(std::move(socket), loop_));
  }
}

}  // namespace trapeze
