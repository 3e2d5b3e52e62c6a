#include "backend/vsock/quiet_reader.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "base/unix_socket.h"

namespace trapeze {
namespace {

constexpr size_t kMaxParts = 64;

// Without the detour of a message where there is one part.
ssize_t receive(int socket, std::span<const iovec> to) {
  if (to.size() == 1) return ::recv(socket, to[0].iov_base, to[0].iov_len, MSG_DONTWAIT);
  msghdr message = message_of(to);
  return ::recvmsg(socket, &message, MSG_DONTWAIT);
}

}  // namespace

// HOT
ssize_t QuietReader::read(std::span<const iovec> to) {
  const bool is_turn = has_answered_;
  if (is_quiet() && is_turn && !to.empty()) return look(to);
  take_off();
  const ssize_t got = receive(socket_, to);
  if (got < 0) return got;
  has_answered_ = false;
  const bool is_small = static_cast<size_t>(got) < kMaxMessageBytes;
  turns_ = is_turn && is_small ? turns_ + 1 : 0;
  if (is_quiet() && !has_peek_offset_) {
    const int offset = 0;
    has_peek_offset_ = ::setsockopt(socket_, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof(offset)) == 0;
    if (!has_peek_offset_) stop();
  }
  return got;
}

ssize_t QuietReader::look(std::span<const iovec> to) {
  const size_t wanted = std::min(to[0].iov_len, kMaxMessageBytes);
  const ssize_t got = ::recv(socket_, to[0].iov_base, wanted, MSG_DONTWAIT | MSG_PEEK);
  if (got <= 0) return got;
  has_answered_ = is_silent_ = false;
  held_bytes_ += static_cast<size_t>(got);
  ++held_messages_;
  if (static_cast<size_t>(got) < wanted) return got;
  // Not a small one: what is behind it would tell of itself no more.
  take_off();
  turns_ = 0;
  return read_behind(to, wanted);
}

ssize_t QuietReader::read_behind(std::span<const iovec> to, size_t done) {
  std::array<iovec, kMaxParts> rest;
  const size_t count = std::min(to.size(), rest.size());
  std::copy_n(to.begin(), count, rest.begin());
  rest[0].iov_base = static_cast<std::byte*>(rest[0].iov_base) + done;
  rest[0].iov_len -= done;
  const ssize_t more = receive(socket_, std::span(rest).first(count));
  return static_cast<ssize_t>(done) + std::max<ssize_t>(more, 0);
}

void QuietReader::note_answer() {
  has_answered_ = true;
  if (held_messages_ >= kMaxHeldMessages || held_bytes_ >= kMaxHeldBytes) take_off();
}

void QuietReader::look_for_silence() {
  if (!std::exchange(is_silent_, true)) return;
  take_off();
  // What looks like a sender that waits has to earn it again, each time harder.
  if (needed_turns_ < kMaxNeededTurns) needed_turns_ *= 2;
  turns_ = 0;
}

void QuietReader::stop() {
  take_off();
  turns_ = 0;
  needed_turns_ = kNever;
}

void QuietReader::take_off() {
  std::array<std::byte, kMaxHeldBytes> scrap;
  while (held_bytes_ != 0) {
    const ssize_t got =
        ::recv(socket_, scrap.data(), std::min(held_bytes_, scrap.size()), MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    held_bytes_ -= static_cast<size_t>(got);
  }
  held_bytes_ = 0;
  held_messages_ = 0;
}

}  // namespace trapeze
