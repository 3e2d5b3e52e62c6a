#include "backend/net/ring/frame_ring.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <random>
#include <string>
#include <thread>

#include "base/units.h"

namespace trapeze {
namespace {

using Status = FrameRingReader::Status;

struct FrameRingTest : testing::Test {
  static bool put(FrameRingWriter& to, std::string text) {
    // In two parts, as a header and a frame are.
    const size_t half = text.size() / 2;
    const iovec parts[] = {{text.data(), half}, {text.data() + half, text.size() - half}};
    return to.put(parts);
  }
  bool put(const std::string& text) { return put(writer, text); }
  FrameRingReader::Taken take(std::string& text, size_t room_bytes = 70000) {
    text.assign(room_bytes, '?');
    const size_t half = room_bytes / 2;
    const iovec room[] = {{text.data(), half}, {text.data() + half, room_bytes - half}};
    const auto taken = reader.take(room);
    text.resize(taken.bytes);
    return taken;
  }
  std::string taken_text() {
    std::string text;
    EXPECT_EQ(take(text).status, Status::Ok);
    return text;
  }
  bool is_empty() {
    std::string text;
    return take(text).status == Status::Empty;
  }
  bool is_awake() const {
    pollfd slot{.fd = reader.wake().get(), .events = POLLIN, .revents = 0};
    return ::poll(&slot, 1, 0) == 1;
  }
  frame_ring::Control& control() {
    if (control_.data() == nullptr) {
      control_ = std::move(Mapping::create(frame_ring::kControlBytes + frame_ring::kBytes,
                                           PROT_READ | PROT_WRITE, MAP_SHARED,
                                           reader.memory().get(), 0, "test"))
                     .value();
    }
    return *reinterpret_cast<frame_ring::Control*>(control_.data());
  }
  std::byte* frames() {
    control();
    return control_.data() + frame_ring::kControlBytes;
  }

  FrameRingReader reader = std::move(FrameRingReader::create()).value();
  FrameRingWriter writer =
      std::move(FrameRingWriter::open(reader.memory(), Fd(::dup(reader.wake().get())))).value();
  Mapping control_;
};

TEST_F(FrameRingTest, frames_come_whole_and_in_order) {
  EXPECT_TRUE(is_empty());
  EXPECT_TRUE(put("first"));
  EXPECT_TRUE(put(std::string(65550, 'x')));
  EXPECT_EQ(taken_text(), "first");
  EXPECT_EQ(taken_text(), std::string(65550, 'x'));
  EXPECT_TRUE(is_empty());
}

TEST_F(FrameRingTest, frames_that_cross_the_end_are_as_good) {
  std::mt19937 random(1);
  for (int i = 0; i < 300; ++i) {
    const std::string text(1 + random() % 60000, static_cast<char>('a' + i % 26));
    ASSERT_TRUE(put(text));
    ASSERT_EQ(taken_text(), text) << i;
  }
}

TEST_F(FrameRingTest, what_does_not_fit_into_the_room_is_lost) {
  put("0123456789");
  put("next");
  std::string text;
  EXPECT_EQ(take(text, 4).bytes, 4U);
  EXPECT_EQ(text, "0123");
  EXPECT_EQ(taken_text(), "next");
}

TEST_F(FrameRingTest, reader_that_waits_is_woken_by_the_flush_and_once) {
  put("a");
  EXPECT_FALSE(is_awake());
  writer.flush();
  EXPECT_TRUE(is_awake());
  reader.note_wake();
  EXPECT_EQ(taken_text(), "a");
  put("b");
  writer.flush();
  EXPECT_EQ(taken_text(), "b");
  EXPECT_TRUE(is_empty());
  EXPECT_FALSE(is_awake()) << "the wake-up is used up";
  writer.flush();
  EXPECT_FALSE(is_awake()) << "nothing new";
  put("c");
  writer.flush();
  EXPECT_TRUE(is_awake());
}

TEST_F(FrameRingTest, reader_that_stops_with_frames_left_is_still_awake) {
  put("a");
  put("b");
  writer.flush();
  reader.note_wake();
  EXPECT_EQ(taken_text(), "a");
  EXPECT_TRUE(is_awake());
}

TEST_F(FrameRingTest, much_at_once_is_not_kept_back) {
  for (int i = 0; i < 3; ++i) put(std::string(60000, 'x'));
  EXPECT_TRUE(is_awake());
}

TEST_F(FrameRingTest, full_ring_takes_no_more_and_the_wish_for_room_comes_across) {
  int count = 0;
  while (put(std::string(60000, 'x'))) ++count;
  EXPECT_EQ(count, static_cast<int>(frame_ring::kBytes / 60008));
  EXPECT_FALSE(reader.room_is_wanted()) << "there is none yet";
  for (int i = 0; i < count / 2 + 1; ++i) taken_text();
  EXPECT_TRUE(reader.room_is_wanted());
  EXPECT_FALSE(reader.room_is_wanted());
  EXPECT_TRUE(put("fits"));
}

TEST_F(FrameRingTest, writer_that_lies_is_found_out) {
  const auto expect_broken = [&](const char* what) {
    std::string text;
    EXPECT_EQ(take(text).status, Status::Broken) << what;
  };
  control().written.store(8);
  expect_broken("a frame of no bytes");
  const auto set_length = [&](uint32_t bytes) { std::memcpy(frames(), &bytes, sizeof(bytes)); };
  set_length(1);
  expect_broken("longer than what is there");
  control().written.store(16);
  set_length(9);
  expect_broken("longer than what is there, by its padding");
  control().written.store(20);
  set_length(1);
  expect_broken("not aligned");
  control().written.store(frame_ring::kBytes + 8);
  expect_broken("more than the ring has");
  control().written.store(~uint64_t{0} - 7);
  expect_broken("behind the reader");
  control().written.store(frame_ring::kBytes);
  set_length(frame_ring::kMaxFrameBytes + 1);
  expect_broken("too long");
  set_length(frame_ring::kMaxFrameBytes);
  std::string text;
  EXPECT_EQ(take(text).status, Status::Ok);
}

TEST_F(FrameRingTest, memory_cannot_be_taken_away) {
  EXPECT_NE(::ftruncate(reader.memory().get(), 0), 0);
}

TEST_F(FrameRingTest, two_threads_lose_nothing_and_do_not_oversleep) {
  constexpr uint32_t kFrames = 50'000;
  std::atomic<uint32_t> wishes{0};
  std::thread other([&] {
    std::mt19937 random(2);
    for (uint32_t i = 0; i < kFrames; ++i) {
      const std::string text = std::to_string(i) + std::string(random() % 3000, ' ');
      while (!put(text)) {
        writer.flush();
        while (wishes.exchange(0) == 0) std::this_thread::yield();
      }
      if (random() % 16 == 0) writer.flush();
    }
    writer.flush();
  });
  for (uint32_t i = 0; i < kFrames;) {
    std::string text;
    const auto taken = take(text);
    ASSERT_NE(taken.status, Status::Broken);
    if (reader.room_is_wanted()) wishes.store(1);
    if (taken.status == Status::Ok) {
      ASSERT_EQ(std::stoul(text), i++);
      continue;
    }
    pollfd slot{.fd = reader.wake().get(), .events = POLLIN, .revents = 0};
    ASSERT_EQ(::poll(&slot, 1, 10'000), 1) << "overslept before frame " << i;
    reader.note_wake();
  }
  other.join();
}

}  // namespace
}  // namespace trapeze
