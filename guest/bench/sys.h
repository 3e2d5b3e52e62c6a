// The benchmark program's system calls, straight to the kernel: there is no C library
// (CMakeLists.txt says why). Results are the kernel's: negative means -errno.
#pragma once

#include <asm/unistd.h>

#include <cstddef>
#include <cstdint>

namespace bench {

inline long syscall6(long number, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0, uint64_t d = 0,
                     uint64_t e = 0, uint64_t f = 0) {
  long result;
  register uint64_t r10 asm("r10") = d;
  register uint64_t r8 asm("r8") = e;
  register uint64_t r9 asm("r9") = f;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return result;
}

inline uint64_t address(const volatile void* pointer) {
  return reinterpret_cast<uint64_t>(pointer);
}

inline long write_all(int fd, const void* data, size_t bytes) {
  size_t done = 0;
  while (done < bytes) {
    const long part = syscall6(__NR_write, static_cast<uint64_t>(fd),
                               address(static_cast<const char*>(data) + done), bytes - done);
    if (part <= 0) return part;
    done += static_cast<size_t>(part);
  }
  return static_cast<long>(done);
}

inline long read_some(int fd, void* data, size_t bytes) {
  return syscall6(__NR_read, static_cast<uint64_t>(fd), address(data), bytes);
}

inline void close_fd(int fd) { syscall6(__NR_close, static_cast<uint64_t>(fd)); }

[[noreturn]] inline void exit_process(int status) {
  for (;;) syscall6(__NR_exit_group, static_cast<uint64_t>(status));
}

inline long fork_process() { return syscall6(__NR_fork); }

// True when that child ended with status 0.
bool wait_for(long child);

// Zeroed pages of 4 KiB each, never huge ones: the guests' kernels may have none. Null on failure.
void* map_pages(size_t bytes);
void unmap_pages(void* pages, size_t bytes);

// A thread of this process; `stack_top` is 16-byte aligned. `tid` is not 0 until the thread is
// gone.
extern "C" long bench_spawn_thread(void* stack_top, uint32_t* tid, void (*function)(void*),
                                   void* argument);
void join_thread(const uint32_t* tid);

void futex_wait(const uint32_t* word, uint32_t expected);
void futex_wake(const uint32_t* word);

// CPU time of this process and its children that were waited for.
uint64_t cpu_time_us();

// Everything on the CPU that it runs on now, as in a guest with one vCPU; or where it was allowed.
void stay_on_one_cpu();
void use_all_cpus();

}  // namespace bench
