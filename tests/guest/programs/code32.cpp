// 32-bit code in a 64-bit guest: computes with what compilers use, prints lines of numbers. No
// library: it must build where there is no 32-bit one.
namespace {

using u32 = unsigned;
using u64 = unsigned long long;

long system_call(long number, long a, long b, long c) {
  long result;
  asm volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
  return result;
}

void print(const char* name, u32 value) {
  char line[32];
  int at = 0;
  while (*name != 0) line[at++] = *name++;
  line[at++] = ' ';
  for (int shift = 28; shift >= 0; shift -= 4) line[at++] = "0123456789abcdef"[value >> shift & 15];
  line[at++] = '\n';
  system_call(4, 1, reinterpret_cast<long>(line), at);
}

u32 state = 1;
u32 next() { return state = state * 1664525 + 1013904223; }

[[gnu::noinline]] u32 fibonacci(u32 n) {
  asm volatile("" : "+r"(n));
  return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

[[gnu::noinline]] u32 sort_and_hash() {
  static u32 values[4096];
  for (u32& value : values) value = next();
  for (u32 gap = 2048; gap > 0; gap /= 2) {
    for (u32 i = gap; i < 4096; ++i) {
      const u32 value = values[i];
      u32 k = i;
      for (; k >= gap && values[k - gap] > value; k -= gap) values[k] = values[k - gap];
      values[k] = value;
    }
  }
  u32 hash = 2166136261U;
  for (const u32 value : values) hash = (hash ^ value) * 16777619U;
  return hash;
}

[[gnu::noinline]] u32 multiply_wide(u32 times) {
  u64 sum = 0x0123456789abcdefULL;
  for (u32 i = 0; i < times; ++i) {
    sum = sum * 6364136223846793005ULL + next();
    sum ^= sum >> 29;
    if ((sum & 3) == 1) sum -= i;
  }
  return static_cast<u32>(sum) ^ static_cast<u32>(sum >> 32);
}

using Step = u32 (*)(u32);
u32 rotate(u32 x) { return x << 7 | x >> 25; }
u32 add(u32 x) { return x + 0x9e3779b9U; }
u32 invert(u32 x) { return ~x; }
Step volatile steps[] = {rotate, add, invert, add};

[[gnu::noinline]] u32 call_through_pointers(u32 times) {
  u32 value = 12345;
  for (u32 i = 0; i < times; ++i) value = steps[i & 3](value);
  return value;
}

}  // namespace

extern "C" [[noreturn]] void start() {
  print("fibonacci", fibonacci(24));
  print("sorted", sort_and_hash());
  print("wide", multiply_wide(300000));
  print("pointers", call_through_pointers(399999));
  system_call(1, 0, 0, 0);
  for (;;) {
  }
}

asm(".globl _start\n_start: and $-16, %esp\ncall start\n");
