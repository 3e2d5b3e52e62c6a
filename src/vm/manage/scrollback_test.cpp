#include "vm/manage/scrollback.h"

#include <gtest/gtest.h>

#include <string>

namespace trapeze::manage {
namespace {

void append(Scrollback& kept, std::string_view text) {
  kept.append(std::as_bytes(std::span(text.data(), text.size())));
}

std::string read_from(const Scrollback& kept, uint64_t position, size_t limit = 1000) {
  std::string text(limit, '\0');
  text.resize(kept.read(position, std::as_writable_bytes(std::span(text))));
  return text;
}

TEST(Scrollback, keeps_all_while_there_is_room) {
  Scrollback kept(8);
  append(kept, "abc");
  append(kept, "defgh");
  EXPECT_EQ(read_from(kept, 0), "abcdefgh");
  EXPECT_EQ(read_from(kept, 5), "fgh");
  EXPECT_EQ(read_from(kept, 8), "");
}

TEST(Scrollback, forgets_the_oldest) {
  Scrollback kept(8);
  append(kept, "abcdef");
  append(kept, "ghijk");
  EXPECT_EQ(kept.begin(), 3U);
  EXPECT_EQ(read_from(kept, 0), "defghijk") << "a slow reader skips what is gone";
}

TEST(Scrollback, takes_more_at_once_than_it_keeps) {
  Scrollback kept(4);
  append(kept, "abcdefghij");
  EXPECT_EQ(read_from(kept, 0), "ghij");
  append(kept, "k");
  EXPECT_EQ(read_from(kept, 0), "hijk");
}

TEST(Scrollback, reading_in_pieces_gives_the_same_as_at_once) {
  Scrollback kept(7);
  std::string all;
  uint64_t position = 0;
  std::string seen;
  for (int i = 0; i < 100; ++i) {
    const std::string piece = std::to_string(i % 1000);
    append(kept, piece);
    all += piece;
    std::string part(3, '\0');
    part.resize(kept.read(position, std::as_writable_bytes(std::span(part))));
    seen += part;
  }
  seen += read_from(kept, position);
  EXPECT_EQ(seen, all);
}

TEST(Scrollback, first_line_begins_after_what_was_cut) {
  Scrollback kept(8);
  append(kept, "one\ntwo\n");
  EXPECT_EQ(kept.first_line(), 0U);
  append(kept, "three");
  EXPECT_EQ(read_from(kept, kept.first_line()), "three");
  append(kept, "xxxxxxxxxx");
  EXPECT_EQ(kept.first_line(), kept.begin()) << "no line ends in what is kept";
}

}  // namespace
}  // namespace trapeze::manage
