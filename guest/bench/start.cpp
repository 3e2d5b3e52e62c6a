// What a C library would bring: the entry point, the start of a thread, and the few functions that
// compilers and zlib call.
#include <asm/prctl.h>
#include <emmintrin.h>
#include <linux/sched.h>

#include "bench/sys.h"

namespace {

constexpr unsigned kThreadFlags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
                                  CLONE_SYSVSEM | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;

// zlib of the distribution is built with stack protection: its canary is at %fs:0x28.
alignas(16) uint64_t thread_block[16];

}  // namespace

int bench_main(int argc, char** argv);

extern "C" [[noreturn]] void bench_start(uint64_t* stack) {
  thread_block[5] = 0x5ca1ab1e00c0ffee;
  bench::syscall6(__NR_arch_prctl, ARCH_SET_FS, bench::address(thread_block));
  bench::exit_process(bench_main(static_cast<int>(stack[0]), reinterpret_cast<char**>(stack + 1)));
}

asm(R"(
  .text
  .globl _start
_start:
  xor %ebp, %ebp
  mov %rsp, %rdi
  and $-16, %rsp
  call bench_start
)");

// clone(flags, stack, parent_tid, child_tid, tls): the child finds function and argument on its
// stack.
extern "C" [[gnu::naked, gnu::used]] long bench_clone_thread(unsigned /*flags*/, void* /*stack*/,
                                                             uint32_t* /*tid*/) {
  asm(R"(
  mov %rdx, %r10
  xor %r8d, %r8d
  mov $56, %eax
  syscall
  test %rax, %rax
  jz 1f
  ret
1:
  xor %ebp, %ebp
  pop %rax
  pop %rdi
  call *%rax
  mov $60, %eax
  xor %edi, %edi
  syscall
  ud2
)");
}

extern "C" long bench_spawn_thread(void* stack_top, uint32_t* tid, void (*function)(void*),
                                   void* argument) {
  auto* stack = static_cast<uint64_t*>(stack_top) - 2;
  stack[0] = reinterpret_cast<uint64_t>(function);
  stack[1] = reinterpret_cast<uint64_t>(argument);
  return bench_clone_thread(kThreadFlags, stack, tid);
}

// The empty asm statements keep compilers from making calls of these very functions out of the
// loops.
extern "C" {

void* memcpy(void* __restrict target, const void* __restrict source, size_t bytes) {
  auto* to = static_cast<unsigned char*>(target);
  const auto* from = static_cast<const unsigned char*>(source);
  for (; bytes >= 16; bytes -= 16, to += 16, from += 16) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                     _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    asm volatile("" ::: "memory");
  }
  for (; bytes > 0; --bytes) {
    *to++ = *from++;
    asm volatile("" ::: "memory");
  }
  return target;
}

void* memmove(void* target, const void* source, size_t bytes) {
  if (bench::address(target) - bench::address(source) >= bytes) {
    return memcpy(target, source, bytes);
  }
  auto* to = static_cast<unsigned char*>(target);
  const auto* from = static_cast<const unsigned char*>(source);
  while (bytes-- > 0) {
    to[bytes] = from[bytes];
    asm volatile("" ::: "memory");
  }
  return target;
}

void* memset(void* target, int value, size_t bytes) {
  auto* to = static_cast<unsigned char*>(target);
  const __m128i wide = _mm_set1_epi8(static_cast<char>(value));
  for (; bytes >= 16; bytes -= 16, to += 16) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), wide);
    asm volatile("" ::: "memory");
  }
  for (; bytes > 0; --bytes) {
    *to++ = static_cast<unsigned char>(value);
    asm volatile("" ::: "memory");
  }
  return target;
}

int memcmp(const void* left, const void* right, size_t bytes) {
  const auto* a = static_cast<const unsigned char*>(left);
  const auto* b = static_cast<const unsigned char*>(right);
  for (size_t i = 0; i < bytes; ++i) {
    if (a[i] != b[i]) return a[i] - b[i];
  }
  return 0;
}

// zlib's default allocator names them; the program always passes its own (deflate.cpp).
void* malloc(size_t) { return nullptr; }
void free(void*) {}
[[noreturn]] void __stack_chk_fail() { bench::exit_process(99); }

}  // extern "C"
