// QuietReader: reads from a unix stream socket and does not wake up the sender for nothing. To take
// a message off gives its sender room, and the kernel wakes up whoever waits at that socket, even
// one that waits in recv(2) for the answer. So while both sides talk in turns, in small messages,
// these are only looked at (MSG_PEEK with SO_PEEK_OFF, socket(7)) and taken off later, many at once
// and right after an answer, when the sender is awake anyway.
//
// While it holds messages the socket is ready for reading all the time: only edges tell of more.
// Threads: that of its stream.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace trapeze {

class QuietReader {
 public:
  static constexpr uint32_t kTurnsToTrust = 16;
  static constexpr size_t kMaxMessageBytes = 1024;
  // Far less than what a sender has room for, unless it chose otherwise.
  static constexpr uint32_t kMaxHeldMessages = 16;
  static constexpr size_t kMaxHeldBytes = 4096;

  explicit QuietReader(int socket) : socket_(socket) {}

  // As recvmsg(2) with MSG_DONTWAIT.
  ssize_t read(std::span<const iovec> to);
  // The other side was sent something.
  void note_answer();
  // Messages are held, or will be: wait for edges.
  bool is_quiet() const { return turns_ >= needed_turns_; }
  // To be called now and then while it is quiet. Where there was no turn since the last call all is
  // taken off: the silence may be that of a sender that has no room.
  void look_for_silence();
  // The stream ends: nothing is held from now on.
  void stop();
  void take_off();

 private:
  static constexpr uint32_t kNever = UINT32_MAX;
  static constexpr uint32_t kMaxNeededTurns = 1U << 16;

  ssize_t look(std::span<const iovec> to);
  ssize_t read_behind(std::span<const iovec> to, size_t done);

  int socket_;
  uint32_t turns_ = 0;  // in a row
  uint32_t needed_turns_ = kTurnsToTrust;
  uint32_t held_messages_ = 0;
  size_t held_bytes_ = 0;
  bool has_answered_ = false;  // since the last message
  bool is_silent_ = false;     // since the last look for silence
  bool has_peek_offset_ = false;
};

}  // namespace trapeze
