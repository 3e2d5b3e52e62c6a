#include "vm/manage/control_server.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/bytes.h"
#include "base/unix_socket.h"

namespace trapeze::manage {
namespace {

constexpr int kBacklog = 64;
// How long finish() waits for a viewer that reads slowly.
constexpr int kLastWordsMs = 500;

}  // namespace

Result<std::unique_ptr<ControlServer>> ControlServer::create(const std::string& path,
                                                             EventLoop& loop, ConsoleHub& console,
                                                             ControlHandler& handler) {
  std::unique_ptr<ControlServer> server(new ControlServer(loop, console, handler));
  TRY(server->listen(path));
  ControlServer* const target = server.get();
  console.set_viewers({.output_arrived = [target] { target->output_arrived(); },
                       .input_possible = [target] { target->input_possible(); }});
  return server;
}

ControlServer::~ControlServer() {
  console_.set_viewers({});
  while (!connections_.empty()) drop(connections_.begin());
  loop_.unwatch(listener_.get());
}

Result<void> ControlServer::listen(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return fail("{}: the path is too long", path);
  std::memcpy(address.sun_path, path.data(), path.size());
  listener_ = Fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener_.is_open()) return fail_errno("cannot create the control socket");
  if (::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      ::listen(listener_.get(), kBacklog) != 0) {
    return fail_errno("cannot create the control socket");
  }
  return loop_.watch(listener_.get(), EPOLLIN, [this](uint32_t) { on_connection(); });
}

void ControlServer::on_connection() {
  Fd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket.is_open()) {
    if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) {
      // The connection stays in the backlog: look again when some have ended.
      loop_.set_events(listener_.get(), 0);
      loop_.start_timer(std::chrono::milliseconds(100),
                        [this] { loop_.set_events(listener_.get(), EPOLLIN); });
    }
    return;
  }
  if (connections_.size() >= kMaxConnections || !is_own_user_or_root(socket.get())) return;
  connections_.emplace_back();
  const auto added = std::prev(connections_.end());
  added->socket = std::move(socket);
  const auto watched = loop_.watch(added->socket.get(), EPOLLIN,
                                   [this, added](uint32_t events) { on_ready(added, events); });
  if (!watched) connections_.erase(added);
}

void ControlServer::drop(Connections::iterator connection) {
  loop_.unwatch(connection->socket.get());
  connections_.erase(connection);
}

void ControlServer::on_ready(Connections::iterator connection, uint32_t events) {
  bool is_alive = true;
  if ((events & EPOLLOUT) != 0) {
    connection->wants_room = false;
    is_alive = show_output(*connection);
  }
  if (is_alive && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) is_alive = receive(*connection);
  if (!is_alive) return drop(connection);
  update_events(*connection);
}

bool ControlServer::receive(Connection& connection) {
  // What a viewer typed has not been taken: its next packets wait in its socket.
  if (!connection.input.empty()) return true;
  std::array<std::byte, kMaxPacketBytes> buffer;
  const ssize_t got = ::recv(connection.socket.get(), buffer.data(), buffer.size(), MSG_TRUNC);
  if (got < 0) return errno == EAGAIN || errno == EINTR;
  if (got == 0 || static_cast<size_t>(got) > buffer.size()) return false;
  const auto packet = parse_packet(std::span(buffer).first(static_cast<size_t>(got)));
  if (!packet) {
    (void)fail_request(connection, "the machine runs another version of trapeze");
    return false;
  }
  return handle(connection, *packet);
}

bool ControlServer::handle(Connection& connection, const Packet& packet) {
  StopOrder stop;
  WindowSize size;
  BalloonOrder balloon;
  switch (packet.type) {
    case PacketType::WaitAgent:
      connection.waits_for_agent = true;
      return answer_agent_wait(connection);
    case PacketType::Stop:
      if (!decode(packet.payload, stop)) return false;
      if (!send(connection, PacketType::Done, {})) return false;
      handler_.stop_ordered(std::chrono::milliseconds(stop.timeout_ms));
      return true;
    case PacketType::Console:
      if (!decode(packet.payload, size) || connection.is_viewer) return false;
      connection.is_viewer = true;
      connection.position = console_.oldest_line();
      if (size.rows != 0) console_.resize(size.rows, size.columns);
      return show_output(connection);
    case PacketType::Input:
      if (!connection.is_viewer) return false;
      connection.input.assign(packet.payload.begin(), packet.payload.end());
      pass_input(connection);
      return true;
    case PacketType::Resize:
      if (!connection.is_viewer || !decode(packet.payload, size)) return false;
      if (size.rows != 0) console_.resize(size.rows, size.columns);
      return true;
    case PacketType::Balloon: {
      if (!decode(packet.payload, balloon)) return false;
      connection.waits_for_balloon = true;
      const auto ordered = handler_.balloon_ordered(balloon);
      if (ordered) return true;
      connection.waits_for_balloon = false;
      return fail_request(connection, ordered.error().message);
    }
    case PacketType::Done:
    case PacketType::Failed:
    case PacketType::Data:
    case PacketType::Text:
      break;
  }
  return false;
}

bool ControlServer::answer_agent_wait(Connection& connection) {
  switch (handler_.agent_state()) {
    case AgentState::Booting:
      return true;
    case AgentState::Ready:
      connection.waits_for_agent = false;
      return send(connection, PacketType::Done, {});
    case AgentState::None:
      connection.waits_for_agent = false;
      return fail_request(connection,
                          "it runs a kernel of its own, without an agent that could "
                          "start a command");
  }
  return false;
}

void ControlServer::agent_state_changed() {
  for (auto next = connections_.begin(); next != connections_.end();) {
    const auto connection = next++;
    if (connection->waits_for_agent && !answer_agent_wait(*connection)) drop(connection);
  }
}

void ControlServer::answer_balloon(const std::string& text) {
  for (auto next = connections_.begin(); next != connections_.end();) {
    const auto connection = next++;
    if (!std::exchange(connection->waits_for_balloon, false)) continue;
    if (!send(*connection, PacketType::Text, std::as_bytes(std::span(text)))) drop(connection);
  }
}

// Answers are few: a client that does not read them is closed.
bool ControlServer::send(Connection& connection, PacketType type,
                         std::span<const std::byte> payload) {
  payload = payload.first(std::min(payload.size(), kMaxPayloadBytes));
  const PacketHeader header{.type = type};
  std::array<iovec, 2> parts{iovec{const_cast<PacketHeader*>(&header), sizeof(header)},
                             iovec{const_cast<std::byte*>(payload.data()), payload.size()}};
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  return ::sendmsg(connection.socket.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0;
}

bool ControlServer::fail_request(Connection& connection, const std::string& why) {
  return send(connection, PacketType::Failed, std::as_bytes(std::span(why)));
}

// Output goes at the viewer's speed; who is slower than the scrollback is long misses some.
bool ControlServer::show_output(Connection& connection) {
  if (!connection.is_viewer) return true;
  std::array<std::byte, kMaxPayloadBytes / 2> part;
  while (!connection.wants_room) {
    uint64_t position = connection.position;
    const size_t size = console_.read(position, part);
    if (size == 0) return true;
    if (send(connection, PacketType::Data, std::span(part).first(size))) {
      connection.position = position;
    } else if (errno == EAGAIN) {
      connection.wants_room = true;
    } else {
      return false;
    }
  }
  return true;
}

void ControlServer::output_arrived() {
  for (auto next = connections_.begin(); next != connections_.end();) {
    const auto connection = next++;
    if (!connection->is_viewer) continue;
    if (show_output(*connection)) {
      update_events(*connection);
    } else {
      drop(connection);
    }
  }
}

void ControlServer::pass_input(Connection& connection) {
  const size_t taken = console_.input(connection.input);
  connection.input.erase(
      connection.input.begin(),
      connection.input.begin() + static_cast<ptrdiff_t>(std::min(taken, connection.input.size())));
}

void ControlServer::input_possible() {
  for (Connection& connection : connections_) {
    if (connection.input.empty()) continue;
    pass_input(connection);
    update_events(connection);
  }
}

void ControlServer::update_events(Connection& connection) {
  const uint32_t events = (connection.input.empty() ? uint32_t{EPOLLIN} : 0) |
                          (connection.wants_room ? uint32_t{EPOLLOUT} : 0);
  if (events != connection.events) loop_.set_events(connection.socket.get(), events);
  connection.events = events;
}

void ControlServer::finish() {
  for (Connection& connection : connections_) {
    bool is_patient = true;
    while (connection.is_viewer && is_patient) {
      connection.wants_room = false;
      if (!show_output(connection) || !connection.wants_room) break;
      pollfd room{.fd = connection.socket.get(), .events = POLLOUT, .revents = 0};
      is_patient = ::poll(&room, 1, kLastWordsMs) > 0;
    }
  }
}

}  // namespace trapeze::manage
