// Words and numbers of the program's lines.
#pragma once

#include "bench/sys.h"

namespace bench {

inline size_t length(const char* text) {
  size_t bytes = 0;
  while (text[bytes] != '\0') ++bytes;
  return bytes;
}

inline bool equal(const char* a, const char* b) {
  while (*a != '\0' && *a == *b) ++a, ++b;
  return *a == *b;
}

// One line, written at once: the host reads its clocks when it comes. What does not fit is cut.
class Line {
 public:
  Line& word(const char* text) {
    if (used_ > 0) put(' ');
    for (; *text != '\0'; ++text) put(*text);
    return *this;
  }
  Line& number(uint64_t value, unsigned base = 10) {
    char digits[24];
    size_t at = sizeof(digits) - 1;
    digits[at] = '\0';
    do {
      digits[--at] = "0123456789abcdef"[value % base];
      value /= base;
    } while (value != 0);
    return word(digits + at);
  }
  // Hundredths, as a decimal fraction.
  Line& hundredths(uint64_t value) {
    number(value / 100);
    put('.');
    put("0123456789"[value / 10 % 10]);
    put("0123456789"[value % 10]);
    return *this;
  }
  void send() {
    text_[used_++] = '\n';
    write_all(1, text_, used_);
    used_ = 0;
  }

 private:
  void put(char letter) {
    if (used_ < sizeof(text_) - 1) text_[used_++] = letter;
  }
  char text_[256];
  size_t used_ = 0;
};

// 0 when it is no number.
inline uint64_t parse_number(const char* text) {
  uint64_t value = 0;
  for (; *text != '\0'; ++text) {
    if (*text < '0' || *text > '9' || value > UINT64_MAX / 10 - 1) return 0;
    value = value * 10 + static_cast<uint64_t>(*text - '0');
  }
  return value;
}

}  // namespace bench
