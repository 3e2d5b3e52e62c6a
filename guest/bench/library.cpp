// What programs spend their time in: a hash and a compressor, over generated text.
#include <zlib.h>

#include "bench/row.h"
#include "bench/sha256.h"
#include "bench/sys.h"

namespace bench {
namespace {

constexpr size_t KiB = 1024;
constexpr size_t kTextBytes = 128 * KiB;
constexpr size_t kOutputBytes = 2 * kTextBytes;
constexpr size_t kArenaBytes = 512 * KiB;  // deflate takes 268 KiB at these settings

unsigned char* text = nullptr;
unsigned char* output = nullptr;
unsigned char* arena = nullptr;
size_t arena_used = 0;

// Words of a small vocabulary, frequent ones more often, so that a compressor finds matches of all
// kinds of length and distance.
bool prepare_text() {
  text = static_cast<unsigned char*>(map_pages(kTextBytes));
  output = static_cast<unsigned char*>(map_pages(kOutputBytes));
  arena = static_cast<unsigned char*>(map_pages(kArenaBytes));
  if (text == nullptr || output == nullptr || arena == nullptr) return false;
  Random random(5);
  size_t at = 0;
  while (at < kTextBytes) {
    const uint64_t word = random.next() % (1 + random.next() % 3000);
    Random letters(word);
    const size_t length = 2 + letters.next() % 9;
    for (size_t i = 0; i < length && at < kTextBytes; ++i) {
      text[at++] = static_cast<unsigned char>('a' + letters.next() % 26);
    }
    if (at < kTextBytes) text[at++] = random.next() % 12 == 0 ? '\n' : ' ';
  }
  return true;
}

void finish_text() {
  unmap_pages(text, kTextBytes);
  unmap_pages(output, kOutputBytes);
  unmap_pages(arena, kArenaBytes);
}

uint64_t sha256_unit() {
  uint64_t hash = 1;
  for (const uint32_t word : sha256(text, kTextBytes).words) hash = mix(hash, word);
  return hash;
}

void* take_from_arena(void*, unsigned count, unsigned size) {
  const size_t bytes = (size_t{count} * size + 63) / 64 * 64;
  if (bytes > kArenaBytes - arena_used) return nullptr;
  arena_used += bytes;
  return arena + arena_used - bytes;
}

void give_back_nothing(void*, void*) {}

// deflateInit2 wants memory that is new; what is left in the arena from before does not matter to
// it.
uint64_t gzip_unit() {
  arena_used = 0;
  z_stream stream{};
  stream.zalloc = take_from_arena;
  stream.zfree = give_back_nothing;
  if (deflateInit2(&stream, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK) return kFailed;
  stream.next_in = text;
  stream.avail_in = kTextBytes;
  stream.next_out = output;
  stream.avail_out = kOutputBytes;
  if (deflate(&stream, Z_FINISH) != Z_STREAM_END) return kFailed;
  const uint64_t bytes = stream.total_out;
  deflateEnd(&stream);
  // The end holds the CRC-32 and the length of the text (RFC 1952).
  uint64_t hash = mix(1, bytes);
  for (size_t i = 0; i < bytes; i += 61) hash = mix(hash, output[i]);
  for (size_t i = bytes - 8; i < bytes; ++i) hash = mix(hash, output[i]);
  return hash;
}

constexpr Row kRows[] = {
    {"sha256", kTextBytes / KiB, prepare_text, repeat<sha256_unit>, finish_text},
    {"gzip", kTextBytes / KiB, prepare_text, repeat<gzip_unit>, finish_text},
};

}  // namespace

Rows library_rows() { return {kRows, sizeof(kRows) / sizeof(kRows[0])}; }

}  // namespace bench
