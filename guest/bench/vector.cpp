// SSE2, integer and floating point, over arrays that fit the first-level cache.
#include <emmintrin.h>

#include "bench/row.h"

namespace bench {
namespace {

// --- integer ---
constexpr size_t kBlocks = 1024;  // 16 KiB
alignas(16) unsigned char bytes[kBlocks * sizeof(__m128i)];

bool prepare_integer() {
  Random random(3);
  for (auto& byte : bytes) byte = static_cast<unsigned char>(random.next());
  return true;
}

uint64_t integer_unit() {
  const auto* blocks = reinterpret_cast<const __m128i*>(bytes);
  __m128i total = _mm_setzero_si128();
  __m128i products = _mm_set1_epi32(7);
  __m128i last = _mm_set1_epi8(42);
  unsigned masks = 0;
  for (size_t i = 0; i < kBlocks; ++i) {
    const __m128i block = _mm_load_si128(blocks + i);
    total = _mm_add_epi64(total, _mm_sad_epu8(block, last));
    const __m128i greater = _mm_cmpgt_epi8(block, last);
    masks = masks * 3 + static_cast<unsigned>(_mm_movemask_epi8(greater));
    const __m128i words = _mm_unpacklo_epi8(block, _mm_setzero_si128());
    products = _mm_add_epi32(products, _mm_madd_epi16(words, _mm_srli_epi16(block, 3)));
    last = _mm_xor_si128(_mm_adds_epu8(block, _mm_and_si128(greater, last)),
                         _mm_shuffle_epi32(products, 0x1b));
    last = _mm_packus_epi16(last, _mm_mullo_epi16(words, last));
  }
  alignas(16) uint64_t out[4];
  _mm_store_si128(reinterpret_cast<__m128i*>(out), total);
  _mm_store_si128(reinterpret_cast<__m128i*>(out + 2), _mm_xor_si128(products, last));
  return mix(mix(mix(mix(masks, out[0]), out[1]), out[2]), out[3]);
}

// --- floating point: double and single ---
constexpr size_t kPairs = 512;  // 8 KiB an array
alignas(16) double left[2 * kPairs];
alignas(16) double right[2 * kPairs];

bool prepare_floating() {
  Random random(4);
  for (size_t i = 0; i < 2 * kPairs; ++i) {
    left[i] = static_cast<double>(static_cast<int64_t>(random.next() % 1000)) / 64.0 + 0.5;
    right[i] = static_cast<double>(static_cast<int64_t>(random.next() % 1000)) / 128.0 + 0.25;
  }
  return true;
}

uint64_t floating_unit() {
  __m128d sum = _mm_set1_pd(1.0);
  __m128d most = _mm_setzero_pd();
  __m128 singles = _mm_set1_ps(0.5F);
  for (size_t i = 0; i < kPairs; ++i) {
    const __m128d a = _mm_load_pd(left + 2 * i);
    const __m128d b = _mm_load_pd(right + 2 * i);
    const __m128d product = _mm_add_pd(_mm_mul_pd(a, b), _mm_sub_pd(a, _mm_set1_pd(0.125)));
    most = _mm_max_pd(most, product);
    sum = _mm_add_pd(sum, _mm_mul_pd(product, _mm_shuffle_pd(b, a, 1)));
    singles = _mm_add_ps(_mm_mul_ps(singles, _mm_set1_ps(0.9375F)), _mm_cvtpd_ps(product));
    if ((i & 7) == 0) sum = _mm_sub_pd(sum, _mm_div_pd(_mm_sqrt_pd(a), b));
  }
  alignas(16) double out[4];
  _mm_store_pd(out, sum);
  _mm_store_pd(out + 2, _mm_add_pd(most, _mm_cvtps_pd(singles)));
  uint64_t hash = 1;
  for (const double value : out) {
    uint64_t bits = 0;
    __builtin_memcpy(&bits, &value, sizeof(bits));
    hash = mix(hash, bits);
  }
  return hash;
}

constexpr Row kRows[] = {
    {"sse-int", kBlocks, prepare_integer, repeat<integer_unit>, finish_nothing},
    {"sse-fp", kPairs, prepare_floating, repeat<floating_unit>, finish_nothing},
};

}  // namespace

Rows vector_rows() { return {kRows, sizeof(kRows) / sizeof(kRows[0])}; }

}  // namespace bench
