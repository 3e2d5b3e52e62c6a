#include "diff/native.h"

#include <asm/prctl.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace trapeze::diff {

struct Native::Shared {
  Backgrounds backgrounds;
  uint32_t count;
  uint32_t next;  // the case that runs; what the child died of is its fault
  std::array<Case, kBatch> cases;
  std::array<Outcome, kBatch> outcomes;
};

namespace {

constexpr int kTimeoutMs = 20'000;
constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
constexpr size_t kArenaPages = 5;  // code, data, data, read-only, stack
constexpr size_t kAltStackBytes = 64 * 1024;

// Where the frame has each general register, in encoding order.
constexpr int kFrameRegisters[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                     REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                     REG_R12, REG_R13, REG_R14, REG_R15};

// The signal handler has no other way to its data; only the child uses this.
struct Child {
  Native::Shared* shared = nullptr;
  uint8_t* arena = nullptr;  // writable view of the pages
  int in = -1, out = -1;
  bool running = false;
};

}  // namespace

struct NativeChild {
  static Child child;

  static void wait_for_work() {
    char byte = 0;
    if (read(child.in, &byte, 1) != 1) _exit(0);
  }
  static void report_done() {
    const char byte = 0;
    if (write(child.out, &byte, 1) != 1) _exit(1);
  }

  // The kernel describes what is behind the FXSAVE image in its last bytes (uapi asm/sigcontext.h:
  // struct _fpx_sw_bytes).
  static constexpr size_t kFrameYmm = 576;
  static bool has_xsave(const uint8_t* image) {
    constexpr uint32_t kMagic1 = 0x46505853;  // FP_XSTATE_MAGIC1
    uint32_t magic = 0;
    std::memcpy(&magic, image + 464, sizeof(magic));
    return magic == kMagic1;
  }
  static bool has_ymm(const uint8_t* image) {
    uint64_t features = 0;
    std::memcpy(&features, image + 472, sizeof(features));
    return has_xsave(image) && (features & 4) != 0;
  }

  static void store(const ucontext_t& frame, Outcome& outcome) {
    for (size_t i = 0; i < 16; ++i) {
      outcome.end.gpr[i] = static_cast<uint64_t>(frame.uc_mcontext.gregs[kFrameRegisters[i]]);
    }
    outcome.end.rip = static_cast<uint64_t>(frame.uc_mcontext.gregs[REG_RIP]);
    outcome.end.rflags = static_cast<uint64_t>(frame.uc_mcontext.gregs[REG_EFL]);
    outcome.vector = static_cast<uint32_t>(frame.uc_mcontext.gregs[REG_TRAPNO]);
    outcome.error_code = static_cast<uint32_t>(frame.uc_mcontext.gregs[REG_ERR]);
    outcome.cr2 = static_cast<uint64_t>(frame.uc_mcontext.gregs[REG_CR2]);
    const auto* image = reinterpret_cast<const uint8_t*>(frame.uc_mcontext.fpregs);
    std::memcpy(outcome.end.fx.data(), image, kFxBytes);
    if (has_ymm(image)) {
      std::memcpy(outcome.end.ymm_high.data(), image + kFrameYmm, kYmmBytes);
    }
    std::memcpy(outcome.memory.data(), child.arena + kPage, 2 * kPage);
    std::memcpy(outcome.memory.data() + 2 * kPage, child.arena + 4 * kPage, kPage);
  }

  static void load(const Case& test, ucontext_t& frame) {
    for (size_t i = 0; i < 16; ++i) {
      frame.uc_mcontext.gregs[kFrameRegisters[i]] = static_cast<greg_t>(test.start.gpr[i]);
    }
    frame.uc_mcontext.gregs[REG_RIP] = static_cast<greg_t>(test.start.rip);
    frame.uc_mcontext.gregs[REG_EFL] = static_cast<greg_t>(test.start.rflags);
    auto* image = reinterpret_cast<uint8_t*>(frame.uc_mcontext.fpregs);
    std::memcpy(image, test.start.fx.data(), kFxUsed);
    // The XSAVE header behind the FXSAVE image (SDM 1 13.4.2), when the kernel put one there:
    // without these bits it would give the registers their initial values.
    if (has_xsave(image)) image[kFxBytes] |= 3;
    if (has_ymm(image)) {
      image[kFxBytes] |= 4;
      std::memcpy(image + kFrameYmm, test.start.ymm_high.data(), kYmmBytes);
    }
    const Background& background = child.shared->backgrounds[test.background];
    std::memset(child.arena, kHltOpcode, kPage);
    std::memcpy(child.arena + (test.start.rip & (kPage - 1)), test.code.data(), test.code_bytes);
    std::memcpy(child.arena + kPage, background.changing.data(), 2 * kPage);
    std::memcpy(child.arena + 4 * kPage, background.changing.data() + 2 * kPage, kPage);
  }

  static void on_signal(int, siginfo_t*, void* context) {
    // The kernel leaves AC as it was, and a misaligned access here must not raise #AC.
    asm volatile("pushfq; andl $~0x40000, (%%rsp); popfq" : : : "memory", "cc");
    auto& frame = *static_cast<ucontext_t*>(context);
    Native::Shared& shared = *child.shared;
    if (child.running) {
      store(frame, shared.outcomes[shared.next]);
      ++shared.next;
    }
    child.running = true;
    while (shared.next >= shared.count) {
      report_done();
      wait_for_work();
    }
    load(shared.cases[shared.next], frame);
  }

  static void map(uint64_t address, size_t pages, int protection, int fd, size_t page) {
    void* const wanted = reinterpret_cast<void*>(address);
    // Populated: a fault on a page that is not there yet would tell so in its error code.
    const void* got =
        mmap(wanted, pages * kPage, protection, MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE, fd,
             static_cast<off_t>(page * kPage));
    CHECK(got == wanted);
  }

  [[noreturn]] static void run(Native::Shared* shared, int arena, int in, int out) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    child = {shared, nullptr, in, out, false};
    void* view = mmap(nullptr, kArenaPages * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, arena, 0);
    CHECK(view != MAP_FAILED);
    child.arena = static_cast<uint8_t*>(view);
    std::memcpy(child.arena + 3 * kPage, shared->backgrounds[0].read_only.data(), kPage);
    map(kCodePage, 1, PROT_READ | PROT_EXEC, arena, 0);
    map(kData, 2, PROT_READ | PROT_WRITE, arena, 1);
    map(kReadOnly, 1, PROT_READ, arena, 3);
    map(kStack, 1, PROT_READ | PROT_WRITE, arena, 4);
    CHECK(syscall(SYS_arch_prctl, ARCH_SET_GS, kGsBase) == 0);

    stack_t stack{};
    stack.ss_sp =
        mmap(nullptr, kAltStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    stack.ss_size = kAltStackBytes;
    CHECK(sigaltstack(&stack, nullptr) == 0);
    struct sigaction action {};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (const int signal : kSignals) CHECK(sigaction(signal, &action, nullptr) == 0);
    wait_for_work();
    for (;;) asm volatile("ud2");
  }
};

Child NativeChild::child;

Native::Native(const Backgrounds& backgrounds) {
  void* shared =
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(shared != MAP_FAILED);
  shared_ = new (shared) Shared;
  shared_->backgrounds = backgrounds;
  arena_ = memfd_create("diff", MFD_CLOEXEC);
  CHECK(arena_ >= 0);
  CHECK(ftruncate(arena_, kArenaPages * kPage) == 0);
  spawn();
}

Native::~Native() {
  reap();
  close(arena_);
  munmap(shared_, sizeof(Shared));
}

void Native::spawn() {
  int work[2], done[2];
  CHECK(pipe2(work, O_CLOEXEC) == 0);
  CHECK(pipe2(done, O_CLOEXEC) == 0);
  child_ = fork();
  CHECK(child_ >= 0);
  if (child_ == 0) {
    close(work[1]);
    close(done[0]);
    NativeChild::run(shared_, arena_, work[0], done[1]);
  }
  close(work[0]);
  close(done[1]);
  to_child_ = work[1];
  from_child_ = done[0];
}

void Native::reap() {
  close(to_child_);
  close(from_child_);
  kill(child_, SIGKILL);
  CHECK(waitpid(child_, nullptr, 0) == child_);
}

void Native::start(std::span<const Case> cases) {
  CHECK(cases.size() <= kBatch);
  std::copy(cases.begin(), cases.end(), shared_->cases.begin());
  for (size_t i = 0; i < cases.size(); ++i) shared_->outcomes[i].vector = kNoVector;
  shared_->count = static_cast<uint32_t>(cases.size());
  shared_->next = 0;
  const char byte = 0;
  CHECK(write(to_child_, &byte, 1) == 1);
}

std::span<const Outcome> Native::finish() {
  for (;;) {
    pollfd waiting{from_child_, POLLIN, 0};
    char byte = 0;
    if (poll(&waiting, 1, kTimeoutMs) == 1 && read(from_child_, &byte, 1) == 1) break;
    // The child died or hangs at this case: go on with a new child behind it.
    reap();
    shared_->outcomes[shared_->next].vector = kNoVector;
    ++shared_->next;
    spawn();
    if (shared_->next >= shared_->count) break;
    CHECK(write(to_child_, &byte, 1) == 1);
  }
  return std::span(shared_->outcomes).first(shared_->count);
}

}  // namespace trapeze::diff
