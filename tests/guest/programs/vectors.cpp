// AVX2, FMA, F16C and BMI as a compiler and a programmer use them, compiled for x86-64-v3: run on
// the host and in a guest, it must print the same. And YMM registers must survive what goes on
// around a process: other processes that use them, system calls, signal handlers.
#include <immintrin.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

uint64_t next_random(uint64_t& state) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

uint64_t hash_of(const void* data, size_t size) {
  uint64_t hash = 0xcbf29ce484222325;
  for (size_t i = 0; i < size; ++i) {
    hash = (hash ^ static_cast<const uint8_t*>(data)[i]) * 0x100000001b3;
  }
  return hash;
}

void print(const char* what, const void* data, size_t size) {
  std::printf("%s %016lx\n", what, static_cast<unsigned long>(hash_of(data, size)));
}

// What the compiler makes of loops.
void compiled() {
  constexpr size_t kCount = 40'003;
  std::vector<float> a(kCount), b(kCount), c(kCount);
  std::vector<double> d(kCount);
  std::vector<int32_t> e(kCount);
  uint64_t state = 88172645463325252U;
  for (size_t i = 0; i < kCount; ++i) {
    a[i] = static_cast<float>(next_random(state) % 1000) * 0.25F;
    b[i] = static_cast<float>(next_random(state) % 1000) - 500.0F;
    e[i] = static_cast<int32_t>(next_random(state));
  }
  for (int round = 0; round < 20; ++round) {
    for (size_t i = 0; i < kCount; ++i) c[i] = a[i] * b[i] + c[i];
    for (size_t i = 0; i < kCount; ++i) d[i] = std::sqrt(std::fabs(double{c[i]})) - d[i] * 0.5;
    for (size_t i = 0; i < kCount; ++i) e[i] = (e[i] * 1664525 + 1013904223) ^ (e[i] >> 7);
  }
  print("floats", c.data(), kCount * sizeof(float));
  print("doubles", d.data(), kCount * sizeof(double));
  print("integers", e.data(), kCount * sizeof(int32_t));
  std::vector<char> text(3 * kCount, 'x'), copy(3 * kCount);
  for (size_t offset = 0; offset < 70; ++offset) {
    std::memmove(copy.data() + offset, text.data() + offset / 2, 2 * kCount + offset);
    std::memset(text.data() + 3 * offset, static_cast<int>(offset), kCount / 3 + offset);
  }
  print("memory", copy.data(), copy.size());
}

void bits() {
  uint64_t state = 1234567, hash = 0;
  for (int i = 0; i < 300'000; ++i) {
    const uint64_t a = next_random(state), b = next_random(state);
    unsigned long long high = 0;
    hash += _mulx_u64(a, b, &high);
    hash ^= high + _pdep_u64(a, b) * 3 + _pext_u64(b, a) * 5 + _bzhi_u64(a, b & 127);
    hash += _andn_u64(a, b) ^ _bextr_u64(a, b & 63, i & 63) ^ _blsr_u64(a) ^ _blsi_u64(b);
    hash += _blsmsk_u64(a) + _lzcnt_u64(b >> (a & 63)) + _tzcnt_u64(a << (b & 63));
    hash = (hash << (i & 31)) | (hash >> (64 - (i & 31) - 1) >> 1);
  }
  std::printf("bits %016lx\n", static_cast<unsigned long>(hash));
}

// Elements next to memory that is not there.
void at_the_edge() {
  auto* pages = static_cast<char*>(
      mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  munmap(pages + 4096, 4096);
  auto* last = reinterpret_cast<int*>(pages + 4096 - 12);
  last[0] = 11;
  last[1] = 22;
  last[2] = 33;
  const __m256i three = _mm256_setr_epi32(-1, -1, -1, 0, 0, 0, 0, 0);
  __m256i got = _mm256_maskload_epi32(last, three);
  _mm256_maskstore_epi32(last, three, _mm256_add_epi32(got, got));
  print("masked", &got, sizeof(got));
  const __m256i index = _mm256_setr_epi32(0, 1, 2, 1, 0, 2, 2, 500'000);
  got = _mm256_mask_i32gather_epi32(got, last, index,
                                    _mm256_setr_epi32(-1, -1, -1, -1, -1, -1, -1, 0), 4);
  print("gathered", &got, sizeof(got));
  const __m256 halves = _mm256_cvtph_ps(_mm256_cvtps_ph(_mm256_cvtepi32_ps(got), 0));
  print("halves", &halves, sizeof(halves));
}

// --- registers over system calls, signals and other processes

struct Registers {
  alignas(32) uint8_t ymm[16][32];
};

#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define LOAD(n) "vmovdqa " #n "*32(%[regs]), %%ymm" #n "\n\t"
#define STORE(n) "vmovdqa %%ymm" #n ", " #n "*32(%[regs])\n\t"
#define NAME(n) "ymm" #n,

volatile sig_atomic_t signals = 0;

void on_signal(int) {
  signals = signals + 1;
  static Registers other;
  std::memset(&other, 0xa5, sizeof(other));
  asm volatile(EACH(LOAD) "vzeroall\n\t" EACH(LOAD) : : [regs] "r"(&other) : EACH(NAME) "memory");
}

// With all registers full: a system call, or a while of nothing.
void over_call(Registers& registers, long number) {
  asm volatile(EACH(LOAD) "syscall\n\t" EACH(STORE)
               : "+a"(number)
               : [regs] "r"(&registers)
               : EACH(NAME) "rcx", "r11", "memory", "cc");
}
void over_time(Registers& registers, long rounds) {
  asm volatile(EACH(LOAD) "1: dec %[rounds]\n\tjnz 1b\n\t" EACH(STORE)
               : [rounds] "+r"(rounds)
               : [regs] "r"(&registers)
               : EACH(NAME) "memory", "cc");
}

bool survives(unsigned seed) {
  constexpr long kSchedYield = 24;
  Registers before;
  for (unsigned round = 0; round < 400; ++round) {
    for (size_t i = 0; i < sizeof(before); ++i) {
      reinterpret_cast<uint8_t*>(&before)[i] = static_cast<uint8_t>(i * 7 + seed * 31 + round);
    }
    Registers after = before;
    if (round % 2 == 0) {
      over_call(after, kSchedYield);
    } else {
      over_time(after, 100'000);
    }
    if (std::memcmp(&before, &after, sizeof(before)) != 0) return false;
  }
  return true;
}

void switches() {
  std::signal(SIGALRM, on_signal);
  std::fflush(stdout);
  constexpr unsigned kProcesses = 4;
  for (unsigned i = 0; i < kProcesses; ++i) {
    if (fork() != 0) continue;
    const itimerval every{{0, 1000}, {0, 1000}};
    setitimer(ITIMER_REAL, &every, nullptr);
    const bool ok = survives(i);
    _exit(ok && signals > 0 ? 0 : 1);
  }
  unsigned good = 0;
  for (unsigned i = 0; i < kProcesses; ++i) {
    int status = 0;
    wait(&status);
    good += WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 1 : 0;
  }
  std::printf("registers of %u processes of %u are as they were\n", good, kProcesses);
}

}  // namespace

int main() {
  compiled();
  bits();
  at_the_edge();
  switches();
  return 0;
}
