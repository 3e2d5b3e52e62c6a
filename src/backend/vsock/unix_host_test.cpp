#include "backend/vsock/unix_host.h"

#include <gtest/gtest.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <thread>

namespace trapeze {
namespace {

namespace fs = std::filesystem;

struct FakeGuest final : VsockGuest {
  void host_connects(uint32_t port, std::unique_ptr<VsockStream> stream) override {
    streams[port] = std::move(stream);
  }
  std::map<uint32_t, std::unique_ptr<VsockStream>> streams;
};

struct Listener final : VsockStreamListener {
  void stream_ready() override { ++calls; }
  int calls = 0;
};

struct UnixHostTest : ::testing::Test {
  UnixHostTest() {
    std::string name = (fs::temp_directory_path() / "trapeze-vsock-test.XXXXXX").string();
    EXPECT_NE(::mkdtemp(name.data()), nullptr);
    folder = name;
    path = (folder / "v").string();
    host = std::move(UnixHost::create(path, *loop)).value();
    host->attach(&guest);
  }
  ~UnixHostTest() override {
    guest.streams.clear();
    host.reset();
    fs::remove_all(folder);
  }
  void run_loop() {
    loop->start_timer(std::chrono::milliseconds(30), [this] { loop->stop(); });
    loop->run();
  }
  static sockaddr_un address_of(const std::string& name) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, name.data(), name.size());
    return address;
  }
  Fd connect() {
    Fd fd(::socket(AF_UNIX, SOCK_STREAM, 0));
    const auto address = address_of(path);
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    return fd;
  }
  static void say(const Fd& fd, const std::string& text) {
    EXPECT_EQ(::write(fd.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  // "" at the end, "?" when nothing is there.
  static std::string hear(const Fd& fd) {
    char text[100];
    const ssize_t got = ::recv(fd.get(), text, sizeof(text), MSG_DONTWAIT);
    if (got < 0) return errno == EAGAIN ? "?" : "";  // a reset: bytes were left unread
    return std::string(text, static_cast<size_t>(got));
  }
  static std::string read(VsockStream& stream) {
    char text[100];
    const iovec part{text, sizeof(text)};
    return std::string(text, stream.read({&part, 1}).bytes);
  }

  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create()).value();
  fs::path folder;
  std::string path;
  FakeGuest guest;
  std::unique_ptr<UnixHost> host;
};

TEST_F(UnixHostTest, order_reaches_the_guest_and_what_follows_is_its_own) {
  const Fd client = connect();
  say(client, "CONNE");
  run_loop();
  EXPECT_TRUE(guest.streams.empty());
  say(client, "CT 52\nhello\n");
  run_loop();
  ASSERT_TRUE(guest.streams.contains(52));
  VsockStream& stream = *guest.streams[52];
  stream.accepted(1073741824);
  EXPECT_EQ(hear(client), "OK 1073741824\n");
  EXPECT_EQ(read(stream), "hello\n");
  stream.end_writing();
  EXPECT_EQ(hear(client), "");
}

TEST_F(UnixHostTest, stream_takes_all_that_a_guest_may_have_under_way) {
  const Fd client = connect();
  say(client, "CONNECT 52\n");
  run_loop();
  ASSERT_TRUE(guest.streams.contains(52));
  std::string packet(64 * 1024, 'p');
  const iovec part{packet.data(), packet.size()};
  for (int i = 0; i < 4; ++i) EXPECT_EQ(guest.streams[52]->write({&part, 1}).bytes, packet.size());
}

TEST_F(UnixHostTest, refusal_closes) {
  const Fd client = connect();
  say(client, "CONNECT 52\n");
  run_loop();
  guest.streams.clear();
  EXPECT_EQ(hear(client), "");
}

TEST_F(UnixHostTest, senseless_orders_are_closed) {
  for (const std::string order : {"CONNECT\n", "CONNECT 4294967296\n", "CONNECT 5 \n",
                                  "connect 5\n", "\n", "CONNECT 000000000000000000000000000000"}) {
    const Fd client = connect();
    say(client, order);
    run_loop();
    EXPECT_NE(hear(client), "?") << order;
  }
  EXPECT_TRUE(guest.streams.empty());
  EXPECT_EQ(UnixHost::parse_order("CONNECT 7\r"), 7U);
}

TEST_F(UnixHostTest, silent_clients_keep_nobody_out) {
  std::vector<Fd> silent;
  for (int i = 0; i < 600; ++i) {
    silent.push_back(connect());
    if (i % 100 == 0) run_loop();
  }
  const Fd client = connect();
  say(client, "CONNECT 9\n");
  run_loop();
  EXPECT_TRUE(guest.streams.contains(9));
  EXPECT_EQ(hear(silent.front()), "");
}

TEST_F(UnixHostTest, guest_reaches_listeners_by_their_port) {
  EXPECT_EQ(host->connect(1000), nullptr);
  const Fd listener(::socket(AF_UNIX, SOCK_STREAM, 0));
  const auto address = address_of(path + "_1000");
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)),
            0);
  EXPECT_EQ(host->connect(1000), nullptr);  // bound, but not listening
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  const auto stream = host->connect(1000);
  ASSERT_NE(stream, nullptr);
  const Fd peer(::accept(listener.get(), nullptr, nullptr));
  std::string text = "hi";
  const std::array<iovec, 2> parts{iovec{text.data(), 1}, iovec{text.data() + 1, 1}};
  EXPECT_EQ(stream->write(parts).bytes, 2U);
  EXPECT_EQ(hear(peer), "hi");
}

TEST_F(UnixHostTest, stream_is_ready_only_for_what_is_wanted) {
  const Fd client = connect();
  say(client, "CONNECT 1\n");
  run_loop();
  VsockStream& stream = *guest.streams.at(1);
  Listener listener;
  stream.attach(&listener);
  say(client, "x");
  run_loop();
  EXPECT_EQ(listener.calls, 0);
  stream.want(true, false);
  run_loop();
  EXPECT_GT(listener.calls, 0);
  stream.want(false, false);
  const int before = listener.calls;
  run_loop();
  EXPECT_EQ(listener.calls, before);
  stream.attach(nullptr);
}

// A guest that answers each message with itself.
struct Echo final : VsockStreamListener {
  explicit Echo(VsockStream& of) : stream(of) {
    stream.attach(this);
    stream.want(true, false);
  }
  ~Echo() override { stream.attach(nullptr); }
  void stream_ready() override {
    ++calls;
    char text[100];
    const iovec room{text, sizeof(text)};
    const auto got = stream.read({&room, 1});
    has_ended |= got.status == VsockStream::Status::End;
    if (got.bytes == 0) return;
    heard.append(text, got.bytes);
    const iovec part{text, got.bytes};
    if (is_silent) return;
    EXPECT_EQ(stream.write({&part, 1}).bytes, got.bytes);
  }
  VsockStream& stream;
  std::string heard;
  int calls = 0;
  bool has_ended = false;
  bool is_silent = false;
};

struct UnixHostTalkTest : UnixHostTest {
  UnixHostTalkTest() {
    say(client, "CONNECT 5\n");
    run_loop();
    echo.emplace(*guest.streams.at(5));
    const int had = messages_held();
    std::thread talker([&] {
      for (int i = 0; i < 30; ++i) {
        say(client, "turn");
        char text[4];
        EXPECT_EQ(::recv(client.get(), text, sizeof(text), 0), 4);
      }
      loop->stop();
    });
    loop->run();
    talker.join();
    EXPECT_EQ(had, 0);
    EXPECT_GT(messages_held(), 0);
    echo->heard.clear();
  }
  // In bytes of the sender's room.
  int messages_held() const {
    int bytes = 0;
    EXPECT_EQ(::ioctl(client.get(), SIOCOUTQ, &bytes), 0);
    return bytes;
  }
  Fd client = connect();
  std::optional<Echo> echo;
};

TEST_F(UnixHostTalkTest, end_right_behind_a_message_is_seen) {
  say(client, "last");
  ::shutdown(client.get(), SHUT_WR);
  run_loop();
  EXPECT_EQ(echo->heard, "last");
  EXPECT_TRUE(echo->has_ended);
  EXPECT_EQ(hear(client), "last");
}

TEST_F(UnixHostTalkTest, message_while_the_guest_has_no_buffer_is_seen_later) {
  echo->stream.want(false, false);
  say(client, "waits");
  run_loop();
  EXPECT_EQ(echo->heard, "");
  echo->stream.want(true, false);
  run_loop();
  EXPECT_EQ(echo->heard, "waits");
}

TEST_F(UnixHostTalkTest, stream_that_ends_is_no_reset) {
  echo.reset();
  guest.streams.clear();
  char byte = 0;
  EXPECT_EQ(::recv(client.get(), &byte, 1, 0), 0) << errno;
}

TEST_F(UnixHostTalkTest, sender_has_its_room_back_after_a_silence) {
  echo->calls = 0;
  for (int i = 0; i < 20 && messages_held() != 0; ++i) run_loop();
  EXPECT_EQ(messages_held(), 0);
  EXPECT_LE(echo->calls, 3);  // what is held does not keep the loop awake
  echo->is_silent = true;
  for (const char* text : {"one", "two", "three"}) {
    say(client, text);
    run_loop();
    EXPECT_EQ(messages_held(), 0);
  }
  EXPECT_EQ(echo->heard, "onetwothree");
}

TEST_F(UnixHostTest, socket_in_use_is_refused_and_a_stale_one_replaced) {
  const auto second = UnixHost::create(path, *loop);
  ASSERT_FALSE(second);
  EXPECT_NE(second.error().message.find(path), std::string::npos);
  EXPECT_TRUE(fs::exists(path));
  host.reset();
  EXPECT_FALSE(fs::exists(path));
  {
    const Fd stale(::socket(AF_UNIX, SOCK_STREAM, 0));
    const auto address = address_of(path);
    ASSERT_EQ(::bind(stale.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  }
  EXPECT_TRUE(UnixHost::create(path, *loop).has_value());
  std::ofstream(path) << "a file";
  EXPECT_FALSE(UnixHost::create(path, *loop));
  EXPECT_TRUE(fs::is_regular_file(path));
  EXPECT_FALSE(UnixHost::create(std::string(108, 'x'), *loop));
  EXPECT_FALSE(UnixHost::create("", *loop));
}

}  // namespace
}  // namespace trapeze
