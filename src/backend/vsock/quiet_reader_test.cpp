#include "backend/vsock/quiet_reader.h"

#include <gtest/gtest.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <string>
#include <utility>

#include "base/fd.h"

namespace trapeze {
namespace {

struct QuietReaderTest : ::testing::Test {
  void say(const std::string& text) {
    ASSERT_EQ(::write(other.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  // "?" when nothing is there, "" at the end.
  std::string read(size_t first = 100, size_t second = 4096) {
    std::string room(first + second, ' ');
    const std::array<iovec, 2> parts{iovec{room.data(), first}, iovec{room.data() + first, second}};
    const ssize_t got = reader.read(parts);
    if (got < 0) return "?";
    return room.substr(0, static_cast<size_t>(got));
  }
  void talk(uint32_t turns) {
    for (uint32_t i = 0; i < turns; ++i) {
      say("turn " + std::to_string(i));
      ASSERT_EQ(read(), "turn " + std::to_string(i));
      reader.note_answer();
    }
  }
  // What the sender's messages take of its room.
  int held() const {
    int bytes = 0;
    EXPECT_EQ(::ioctl(other.get(), SIOCOUTQ, &bytes), 0);
    return bytes;
  }

  static std::pair<Fd, Fd> sockets() {
    std::array<int, 2> pair{};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair.data()), 0);
    return {Fd(pair[0]), Fd(pair[1])};
  }

  std::pair<Fd, Fd> pair = sockets();
  Fd& socket = pair.first;
  Fd& other = pair.second;
  QuietReader reader{socket.get()};
};

TEST_F(QuietReaderTest, talk_in_turns_is_held_and_taken_off_in_time) {
  talk(QuietReader::kTurnsToTrust);
  EXPECT_FALSE(reader.is_quiet());  // the first message had no answer before it
  EXPECT_EQ(held(), 0);
  talk(1);
  EXPECT_TRUE(reader.is_quiet());
  talk(3);
  EXPECT_GT(held(), 0);
  talk(QuietReader::kMaxHeldMessages - 3);
  EXPECT_EQ(held(), 0);
  talk(1000);
  EXPECT_TRUE(reader.is_quiet());
}

TEST_F(QuietReaderTest, nothing_there_is_no_end_of_the_talk) {
  talk(20);
  EXPECT_EQ(read(), "?");
  EXPECT_TRUE(reader.is_quiet());
  talk(5);
}

TEST_F(QuietReaderTest, two_messages_without_an_answer_are_no_talk) {
  talk(20);
  ASSERT_GT(held(), 0);
  say("one");
  EXPECT_EQ(read(), "one");
  say("two");
  EXPECT_EQ(read(), "two");
  EXPECT_FALSE(reader.is_quiet());
  EXPECT_EQ(held(), 0);
  talk(20);
}

TEST_F(QuietReaderTest, long_message_arrives_whole_and_ends_the_quiet) {
  talk(20);
  std::string text(5000, 'a');
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>('a' + i % 23);
  say(text);
  EXPECT_EQ(read(2000), text);
  EXPECT_FALSE(reader.is_quiet());
  EXPECT_EQ(held(), 0);
  EXPECT_EQ(read(), "?");
}

TEST_F(QuietReaderTest, message_that_fills_the_first_part_goes_on_in_the_second) {
  talk(20);
  say("0123456789");
  EXPECT_EQ(read(4, 3), "0123456");
  EXPECT_EQ(read(), "789");
  EXPECT_EQ(read(), "?");
}

TEST_F(QuietReaderTest, room_that_is_full_to_the_byte_is_told_as_full) {
  talk(20);
  say("0123456789");
  EXPECT_EQ(read(10, 0), "0123456789");
  EXPECT_EQ(read(), "?");
}

TEST_F(QuietReaderTest, sender_without_room_gets_it_after_a_silence) {
  talk(20);
  ASSERT_GT(held(), 0);
  reader.look_for_silence();  // there were turns
  EXPECT_TRUE(reader.is_quiet());
  EXPECT_GT(held(), 0);
  reader.look_for_silence();
  EXPECT_FALSE(reader.is_quiet());
  EXPECT_EQ(held(), 0);
  // The second time it takes twice as long.
  talk(QuietReader::kTurnsToTrust + 1);
  EXPECT_FALSE(reader.is_quiet());
  talk(QuietReader::kTurnsToTrust + 1);
  EXPECT_TRUE(reader.is_quiet());
}

TEST_F(QuietReaderTest, many_bytes_are_not_held) {
  talk(20);
  const std::string text(1000, 'm');
  for (int i = 0; i < 100; ++i) {
    say(text);
    ASSERT_EQ(read(4096), text);
    reader.note_answer();
    ASSERT_LT(held(), 30'000);
  }
  EXPECT_TRUE(reader.is_quiet());
}

TEST_F(QuietReaderTest, end_is_told_and_nothing_is_held_after_a_stop) {
  talk(20);
  other.reset();
  EXPECT_EQ(read(), "");
  reader.stop();
  EXPECT_FALSE(reader.is_quiet());
  EXPECT_EQ(::recv(socket.get(), nullptr, 0, MSG_DONTWAIT), 0);
}

// A descriptor cuts what one look can see; nothing may be lost or come twice.
TEST_F(QuietReaderTest, message_with_a_descriptor_is_no_trouble) {
  talk(20);
  const std::string text = "fd";
  iovec part{const_cast<char*>(text.data()), text.size()};
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* const rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof(int));
  const int fd = socket.get();
  std::memcpy(CMSG_DATA(rights), &fd, sizeof(fd));
  say("x");
  ASSERT_EQ(::sendmsg(other.get(), &message, 0), 2);
  say("y");
  std::string all;
  for (int i = 0; i < 5; ++i) {
    const std::string got = read();
    if (got != "?") all += got;
    reader.note_answer();
  }
  EXPECT_EQ(all, "xfdy");
  EXPECT_EQ(read(), "?");
}

}  // namespace
}  // namespace trapeze
