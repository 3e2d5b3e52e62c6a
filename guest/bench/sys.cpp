#include "bench/sys.h"

#include <linux/futex.h>
#include <linux/mman.h>
#include <linux/resource.h>

namespace bench {
namespace {

constexpr uint64_t kMaxCpus = 1024;
uint64_t allowed_cpus[kMaxCpus / 64];
uint64_t allowed_bytes = 0;

uint64_t usage_us(int64_t who) {
  rusage usage{};
  syscall6(__NR_getrusage, static_cast<uint64_t>(who), address(&usage));
  return static_cast<uint64_t>((usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1'000'000 +
                               usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

}  // namespace

bool wait_for(long child) {
  if (child <= 0) return false;
  int status = -1;
  return syscall6(__NR_wait4, static_cast<uint64_t>(child), address(&status)) == child &&
         status == 0;
}

void* map_pages(size_t bytes) {
  const long result = syscall6(__NR_mmap, 0, bytes, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS, static_cast<uint64_t>(-1));
  if (result < 0 && result > -4096) return nullptr;
  syscall6(__NR_madvise, static_cast<uint64_t>(result), bytes, MADV_NOHUGEPAGE);
  return reinterpret_cast<void*>(result);
}

void unmap_pages(void* pages, size_t bytes) { syscall6(__NR_munmap, address(pages), bytes); }

void futex_wait(const uint32_t* word, uint32_t expected) {
  syscall6(__NR_futex, address(word), FUTEX_WAIT, expected);
}

void futex_wake(const uint32_t* word) { syscall6(__NR_futex, address(word), FUTEX_WAKE, 1); }

void join_thread(const uint32_t* tid) {
  while (const uint32_t value = __atomic_load_n(tid, __ATOMIC_ACQUIRE)) futex_wait(tid, value);
}

uint64_t cpu_time_us() { return usage_us(RUSAGE_SELF) + usage_us(RUSAGE_CHILDREN); }

void stay_on_one_cpu() {
  if (allowed_bytes == 0) {
    const long bytes =
        syscall6(__NR_sched_getaffinity, 0, sizeof(allowed_cpus), address(allowed_cpus));
    if (bytes > 0) allowed_bytes = static_cast<uint64_t>(bytes);
  }
  uint32_t cpu = 0;
  syscall6(__NR_getcpu, address(&cpu));
  if (cpu >= kMaxCpus) return;
  uint64_t mask[kMaxCpus / 64]{};
  mask[cpu / 64] = uint64_t{1} << cpu % 64;
  syscall6(__NR_sched_setaffinity, 0, sizeof(mask), address(mask));
}

void use_all_cpus() {
  if (allowed_bytes == 0) return;
  syscall6(__NR_sched_setaffinity, 0, allowed_bytes, address(allowed_cpus));
}

}  // namespace bench
