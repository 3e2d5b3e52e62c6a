// Memory by loads and stores: random, in streams, and whole copies.
#include <emmintrin.h>

#include "bench/row.h"
#include "bench/sys.h"

namespace bench {
namespace {

constexpr size_t KiB = 1024;
constexpr size_t MiB = 1024 * KiB;

// --- random access: a walk through every cache line of 32 MiB in random order, reading where to go
// next and writing when it was there ---
struct alignas(64) Line {
  uint32_t next;
  uint32_t visited;
};
constexpr size_t kRandomBytes = 32 * MiB;
constexpr uint32_t kLines = kRandomBytes / sizeof(Line);
Line* lines = nullptr;

bool prepare_random() {
  lines = static_cast<Line*>(map_pages(kRandomBytes));
  if (lines == nullptr) return false;
  for (uint32_t i = 0; i < kLines; ++i) lines[i].next = i;
  // Sattolo's shuffle: a single cycle through all of them.
  Random random(1);
  for (uint32_t i = kLines - 1; i > 0; --i) {
    const auto other = static_cast<uint32_t>(random.next() % i);
    const uint32_t kept = lines[i].next;
    lines[i].next = lines[other].next;
    lines[other].next = kept;
  }
  return true;
}

uint64_t random_unit() {
  uint32_t at = 0;
  uint64_t sum = 0;
  for (uint32_t i = 0; i < kLines; ++i) {
    Line& line = lines[at];
    sum += uint64_t{line.next} * i;
    line.visited = i;
    at = line.next;
  }
  return mix(mix(sum, at), lines[kLines / 3].visited);
}

void finish_random() { unmap_pages(lines, kRandomBytes); }

// --- read-modify-write: `add %reg, (mem)` over 256 KiB, then the way back ---
constexpr size_t kStreamWords = 256 * KiB / sizeof(uint64_t);
uint64_t* words = nullptr;

bool prepare_stream() {
  words = static_cast<uint64_t*>(map_pages(kStreamWords * sizeof(uint64_t)));
  if (words == nullptr) return false;
  for (size_t i = 0; i < kStreamWords; ++i) words[i] = i * i;
  return true;
}

uint64_t stream_unit() {
  for (size_t i = 0; i < kStreamWords; ++i) words[i] += i;
  uint64_t hash = 1;
  for (size_t i = 0; i < kStreamWords; i += 1021) hash = mix(hash, words[i]);
  for (size_t i = 0; i < kStreamWords; ++i) words[i] -= i;
  return hash;
}

void finish_stream() { unmap_pages(words, kStreamWords * sizeof(uint64_t)); }

// --- copies of 1 MiB ---
constexpr size_t kCopyBytes = 1 * MiB;
unsigned char* source = nullptr;
unsigned char* target = nullptr;

bool prepare_copy() {
  source = static_cast<unsigned char*>(map_pages(kCopyBytes));
  target = static_cast<unsigned char*>(map_pages(kCopyBytes));
  if (source == nullptr || target == nullptr) return false;
  Random random(2);
  for (size_t i = 0; i < kCopyBytes; i += 4) {
    const uint64_t value = random.next();
    for (size_t j = 0; j < 4; ++j) source[i + j] = static_cast<unsigned char>(value >> 8 * j);
  }
  return true;
}

uint64_t copied() {
  uint64_t hash = 1;
  for (size_t i = 0; i < kCopyBytes; i += 65521) {
    hash = mix(hash, target[i]);
    target[i] = 0;
  }
  return hash;
}

// As C libraries do it with SSE2 alone.
uint64_t copy_unit() {
  auto* to = reinterpret_cast<__m128i*>(target);
  const auto* from = reinterpret_cast<const __m128i*>(source);
  for (size_t i = 0; i < kCopyBytes / sizeof(__m128i); i += 4) {
    const __m128i a = _mm_loadu_si128(from + i);
    const __m128i b = _mm_loadu_si128(from + i + 1);
    const __m128i c = _mm_loadu_si128(from + i + 2);
    const __m128i d = _mm_loadu_si128(from + i + 3);
    _mm_storeu_si128(to + i, a);
    _mm_storeu_si128(to + i + 1, b);
    _mm_storeu_si128(to + i + 2, c);
    _mm_storeu_si128(to + i + 3, d);
  }
  return copied();
}

uint64_t movsb_unit() {
  void* to = target;
  const void* from = source;
  size_t count = kCopyBytes;
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
  return copied();
}

void finish_copy() {
  unmap_pages(source, kCopyBytes);
  unmap_pages(target, kCopyBytes);
}

constexpr Row kRows[] = {
    {"random", kLines, prepare_random, repeat<random_unit>, finish_random},
    {"rmw", 2 * kStreamWords, prepare_stream, repeat<stream_unit>, finish_stream},
    {"memcpy", 1, prepare_copy, repeat<copy_unit>, finish_copy},
    {"movsb", 1, prepare_copy, repeat<movsb_unit>, finish_copy},
};

}  // namespace

Rows memory_rows() { return {kRows, sizeof(kRows) / sizeof(kRows[0])}; }

}  // namespace bench
