#include "diff/values.h"

#include <cstring>
#include <span>

namespace trapeze::diff {
namespace {

template <typename T, size_t N>
T pick(Random& random, const T (&values)[N]) {
  return values[random.below(N)];
}

constexpr uint64_t kIntegers[] = {0,
                                  1,
                                  2,
                                  0x7f,
                                  0x80,
                                  0xff,
                                  0x7fff,
                                  0x8000,
                                  0xffff,
                                  0x7fff'ffff,
                                  0x8000'0000,
                                  0xffff'ffff,
                                  ~uint64_t{0},
                                  ~uint64_t{0} >> 1,
                                  uint64_t{1} << 63,
                                  0x8000'7fff};
constexpr uint32_t kSingles[] = {0,          0x80000000, 0x3f800000, 0xbf800000, 0x00000001,
                                 0x007fffff, 0x00800000, 0x7f7fffff, 0x7f800000, 0xff800000,
                                 0x7fc00000, 0x7f800001, 0x4f000000, 0xcf000001};
constexpr uint64_t kDoubles[] = {0,
                                 0x8000000000000000,
                                 0x3ff0000000000000,
                                 0xbff8000000000000,
                                 1,
                                 0x000fffffffffffff,
                                 0x0010000000000000,
                                 0x7fefffffffffffff,
                                 0x7ff0000000000000,
                                 0xfff0000000000000,
                                 0x7ff8000000000000,
                                 0x7ff0000000000001,
                                 0x41dfffffffc00000,
                                 0xc1e0000000200000};
constexpr uint16_t kExponents[] = {0,      1,      0x3ffe, 0x3fff, 0x4000,
                                   0x403e, 0x7ffe, 0x7fff, 0x3f81, 0x407e};

uint64_t random_half(Random& random) {
  switch (random.below(6)) {
    case 0:
      return pick(random, kDoubles);
    case 1:
      return pick(random, kSingles) | static_cast<uint64_t>(pick(random, kSingles)) << 32;
    case 2:
      return (random.bits() & 0x800fffffffffffff) | (0x3f0 + random.below(32)) << 52;
    case 3:
      return (random.bits() & 0x807fffff807fffff) | (0x78 + random.below(16)) << 23 |
             (0x78 + random.below(16)) << 55;
    case 4:
      return random_integer(random);
    default:
      return random.bits();
  }
}

void random_extended(Random& random, uint8_t* to) {
  uint64_t significand = random.percent(30) ? random_integer(random) : random.bits();
  uint16_t exponent = random.percent(50) ? pick(random, kExponents)
                                         : static_cast<uint16_t>(0x3ff0 + random.below(32));
  // Mostly normal numbers: others are slow and seldom.
  if (!random.percent(12) && exponent != 0) significand |= uint64_t{1} << 63;
  exponent = static_cast<uint16_t>(exponent | random.below(2) << 15);
  std::memcpy(to, &significand, 8);
  std::memcpy(to + 8, &exponent, 2);
}

void fill(Random& random, std::span<uint8_t> bytes) {
  for (size_t at = 0; at + 16 <= bytes.size(); at += 16) {
    if (random.percent(15)) {
      random_extended(random, bytes.data() + at);
    } else {
      const uint64_t halves[2] = {random_half(random), random_half(random)};
      std::memcpy(bytes.data() + at, halves, 16);
    }
  }
}

}  // namespace

uint64_t random_integer(Random& random) {
  switch (random.below(8)) {
    case 0:
    case 1:
      return pick(random, kIntegers);
    case 2:
      return random.below(80) - 40;
    case 3:
      return random.bits() & 0xffff'ffff;
    case 4:
      return random.bits() & random.bits() & random.bits();
    case 5:
      return kData + random.below(2 * kPage);
    default:
      return random.bits();
  }
}

uint64_t random_flags(Random& random) {
  uint64_t flags = 0x202 | (random.bits() & 0x8d5);
  if (random.percent(20)) flags |= 0x400;  // DF
  return flags;
}

void random_fx(Random& random, std::array<uint8_t, kFxBytes>& fx) {
  const auto put = [&fx](size_t at, auto value) {
    std::memcpy(fx.data() + at, &value, sizeof(value));
  };
  const bool unmasked = random.percent(8);
  put(kFxFcw, static_cast<uint16_t>(unmasked ? 0x40 | (random.bits() & 0xf3f)
                                             : 0x7f | (random.bits() & 0xf00)));
  put(kFxFsw, static_cast<uint16_t>(random.bits() & (unmasked ? 0x7f00 : 0x7f7f)));
  put(kFxTags, static_cast<uint8_t>(random.percent(30) ? random.bits() : 0xff));
  uint32_t mxcsr = 0x1f80 | (random.bits() & 0x603f);
  if (random.percent(8)) mxcsr = static_cast<uint32_t>(random.bits() & 0xff80);
  if (random.percent(20)) mxcsr |= static_cast<uint32_t>(random.bits() & 0x8040);
  put(kFxMxcsr, mxcsr);
  put(kFxMxcsr + 4, uint32_t{0xffff});
  for (size_t i = 0; i < 8; ++i) random_extended(random, fx.data() + kFxSt + 16 * i);
  fill(random, std::span(fx).subspan(kFxXmm, 256));
  if (random.percent(10)) std::memcpy(fx.data() + kFxXmm + 16, fx.data() + kFxXmm + 32, 16);
}

void random_ymm_high(Random& random, std::array<uint8_t, kYmmBytes>& ymm_high) {
  fill(random, ymm_high);
}

Backgrounds random_backgrounds(Random& random) {
  Backgrounds backgrounds;
  for (Background& background : backgrounds) fill(random, background.changing);
  fill(random, backgrounds[0].read_only);
  for (Background& background : backgrounds) background.read_only = backgrounds[0].read_only;
  return backgrounds;
}

}  // namespace trapeze::diff
