#include "vm/agent/session.h"

#include <sys/random.h>

#include <algorithm>
#include <cstring>

#include "base/bytes.h"

namespace trapeze {
namespace {

// The largest frame that a guest has reason to send.
constexpr size_t kMaxGuestPayload = sizeof(agent::Exited);

void append(std::vector<std::byte>& to, std::span<const std::byte> bytes) {
  to.insert(to.end(), bytes.begin(), bytes.end());
}

Result<void> append_string(std::vector<std::byte>& to, const std::string& text) {
  if (text.find('\0') != std::string::npos) return fail("an argument has a zero byte in it");
  append(to, std::as_bytes(std::span(text.c_str(), text.size() + 1)));
  return {};
}

Result<std::vector<std::byte>> mount_payload(const MountConfig& mount) {
  agent::MountHeader header;
  header.flags = mount.is_read_only ? agent::kMountReadOnly : 0U;
  std::vector<std::byte> payload;
  append(payload, bytes_of_value(header));
  TRY(append_string(payload, mount.tag));
  TRY(append_string(payload, mount.guest_path));
  return payload;
}

Result<std::vector<std::byte>> exec_payload(const CommandConfig& command) {
  agent::ExecHeader header;
  header.flags = (command.on_terminal ? agent::kExecOnTerminal : 0U) |
                 (command.argv.empty() ? agent::kExecDefaultShell : 0U);
  header.argc = static_cast<uint32_t>(command.argv.size());
  header.envc = static_cast<uint32_t>(command.env.size());
  header.rows = command.rows;
  header.columns = command.columns;
  if (::getrandom(header.seed, sizeof(header.seed), 0) != sizeof(header.seed)) {
    return fail_errno("no random bytes from the host");
  }
  std::vector<std::byte> payload;
  append(payload, bytes_of_value(header));
  for (const auto& text : command.argv) TRY(append_string(payload, text));
  for (const auto& text : command.env) TRY(append_string(payload, text));
  TRY(append_string(payload, command.working_directory));
  if (payload.size() > agent::kMaxPayloadBytes || command.argv.size() > agent::kMaxStrings ||
      command.env.size() > agent::kMaxStrings) {
    return fail("the command line and its environment are too long: {} bytes, at most {}",
                payload.size(), agent::kMaxPayloadBytes);
  }
  return payload;
}

}  // namespace

Result<std::unique_ptr<AgentSession>> AgentSession::create(EventLoop& loop,
                                                           const CommandConfig& command,
                                                           HostStreams streams,
                                                           AgentListener& listener) {
  std::vector<std::vector<std::byte>> mounts;
  for (const auto& mount : command.mounts) mounts.push_back(TRY(mount_payload(mount)));
  auto exec = TRY(exec_payload(command));
  return std::unique_ptr<AgentSession>(
      new AgentSession(loop, command.on_terminal && command.has_escape, std::move(mounts),
                       std::move(exec), streams, listener));
}

AgentSession::AgentSession(EventLoop& loop, bool has_escape,
                           std::vector<std::vector<std::byte>> mounts, std::vector<std::byte> exec,
                           HostStreams streams, AgentListener& listener)
    : loop_(loop),
      listener_(listener),
      mounts_(std::move(mounts)),
      exec_(std::move(exec)),
      has_escape_(has_escape),
      stdout_(loop, streams.out),
      stderr_(loop, streams.err),
      stdin_fd_(streams.in) {
  connect_output(stdout_, stdio_port_, agent::PortRole::Stdio, "stdout");
  connect_output(stderr_, stderr_port_, agent::PortRole::Stderr, "stderr");
}

AgentSession::~AgentSession() = default;

void AgentSession::connect_output(OutputStream& output, Port& port, agent::PortRole role,
                                  const char* name) {
  output.set_handlers(
      [&port] {
        if (port.guest() != nullptr) port.guest()->output_ready();
      },
      [this, role, name](int os_error) {
        const agent::OutputClosed closed{.role = role};
        send_frame(agent::FrameType::OutputClosed, bytes_of_value(closed));
        listener_.output_lost(name, os_error);
      });
}

std::vector<ConsolePortConfig> AgentSession::ports() {
  return {{.name = std::string(agent::kControlPort), .port = &control_port_},
          {.name = std::string(agent::kStdioPort), .port = &stdio_port_},
          {.name = std::string(agent::kStderrPort), .port = &stderr_port_}};
}

size_t AgentSession::Port::receive(std::span<const std::byte> bytes) {
  size_t done = 0;
  if (greeted_ < sizeof(greeting_)) {
    done = std::min(bytes.size(), sizeof(greeting_) - greeted_);
    std::memcpy(reinterpret_cast<std::byte*>(&greeting_) + greeted_, bytes.data(), done);
    greeted_ += done;
    if (greeted_ == sizeof(greeting_) && !agent::is_sound(greeting_, role_)) {
      session_.fail("it speaks another version of the agent protocol");
    }
  }
  if (done == bytes.size()) return done;
  return done + session_.receive(role_, bytes.subspan(done));
}

void AgentSession::Port::on_guest_ready() {
  switch (role_) {
    case agent::PortRole::Control:
      session_.flush_control();
      return;
    case agent::PortRole::Stdio:
      if (session_.stdin_ != nullptr) session_.stdin_->resume();
      return;
    case agent::PortRole::Stderr:
      return;
  }
}

size_t AgentSession::take_stdin(std::span<const std::byte> bytes) {
  ConsoleGuest* guest = stdio_port_.guest();
  if (state_ != State::Running)
    return 0;  // nobody is there to read it: leave it to the next program
  const size_t taken = guest == nullptr ? 0 : guest->send(bytes);
  stdin_sent_ += taken;
  if (!has_escape_) return taken;
  for (const std::byte byte : bytes.first(taken)) {
    escapes_seen_ = byte == kEscapeByte ? escapes_seen_ + 1 : 0;
    if (escapes_seen_ == kEscapeCount) listener_.escape_typed();
  }
  return taken;
}

size_t AgentSession::receive(agent::PortRole role, std::span<const std::byte> bytes) {
  switch (role) {
    case agent::PortRole::Control:
      return receive_control(bytes);
    case agent::PortRole::Stdio:
      return receive_output(stdout_, bytes);
    case agent::PortRole::Stderr:
      return receive_output(stderr_, bytes);
  }
  return bytes.size();  // no such role
}

size_t AgentSession::receive_output(OutputStream& output, std::span<const std::byte> bytes) {
  const size_t taken = output.write(bytes);
  finish_if_delivered();
  return taken;
}

size_t AgentSession::receive_control(std::span<const std::byte> bytes) {
  const size_t all = bytes.size();
  while (!bytes.empty() && state_ != State::Broken) {
    agent::FrameHeader header;
    const size_t header_missing = sizeof(header) - std::min(sizeof(header), incoming_.size());
    size_t wanted = header_missing;
    if (header_missing == 0) {
      std::memcpy(&header, incoming_.data(), sizeof(header));
      wanted = sizeof(header) + header.payload_bytes - incoming_.size();
    }
    const size_t part = std::min(wanted, bytes.size());
    append(incoming_, bytes.first(part));
    bytes = bytes.subspan(part);
    if (incoming_.size() < sizeof(header)) break;
    std::memcpy(&header, incoming_.data(), sizeof(header));
    if (!agent::is_sound(header) || header.payload_bytes > kMaxGuestPayload) {
      fail("it sent a frame that makes no sense");
      break;
    }
    if (incoming_.size() < sizeof(header) + header.payload_bytes) continue;
    handle_frame(header, std::span<const std::byte>(incoming_).subspan(sizeof(header)));
    incoming_.clear();
  }
  return all;
}

void AgentSession::handle_frame(const agent::FrameHeader& header,
                                std::span<const std::byte> payload) {
  agent::ExecFailed failure;
  if (header.type == agent::FrameType::Ready && state_ == State::WaitGuest && payload.empty()) {
    state_ = State::Starting;
    listener_.agent_ready();
    for (const auto& mount : mounts_) send_frame(agent::FrameType::Mount, mount);
    mounts_ = {};
    send_frame(agent::FrameType::Exec, exec_);
    exec_ = {};
  } else if (header.type == agent::FrameType::Started && state_ == State::Starting) {
    started();
  } else if (header.type == agent::FrameType::ExecFailed && state_ == State::Starting &&
             agent::decode(payload, failure)) {
    state_ = State::Ended;
    listener_.command_failed(failure);
  } else if (header.type == agent::FrameType::Exited && state_ == State::Running &&
             agent::decode(payload, exited_)) {
    state_ = State::Delivering;
    stdout_.announce(exited_.stdout_bytes);
    stderr_.announce(exited_.stderr_bytes);
    finish_if_delivered();
  } else {
    fail("it sent a frame that makes no sense");
  }
}

void AgentSession::started() {
  state_ = State::Running;
  // Its output comes another way, and may be seen before this.
  if (early_size_) resize(early_size_->rows, early_size_->columns);
  listener_.command_started();
  start_stdin();
}

void AgentSession::start_stdin() {
  auto input = StreamFd::borrow(stdin_fd_, StreamFd::Direction::Read);
  if (!input) return end_stdin();  // a closed stdin is an empty one
  auto pump = InputPump::create(
      loop_, std::move(*input),
      [this](std::span<const std::byte> bytes) { return take_stdin(bytes); },
      [this] { end_stdin(); });
  if (!pump) return end_stdin();
  stdin_ = std::move(*pump);
}

void AgentSession::end_stdin() {
  const agent::StdinEnd end{.total_bytes = stdin_sent_};
  send_frame(agent::FrameType::StdinEnd, bytes_of_value(end));
}

void AgentSession::finish_if_delivered() {
  if (state_ != State::Delivering || !stdout_.is_complete() || !stderr_.is_complete()) return;
  state_ = State::Ended;
  listener_.command_ended(exited_);
}

void AgentSession::send_signal(int number) {
  if (state_ != State::Running) return;
  const agent::Signal signal{.number = static_cast<uint32_t>(number)};
  send_frame(agent::FrameType::Signal, bytes_of_value(signal));
}

void AgentSession::resize(uint16_t rows, uint16_t columns) {
  const agent::WindowSize size{.rows = rows, .columns = columns};
  if (state_ == State::Running) {
    send_frame(agent::FrameType::WindowSize, bytes_of_value(size));
  } else {
    early_size_ = size;
  }
}

void AgentSession::power_off() { send_frame(agent::FrameType::PowerOff, {}); }

void AgentSession::send_frame(agent::FrameType type, std::span<const std::byte> payload) {
  const agent::FrameHeader header{.type = type,
                                  .payload_bytes = static_cast<uint32_t>(payload.size())};
  append(to_send_, bytes_of_value(header));
  append(to_send_, payload);
  flush_control();
}

void AgentSession::flush_control() {
  ConsoleGuest* guest = control_port_.guest();
  if (guest == nullptr || to_send_.empty()) return;
  const size_t taken = guest->send(to_send_);
  to_send_.erase(to_send_.begin(), to_send_.begin() + static_cast<ptrdiff_t>(taken));
}

void AgentSession::fail(const std::string& why) {
  if (state_ == State::Broken) return;
  state_ = State::Broken;
  listener_.agent_broken(why);
}

}  // namespace trapeze
