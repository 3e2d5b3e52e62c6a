// What the kernel does for a program: system calls, pipes, processes, memory.
#include <linux/mman.h>

#include "bench/row.h"
#include "bench/sys.h"

namespace bench {
namespace {

constexpr size_t KiB = 1024;

// --- getpid ---
constexpr uint64_t kGetpids = 1000;

uint64_t getpid_unit() {
  const long first = syscall6(__NR_getpid);
  uint64_t same = 0;
  for (uint64_t i = 0; i < kGetpids; ++i) same += syscall6(__NR_getpid) == first ? 1 : 0;
  return mix(1, same);
}

// --- pipe: a byte to another process and back ---
constexpr uint64_t kRoundTrips = 100;

[[noreturn]] void echo(int from, int to) {
  unsigned char byte = 0;
  while (read_some(from, &byte, 1) == 1) {
    ++byte;
    if (write_all(to, &byte, 1) != 1) exit_process(1);
  }
  exit_process(0);
}

uint64_t round_trips(int from, int to) {
  uint64_t hash = 1;
  for (uint64_t i = 0; i < kRoundTrips; ++i) {
    auto byte = static_cast<unsigned char>(i * 7);
    if (write_all(to, &byte, 1) != 1 || read_some(from, &byte, 1) != 1) return kFailed;
    hash = mix(hash, byte);
  }
  return hash;
}

// The partner is forked and waited for inside the measured part, so that its CPU time counts on the
// host, too; against the round trips that is nothing.
uint64_t run_pipe(uint64_t units) {
  int there[2];
  int back[2];
  if (syscall6(__NR_pipe2, address(there)) < 0 || syscall6(__NR_pipe2, address(back)) < 0) {
    return kFailed;
  }
  const long child = fork_process();
  if (child == 0) {
    close_fd(there[1]);
    close_fd(back[0]);
    echo(there[0], back[1]);
  }
  close_fd(there[0]);
  close_fd(back[1]);
  uint64_t result = kFailed;
  if (child > 0) {
    result = round_trips(back[0], there[1]);
    for (uint64_t i = 1; i < units && result != kFailed; ++i) {
      if (round_trips(back[0], there[1]) != result) result = kFailed;
    }
  }
  close_fd(there[1]);
  close_fd(back[0]);
  return wait_for(child) ? result : kFailed;
}

// --- processes ---
constexpr uint64_t kForks = 10;

uint64_t fork_unit() {
  uint64_t well = 0;
  for (uint64_t i = 0; i < kForks; ++i) {
    const long child = fork_process();
    if (child == 0) exit_process(0);
    well += wait_for(child) ? 1 : 0;
  }
  return well == kForks ? mix(1, well) : kFailed;
}

uint64_t exec_unit() {
  static const char* const argv[] = {"bench", "exit", nullptr};
  static const char* const environment[] = {nullptr};
  uint64_t well = 0;
  for (uint64_t i = 0; i < kForks; ++i) {
    const long child = fork_process();
    if (child == 0) {
      syscall6(__NR_execve, address("/proc/self/exe"), address(argv), address(environment));
      exit_process(1);
    }
    well += wait_for(child) ? 1 : 0;
  }
  return well == kForks ? mix(1, well) : kFailed;
}

// --- memory management ---
constexpr size_t kPageBytes = 4 * KiB;
constexpr uint64_t kFaultPages = 256;

uint64_t fault_unit() {
  auto* pages = static_cast<unsigned char*>(map_pages(kFaultPages * kPageBytes));
  if (pages == nullptr) return kFailed;
  uint64_t zeros = 0;
  for (uint64_t i = 0; i < kFaultPages; ++i) {
    volatile unsigned char* byte = pages + i * kPageBytes;
    *byte = 1;
    zeros += byte[1] == 0 ? 1 : 0;
  }
  unmap_pages(pages, kFaultPages * kPageBytes);
  return mix(1, zeros);
}

constexpr uint64_t kMappings = 200;
constexpr size_t kMappingBytes = 64 * KiB;

uint64_t mapping_unit() {
  uint64_t well = 0;
  for (uint64_t i = 0; i < kMappings; ++i) {
    const long pages = syscall6(__NR_mmap, 0, kMappingBytes, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, static_cast<uint64_t>(-1));
    if (pages < 0 && pages > -4096) return kFailed;
    well += syscall6(__NR_munmap, static_cast<uint64_t>(pages), kMappingBytes) == 0 ? 1 : 0;
  }
  return mix(1, well);
}

constexpr Row kRows[] = {
    {"getpid", kGetpids, prepare_nothing, repeat<getpid_unit>, finish_nothing},
    {"pipe", kRoundTrips, prepare_nothing, run_pipe, finish_nothing},
    {"fork", kForks, prepare_nothing, repeat<fork_unit>, finish_nothing},
    {"exec", kForks, prepare_nothing, repeat<exec_unit>, finish_nothing},
    {"fault", kFaultPages, prepare_nothing, repeat<fault_unit>, finish_nothing},
    {"mmap", kMappings, prepare_nothing, repeat<mapping_unit>, finish_nothing},
};

}  // namespace

Rows kernel_rows() { return {kRows, sizeof(kRows) / sizeof(kRows[0])}; }

}  // namespace bench
