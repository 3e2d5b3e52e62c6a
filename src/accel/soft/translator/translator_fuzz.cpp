// Any guest code under the translator: it reaches guest RAM and its own Cpu and nothing else, and
// leaves what the interpreter leaves. Both machines' RAM and Cpu lie between inaccessible pages.
//
// Input: byte 0 is the privilege and where the code lies, bytes 1 to 17 choose the registers,
// the flags and 32-bit code, the rest is the code. Only a few pages are mapped (Layout), so that
// comparing all that can change is cheap.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>

#include "accel/soft/exec/fpu.h"
#include "accel/soft/system/mode.h"
#include "accel/soft/testing/machine.h"
#include "accel/soft/translator/translator.h"
#include "base/check.h"
#include "base/units.h"

namespace trapeze::soft {
namespace {

// Linear and physical: the low 128 KiB are mapped as they are. Behind 2 MiB: the last pages of RAM
// and, right behind them, addresses that are none (MMIO); then pages with fewer rights.
constexpr uint64_t kLowBytes = 128 * KiB;
constexpr uint64_t kRamBytes = 16 * MiB;
constexpr uint64_t kWindow = 2 * MiB;
constexpr uint64_t kTopPages = 8;
constexpr uint64_t kTop = kRamBytes - kTopPages * kPageSize;
constexpr uint64_t kMmio = kWindow + kTopPages * kPageSize;
constexpr uint64_t kReadOnly = kMmio + 2 * kPageSize, kSupervisor = kReadOnly + kPageSize,
                   kNoExecute = kSupervisor + kPageSize, kAbsent = kNoExecute + kPageSize;
constexpr uint64_t kPml4 = 0x1000, kPdpt = 0x2000, kPd = 0x3000, kLowTable = 0x4000,
                   kWindowTable = 0x5000, kTablesEnd = 0x6000;
constexpr uint64_t kCode = TestMachine::kCode, kData = 0x18000;
constexpr size_t kHeader = 18, kMaxCode = 128;
constexpr uint64_t kMaxInstructions = 2000;
constexpr timespec kKickAfter{0, 2'000'000};

constexpr uint64_t kPointers[] = {
    kData,
    kData + 0x7f8,
    kData + kPageSize - 4,
    kCode,
    kCode + 16,
    TestMachine::kStackTop,
    kWindow,
    kMmio - 16,
    kMmio - 3,
    kMmio,
    kReadOnly + 64,
    kSupervisor + 8,
    kNoExecute,
    kAbsent - 8,
    kLowBytes - 8,
    kPml4,
    kLowTable + 0x18 * 8,
    uint64_t{0} - 16,
    0x7fff'ffff'fff8,
    0xffff'8000'0000'0000,
    uint64_t{1} << 32,
    kData - (uint64_t{1} << 31),
    0,
    1,
    2,
    7,
    8,
    0x80,
    0xffff'ffff,
    0x8000'0000,
    ~uint64_t{0},
    0x0123'4567'89ab'cdef,
};

class FakeIo final : public IoSink {
 public:
  uint64_t mmio_read(Gpa gpa, Width) override { return gpa.raw() * 0x9e37'79b9'7f4a'7c15; }
  void mmio_write(Gpa, Width, uint64_t) override {}
  uint32_t pio_read(Port port, Width) override { return static_cast<uint32_t>(port.raw()) * 77; }
  void pio_write(Port, Width, uint32_t) override {}
};

// Raises kAttnKick when code runs too long: translated code counts no instructions.
class Kicker {
 public:
  Kicker() {
    struct sigaction action {};
    action.sa_handler = [](int) {
      if (running != nullptr) running->attention.fetch_or(kAttnKick);
    };
    action.sa_flags = SA_RESTART;
    CHECK(::sigaction(SIGRTMIN, &action, nullptr) == 0);
    sigevent event{};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGRTMIN;
    CHECK(::timer_create(CLOCK_MONOTONIC, &event, &timer_) == 0);
  }
  void start(Cpu& cpu) {
    running = &cpu;
    const itimerspec when{kKickAfter, kKickAfter};
    ::timer_settime(timer_, 0, &when, nullptr);
  }
  void stop() {
    const itimerspec never{};
    ::timer_settime(timer_, 0, &never, nullptr);
    running = nullptr;
  }

 private:
  static inline Cpu* volatile running = nullptr;
  timer_t timer_{};
};

// What a run left, memory aside.
struct End {
  RunResult result = RunResult::Limit;
  VcpuState state;
  Fault fault;
};

class Side {
 public:
  explicit Side(bool translated) {
    if (translated) machine_.use_translator();
    machine_.cpu().env->io = &io_;
    machine_.cpu().env->clock = &clock_;  // so that RDTSC gives the same on both sides
    map_pages();
    for (uint64_t i = 0; i < kLowBytes / 8; ++i) {
      if (i * 8 >= kTablesEnd) low<uint64_t>(i) = i * 0x9e37'79b9'7f4a'7c15;
    }
    std::memset(bytes(kCode), 0xf4, 2 * kPageSize);  // HLT
    std::memset(bytes(kTop), 0x5a, kTopPages * kPageSize);
    for (unsigned i = 0; i < sizeof(Cpu::ymm_high); ++i) {
      reinterpret_cast<uint8_t*>(cpu().fpu.xmm)[i] = static_cast<uint8_t>(37 * i + 11);
      reinterpret_cast<uint8_t*>(cpu().ymm_high)[i] = static_cast<uint8_t>(91 * i + 5);
    }
    start_ = save_cpu(machine_.cpu());
    fresh_ = std::make_unique<std::byte[]>(kRamBytes);
    std::memcpy(fresh_.get(), bytes(0), kRamBytes);
  }

  std::byte* bytes(uint64_t gpa) { return machine_.memory().host_base() + gpa; }
  Cpu& cpu() { return machine_.cpu(); }
  bool is_intact() const { return machine_.is_intact(); }

  // True when code may have reached RAM that is not mapped at first.
  bool may_have_changed_all(const End& end) {
    return end.state.cr3 != kPml4 || (end.state.cr0 >> 31) == 0 ||
           std::memcmp(bytes(kPml4), fresh_.get() + kPml4, kTablesEnd - kPml4) != 0;
  }

  // Memory as at first; all of it, or only what code can reach while it leaves the tables alone.
  void reset(bool all) {
    restore(0, all ? kRamBytes : kLowBytes);
    if (!all) restore(kTop, kRamBytes - kTop);
  }

  End run(std::span<const uint8_t> header, std::span<const uint8_t> code, uint64_t limit) {
    const uint64_t at = (header[0] & 2) != 0 ? kCode + kPageSize - 1 - (header[0] >> 4) : kCode;
    CHECK(machine_.memory().write(Gpa{at}, std::as_bytes(code)));
    VcpuState state = start_;
    state.rip = at;
    for (unsigned i = 0; i < 16; ++i) state.gpr[i] = kPointers[header[1 + i] % 32];
    state.gpr[kRsp] += header[0] & 8;
    state.rflags = 2 | (header[17] & 0xd5) | (header[0] & 4) << 9;
    const bool is_user = (header[0] & 1) != 0;
    const bool is_code32 = (header[17] & 0x20) != 0;  // compatibility mode
    if (is_user) {
      state.segments[kCs] = {0, 0xffff'ffff, 0xa0fb, 0x33};
      state.segments[kSs] = {0, 0xffff'ffff, 0xc0f3, 0x2b};
    }
    if (is_code32) {
      state.segments[kCs].access = is_user ? 0xc0fb : 0xc09b;
      if (!is_user) state.segments[kSs] = {0, 0xffff'ffff, 0xc093, 0x10};
      state.segments[kDs] = state.segments[kEs] = {0, 0xffff'ffff, 0xc0f3, 0x2b};
      state.gpr[kRsp] &= 0xffff'ffff;  // what a push makes of the upper half is undefined
    }
    state.segments[kGs].base = kData;
    cpu().attention.fetch_and(kAttnCode);
    cpu().fault = {};
    CHECK(restore_cpu(cpu(), state).has_value());
    End end;
    end.result = machine_.run(limit);
    end.fault = cpu().fault;
    cpu().fault = {};
    end.state = save_cpu(cpu());
    return end;
  }

 private:
  template <typename T>
  T& low(uint64_t i) {
    return reinterpret_cast<T*>(bytes(0))[i];
  }

  void map_pages() {
    std::memset(bytes(kPd), 0, 3 * kPageSize);
    // Accessed and dirty, so that walks change nothing.
    low<uint64_t>(kPml4 / 8) = kPdpt | 0x67;
    low<uint64_t>(kPdpt / 8) = kPd | 0x67;
    low<uint64_t>(kPd / 8) = kLowTable | 0x67;
    low<uint64_t>(kPd / 8 + 1) = kWindowTable | 0x67;
    for (uint64_t i = 0; i < kLowBytes / kPageSize; ++i) {
      low<uint64_t>(kLowTable / 8 + i) = i * kPageSize | 0x67;
    }
    const auto map = [this](uint64_t linear, uint64_t entry) {
      low<uint64_t>((kWindowTable + (linear - kWindow) / kPageSize * 8) / 8) = entry;
    };
    for (uint64_t i = 0; i < kTopPages + 2; ++i) {
      map(kWindow + i * kPageSize, (kTop + i * kPageSize) | 0x67);
    }
    map(kReadOnly, kTop | 0x65);
    map(kSupervisor, (kTop + kPageSize) | 0x63);
    map(kNoExecute, (kTop + 2 * kPageSize) | 0x67 | uint64_t{1} << 63);
  }

  void restore(uint64_t from, uint64_t size) {
    for (uint64_t page = from; page < from + size; page += kPageSize) {
      const std::span<const std::byte> fresh(fresh_.get() + page, kPageSize);
      if (std::memcmp(bytes(page), fresh.data(), kPageSize) != 0) {
        CHECK(machine_.memory().write(Gpa{page}, fresh));
      }
    }
  }

  FakeIo io_;
  FakeClock clock_;
  // With AVX where the host has it.
  TestMachine machine_{TestMode::Long64,
                       TestMachine::host_has_level3() ? TestMachine::kLevel3 : nullptr};
  VcpuState start_;
  std::unique_ptr<std::byte[]> fresh_;
};

bool has_operand_dependent_flags(std::span<const uint8_t> code) {
  // OF of rotates by an immediate count is undefined, and hosts give it by the encoding.
  for (size_t i = 0; i + 1 < code.size(); ++i) {
    if ((code[i] & 0xfe) == 0xc0 && (code[i + 1] & 0x20) == 0) return true;
  }
  return false;
}

bool same_memory(Side& a, Side& b, bool all) {
  if (all) return std::memcmp(a.bytes(0), b.bytes(0), kRamBytes) == 0;
  return std::memcmp(a.bytes(0), b.bytes(0), kLowBytes) == 0 &&
         std::memcmp(a.bytes(kTop), b.bytes(kTop), kRamBytes - kTop) == 0;
}

bool same_end(const End& a, const End& b) {
  return a.result == b.result && a.state == b.state && a.fault.pending == b.fault.pending &&
         (!a.fault.pending ||
          (a.fault.vector == b.fault.vector && a.fault.error_code == b.fault.error_code &&
           (a.fault.vector != kPF || a.fault.cr2 == b.fault.cr2)));
}

void print_difference(const End& a, const End& b) {
  const auto line = [](const char* name, uint64_t x, uint64_t y) {
    if (x == y) return;
    std::fprintf(stderr, "%-8s interpreter %016llx translator %016llx\n", name,
                 static_cast<unsigned long long>(x), static_cast<unsigned long long>(y));
  };
  line("result", static_cast<uint64_t>(a.result), static_cast<uint64_t>(b.result));
  line("vector", a.fault.vector, b.fault.vector);
  line("error", a.fault.error_code, b.fault.error_code);
  line("fault at", a.fault.cr2, b.fault.cr2);
  line("rip", a.state.rip, b.state.rip);
  line("rflags", a.state.rflags, b.state.rflags);
  for (unsigned i = 0; i < 16; ++i) line("gpr", a.state.gpr[i], b.state.gpr[i]);
  line("fpu", 0, a.state.xsave != b.state.xsave);
  line("cr0", a.state.cr0, b.state.cr0);
  line("cr2", a.state.cr2, b.state.cr2);
  line("cr3", a.state.cr3, b.state.cr3);
  line("cr4", a.state.cr4, b.state.cr4);
  line("dr6", a.state.dr6, b.state.dr6);
  line("segments", 0, a.state.segments != b.state.segments);
  line("msrs", 0, a.state.msrs != b.state.msrs);
  line("events", 0, a.state.events != b.state.events);
}

void print_difference(Side& a, Side& b) {
  unsigned lines = 0;
  for (uint64_t at = 0; at < kRamBytes && lines < 8; ++at) {
    if (a.bytes(at)[0] == b.bytes(at)[0]) continue;
    ++lines;
    std::fprintf(stderr, "[%llx]    interpreter %02x translator %02x\n",
                 static_cast<unsigned long long>(at), static_cast<unsigned>(a.bytes(at)[0]),
                 static_cast<unsigned>(b.bytes(at)[0]));
  }
}

class Fuzzer {
 public:
  void run(std::span<const uint8_t> header, std::span<const uint8_t> code) {
    const End expected = run_interpreted(header, code);
    const bool endless = expected.result == RunResult::Limit;
    if (endless) {
      kicker_.start(translated_.cpu());
      const End end = translated_.run(header, code, ~uint64_t{0});
      kicker_.stop();
      check_intact();
      reset(interpreted_.may_have_changed_all(expected) || translated_.may_have_changed_all(end));
      return;
    }
    // The second time it goes through the links that the first has made.
    for (unsigned i = 0; i < 2; ++i) {
      const End end = translated_.run(header, code, ~uint64_t{0});
      check_intact();
      const bool all =
          interpreted_.may_have_changed_all(expected) || translated_.may_have_changed_all(end);
      const bool same = same_end(expected, end) && same_memory(interpreted_, translated_, all);
      if (!same && !is_variable(header, code, expected)) {
        print_difference(expected, end);
        print_difference(interpreted_, translated_);
        std::abort();
      }
      translated_.reset(all || !same);
      all_ |= all || !same;
    }
    interpreted_.reset(all_);
    all_ = false;
  }

 private:
  End run_interpreted(std::span<const uint8_t> header, std::span<const uint8_t> code) {
    return interpreted_.run(header, code, kMaxInstructions);
  }

  // Random numbers, say: the interpreter does not give the same result again.
  bool is_variable(std::span<const uint8_t> header, std::span<const uint8_t> code,
                   const End& expected) {
    if (has_operand_dependent_flags(code)) return true;
    interpreted_.reset(true);
    return !same_end(expected, run_interpreted(header, code));
  }

  void check_intact() {
    if (!translated_.is_intact()) std::abort();
  }

  void reset(bool all) {
    interpreted_.reset(all);
    translated_.reset(all);
  }

  Kicker kicker_;
  Side interpreted_{false}, translated_{true};
  bool all_ = false;
};

}  // namespace
}  // namespace trapeze::soft

// The caches grow from run to run, and a search for leaks behind each one takes most of the time.
extern "C" const char* __asan_default_options() { return "detect_leaks=0"; }

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trapeze::soft;
  if (size <= kHeader || size > kHeader + kMaxCode || !Translator::is_supported()) return 0;
  static Fuzzer fuzzer;
  fuzzer.run({data, kHeader}, {data + kHeader, size - kHeader});
  return 0;
}
