// Threads: handing over between two on one CPU, and a job that two share on all CPUs.
#include "bench/row.h"
#include "bench/sha256.h"
#include "bench/sys.h"

namespace bench {
namespace {

constexpr size_t KiB = 1024;
constexpr size_t kStackBytes = 64 * KiB;
unsigned char* stack = nullptr;

bool prepare_stack() {
  stack = static_cast<unsigned char*>(map_pages(kStackBytes));
  return stack != nullptr;
}

void finish_stack() { unmap_pages(stack, kStackBytes); }

// --- context switches: each thread waits for its turn, takes it, and wakes the other ---
constexpr uint64_t kTurns = 100;  // of each thread, in a unit

struct Turns {
  uint32_t whose = 0;  // released by the one who gives it away, acquired by the one who waits
  uint64_t each = 0;
  uint64_t hash = 1;  // belongs to whose turn it is
};

void take_turns(Turns& turns, uint32_t me) {
  for (uint64_t i = 0; i < turns.each; ++i) {
    while (__atomic_load_n(&turns.whose, __ATOMIC_ACQUIRE) != me) futex_wait(&turns.whose, 1 - me);
    turns.hash = i % kTurns == 0 && me == 0 ? mix(1, 0) : mix(turns.hash, i % kTurns * 2 + me);
    __atomic_store_n(&turns.whose, 1 - me, __ATOMIC_RELEASE);
    futex_wake(&turns.whose);
  }
}

uint64_t run_switches(uint64_t units) {
  Turns turns;
  turns.each = units * kTurns;
  uint32_t tid = 0;
  const long spawned = bench_spawn_thread(
      stack + kStackBytes, &tid, [](void* shared) { take_turns(*static_cast<Turns*>(shared), 1); },
      &turns);
  if (spawned < 0) return kFailed;
  take_turns(turns, 0);
  join_thread(&tid);
  return turns.hash;
}

// --- a parallel job: two threads, the same work each ---
constexpr size_t kJobBytes = 64 * KiB;
unsigned char job_text[2][kJobBytes];

struct Job {
  const unsigned char* text = nullptr;
  uint64_t units = 0;
  uint64_t hash = kFailed;
};

[[gnu::noinline]] uint64_t job_unit(const unsigned char* text) {
  asm volatile("" : "+r"(text));  // the compiler must not see that it always gives the same
  uint64_t hash = 1;
  for (const uint32_t word : sha256(text, kJobBytes).words) hash = mix(hash, word);
  return hash;
}

void work(Job& job) {
  const uint64_t first = job_unit(job.text);
  bool all_equal = true;
  for (uint64_t i = 1; i < job.units; ++i) all_equal &= job_unit(job.text) == first;
  job.hash = all_equal ? first : kFailed;
}

bool prepare_job() {
  Random random(6);
  for (auto& text : job_text) {
    for (auto& byte : text) byte = static_cast<unsigned char>(random.next());
  }
  return prepare_stack();
}

uint64_t run_job(uint64_t units) {
  use_all_cpus();
  Job mine{job_text[0], units};
  Job other{job_text[1], units};
  uint32_t tid = 0;
  const long spawned = bench_spawn_thread(
      stack + kStackBytes, &tid, [](void* job) { work(*static_cast<Job*>(job)); }, &other);
  if (spawned < 0) return kFailed;
  work(mine);
  join_thread(&tid);
  if (mine.hash == kFailed || other.hash == kFailed) return kFailed;
  return mix(mine.hash, other.hash);
}

constexpr Row kRows[] = {
    {"switch", 2 * kTurns, prepare_stack, run_switches, finish_stack},
    {"parallel", 2 * kJobBytes / KiB, prepare_job, run_job, finish_stack},
};

}  // namespace

Rows thread_rows() { return {kRows, sizeof(kRows) / sizeof(kRows[0])}; }

}  // namespace bench
