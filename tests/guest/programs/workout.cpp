// A program that leans on the CPU in many ways and prints what came out: run on the host and in a
// guest, it must print the same. Only operations whose result the architecture fixes are printed
// (no libm functions that choose an implementation by CPUID).
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

namespace {

uint64_t next_random(uint64_t& state) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

void integers() {
  uint64_t state = 88172645463325252U;
  uint64_t hash = 0;
  for (int i = 0; i < 200'000; ++i) {
    const uint64_t a = next_random(state);
    const uint64_t b = next_random(state) | 1;
    hash = hash * 31 + (a / b) + (a % b) + static_cast<uint64_t>(__builtin_popcountll(a)) +
           (a << (b & 63)) + (a >> (b & 31));
    hash ^= static_cast<uint64_t>((static_cast<unsigned __int128>(a) * b) >> 64);
  }
  std::printf("integers %016lx\n", static_cast<unsigned long>(hash));
}

void floating_point() {
  double sum = 0;
  float small = 1;
  long double wide = 1;
  for (int i = 1; i < 100'000; ++i) {
    const double x = i * 0.37;
    sum += std::sqrt(x) / (1 + x * x) - std::nearbyint(x) * 1e-9;
    small = small * 1.0001F - 1.0F / static_cast<float>(i);
    wide = wide / 1.0000001L + sqrtl(static_cast<long double>(i)) * 1e-6L;
  }
  std::printf("double %.17g float %.9g long double %.21Lg\n", sum, static_cast<double>(small),
              wide);
  std::printf("conversions %d %ld %g\n", static_cast<int>(-1.5), static_cast<long>(1e15 + 0.5),
              static_cast<double>(static_cast<float>(1e-40)));
}

void threads() {
  std::atomic<uint64_t> counter{0};
  uint64_t guarded = 0;
  std::mutex mutex;
  std::atomic<int> turn{0};
  std::vector<std::thread> all;
  for (int t = 0; t < 8; ++t) {
    all.emplace_back([&, t] {
      for (int i = 0; i < 20'000; ++i) {
        counter.fetch_add(static_cast<uint64_t>(t) + 1);
        if (i % 16 == 0) {
          const std::lock_guard lock(mutex);
          guarded += static_cast<uint64_t>(t);
        }
      }
      for (int round = 0; round < 20; ++round) {  // each waits for the one before
        while (turn.load() % 8 != t) std::this_thread::yield();
        turn.fetch_add(1);
      }
    });
  }
  for (std::thread& thread : all) thread.join();
  std::printf("threads %lu %lu %d\n", static_cast<unsigned long>(counter.load()),
              static_cast<unsigned long>(guarded), turn.load());
}

sigjmp_buf jump;
volatile sig_atomic_t alarms = 0;
void* volatile fault_address = nullptr;

void on_fault(int, siginfo_t* info, void*) {
  fault_address = info->si_addr;
  siglongjmp(jump, 1);
}
void on_alarm(int) { alarms = alarms + 1; }

void install(int signal, void (*action)(int, siginfo_t*, void*)) {
  struct sigaction how {};
  how.sa_sigaction = action;
  how.sa_flags = SA_SIGINFO;
  sigaction(signal, &how, nullptr);
}

void signals() {
  install(SIGSEGV, on_fault);
  install(SIGFPE, on_fault);
  install(SIGILL, on_fault);
  auto* page =
      static_cast<char*>(mmap(nullptr, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  int faults = 0;
  for (int i = 0; i < 100; ++i) {
    if (sigsetjmp(jump, 1) == 0) {
      page[i * 40] = 1;
    } else {
      faults += fault_address == page + i * 40 ? 1 : 0;
    }
  }
  if (sigsetjmp(jump, 1) == 0) {
    asm volatile("xor %%ecx, %%ecx\n\tmov $1, %%eax\n\tcltd\n\tidiv %%ecx" ::: "eax", "ecx", "edx");
  } else {
    std::printf("division ");
  }
  if (sigsetjmp(jump, 1) == 0) {
    asm volatile("ud2");
  } else {
    std::printf("undefined ");
  }
  std::signal(SIGALRM, on_alarm);
  const itimerval every{{0, 2000}, {0, 2000}};
  setitimer(ITIMER_REAL, &every, nullptr);
  double busy = 1;
  while (alarms < 20) busy = busy * 1.0000001 + 1e-9;  // registers must survive the handlers
  const itimerval never{};
  setitimer(ITIMER_REAL, &never, nullptr);
  std::printf("faults %d alarms %s %s\n", faults, alarms >= 20 ? "came" : "late",
              busy > 1 ? "busy" : "lost");
}

void processes() {
  int sum = 0;
  for (int i = 0; i < 150; ++i) {
    const pid_t child = fork();
    if (child == 0) _exit(i % 100);
    int status = 0;
    waitpid(child, &status, 0);
    sum += WEXITSTATUS(status);
  }
  int there[2];
  int back[2];
  if (pipe(there) != 0 || pipe(back) != 0) std::exit(1);
  const pid_t echo = fork();
  if (echo == 0) {
    uint32_t value = 0;
    close(there[1]);
    while (read(there[0], &value, sizeof(value)) == sizeof(value)) {
      value = value * 1664525 + 1013904223;
      if (write(back[1], &value, sizeof(value)) != sizeof(value)) _exit(1);
    }
    _exit(0);
  }
  uint32_t value = 1;
  for (int i = 0; i < 2000; ++i) {
    if (write(there[1], &value, sizeof(value)) != sizeof(value)) std::exit(1);
    if (read(back[0], &value, sizeof(value)) != sizeof(value)) std::exit(1);
  }
  close(there[1]);
  int status = 0;
  waitpid(echo, &status, 0);
  std::printf("processes %d pipe %08x %d\n", sum, value, status);
}

// mov eax, imm32; ret -- rewritten over and over, by the thread that runs it and by another one.
void changing_code() {
  auto* code = static_cast<uint8_t*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  code[0] = 0xb8;
  code[5] = 0xc3;
  const auto run = reinterpret_cast<uint32_t (*)()>(code);
  uint64_t wrong = 0;
  for (uint32_t i = 0; i < 3000; ++i) {
    std::memcpy(code + 1, &i, sizeof(i));
    wrong += run() != i;
  }
  std::atomic<uint32_t> ready{0};
  std::atomic<uint32_t> done{0};
  std::thread writer([&] {
    for (uint32_t i = 1; i <= 500; ++i) {
      const uint32_t value = i * 7;
      std::memcpy(code + 1, &value, sizeof(value));
      ready.store(i);
      while (done.load() != i) std::this_thread::yield();
    }
  });
  for (uint32_t i = 1; i <= 500; ++i) {
    while (ready.load() != i) std::this_thread::yield();
    uint32_t a = 0, b = 0, c = 0, d = 0;  // a serializing instruction, as SDM 3A 8.1.3 demands
    asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    wrong += run() != i * 7;
    done.store(i);
  }
  writer.join();
  std::printf("changing code %lu\n", static_cast<unsigned long>(wrong));
}

void memory() {
  uint64_t sum = 0;
  for (int round = 0; round < 20; ++round) {
    auto* area = static_cast<uint8_t*>(
        mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    std::memset(area, round, 1 << 20);
    std::memmove(area + 3, area + 1000, 500'000);
    std::memcpy(area + 4095, area + 700'001, 9000);
    for (int i = 0; i < 1 << 20; i += 4096) sum += area[i];
    munmap(area, 1 << 20);
  }
  std::vector<uint32_t> values(50'000);
  uint64_t state = 42;
  for (uint32_t& value : values) value = static_cast<uint32_t>(next_random(state));
  std::sort(values.begin(), values.end());
  std::printf("memory %lu sorted %u %u\n", static_cast<unsigned long>(sum), values[100],
              values[49'000]);
}

}  // namespace

int main() {
  std::setvbuf(stdout, nullptr, _IONBF, 0);  // forks must not print twice
  integers();
  floating_point();
  threads();
  signals();
  processes();
  changing_code();
  memory();
  return 0;
}
