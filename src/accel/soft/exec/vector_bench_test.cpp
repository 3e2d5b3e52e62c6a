#include "accel/soft/exec/vector_bench.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <array>
#include <cstring>
#include <vector>

#include "accel/soft/exec/dispatch.h"
#include "base/check.h"
#include "base/units.h"

namespace trapeze::soft::exec {
namespace {

CpuModel model() { return CpuModel::create("x86-64-v2", 1).value(); }

thread_local bool stopped_at_end;
void stop(Cpu&, const Insn*) { stopped_at_end = true; }

// The native run: an unmasked SSE exception arrives as SIGFPE.
sigjmp_buf fpe_exit;
uint32_t fpe_mxcsr;
void on_fpe(int, siginfo_t*, void* context) {
  fpe_mxcsr = static_cast<ucontext_t*>(context)->uc_mcontext.fpregs->mxcsr;
  siglongjmp(fpe_exit, 1);
}

// void trampoline(BenchState*): loads the state, runs the bytes, stores the state.
std::vector<uint8_t> make_trampoline(std::span<const uint8_t> bytes) {
  static_assert(offsetof(BenchState, rax) == 0x200 && offsetof(BenchState, rflags) == 0x228);
  std::vector<uint8_t> code = {
      0x53,                                      // push rbx
      0x48, 0x89, 0xfb,                          // mov rbx, rdi
      0x48, 0x0f, 0xae, 0x0b,                    // fxrstor64 [rbx]
      0xff, 0xb3, 0x28, 0x02, 0x00, 0x00,        // push qword [rbx + 0x228]
      0x9d,                                      // popfq
      0x48, 0x8b, 0x83, 0x00, 0x02, 0x00, 0x00,  // mov rax, [rbx + 0x200]
      0x48, 0x8b, 0x8b, 0x08, 0x02, 0x00, 0x00,  // mov rcx, ...
      0x48, 0x8b, 0x93, 0x10, 0x02, 0x00, 0x00,  // mov rdx, ...
      0x48, 0x8b, 0xb3, 0x18, 0x02, 0x00, 0x00,  // mov rsi, ...
      0x48, 0x8b, 0xbb, 0x20, 0x02, 0x00, 0x00,  // mov rdi, ...
  };
  code.insert(code.end(), bytes.begin(), bytes.end());
  constexpr uint8_t kTail[] = {
      0x9c,                                      // pushfq
      0x8f, 0x83, 0x28, 0x02, 0x00, 0x00,        // pop qword [rbx + 0x228]
      0x48, 0x89, 0x83, 0x00, 0x02, 0x00, 0x00,  // mov [rbx + 0x200], rax
      0x48, 0x89, 0x8b, 0x08, 0x02, 0x00, 0x00,  // ... rcx
      0x48, 0x89, 0x93, 0x10, 0x02, 0x00, 0x00,  // ... rdx
      0x48, 0x89, 0xb3, 0x18, 0x02, 0x00, 0x00,  // ... rsi
      0x48, 0x89, 0xbb, 0x20, 0x02, 0x00, 0x00,  // ... rdi
      0x48, 0x0f, 0xae, 0x03,                    // fxsave64 [rbx]
      0xdb, 0xe3,                                // fninit
      0x5b,                                      // pop rbx
      0xc3,                                      // ret
  };
  code.insert(code.end(), std::begin(kTail), std::end(kTail));
  return code;
}

template <typename T, size_t N>
T pick(std::mt19937_64& random, const std::array<T, N>& values) {
  return values[random() % N];
}

constexpr std::array<uint32_t, 16> kSingles = {
    0,          0x80000000, 0x3f800000, 0xbf800000, 0x00000001, 0x80000001, 0x007fffff, 0x00800000,
    0x7f7fffff, 0xff7fffff, 0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001, 0x4f000000, 0xcf000001};
constexpr std::array<uint64_t, 16> kDoubles = {0,
                                               0x8000000000000000,
                                               0x3ff0000000000000,
                                               0xbff8000000000000,
                                               1,
                                               0x800fffffffffffff,
                                               0x000fffffffffffff,
                                               0x0010000000000000,
                                               0x7fefffffffffffff,
                                               0x7ff0000000000000,
                                               0xfff0000000000000,
                                               0x7ff8000000000000,
                                               0x7ff0000000000001,
                                               0x41dfffffffc00000,
                                               0xc1e0000000200000,
                                               0x36a0000000000000};
constexpr std::array<uint16_t, 10> kExponents = {0,      1,      0x3ffe, 0x3fff, 0x4000,
                                                 0x403e, 0x7ffe, 0x7fff, 0x3f81, 0x407e};
constexpr std::array<uint64_t, 6> kSignificands = {
    0, 0x8000000000000000, 0xc000000000000000, 0xffffffffffffffff, 1, 0xa000000000000001};

void random_vector(std::mt19937_64& random, uint8_t* to) {
  uint64_t halves[2];
  for (uint64_t& half : halves) {
    switch (random() % 6) {
      case 0:
        half = pick(random, kDoubles);
        break;
      case 1:
        half = pick(random, kSingles) | static_cast<uint64_t>(pick(random, kSingles)) << 32;
        break;
      case 2: {  // doubles of similar size
        half = (random() & 0x800fffffffffffff) | (0x3f0 + random() % 32) << 52;
        break;
      }
      case 3: {  // singles of similar size
        const uint64_t exponents = (0x78 + random() % 16) << 23 | (0x78 + random() % 16) << 55;
        half = (random() & 0x807fffff807fffff) | exponents;
        break;
      }
      case 4:
        half = random() & random() & random();
        break;
      default:
        half = random();
        break;
    }
  }
  std::memcpy(to, halves, 16);
}

void random_extended(std::mt19937_64& random, uint8_t* to) {
  uint64_t significand = random() % 3 == 0 ? pick(random, kSignificands) : random();
  uint16_t exponent =
      random() % 2 == 0 ? pick(random, kExponents) : static_cast<uint16_t>(0x3ff0 + random() % 32);
  if (random() % 8 != 0 && exponent != 0) significand |= uint64_t{1} << 63;
  if (random() % 16 == 0) exponent = 0x7fff;
  exponent = static_cast<uint16_t>(exponent | (random() % 2) << 15);
  std::memcpy(to, &significand, 8);
  std::memcpy(to + 8, &exponent, 2);
  std::memset(to + 10, 0, 6);
}

}  // namespace

VectorBench::VectorBench()
    : decoder_(model()), cpu_(std::make_unique<Cpu>()), tlb_(std::make_unique<Tlb>()) {
  void* pages = mmap(nullptr, 2 * kPageSize, PROT_READ | PROT_WRITE | PROT_EXEC,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(pages != MAP_FAILED);
  pages_ = static_cast<uint8_t*>(pages);
  const auto page = reinterpret_cast<uint64_t>(pages_);
  tlb_->entry(page).read_tag = tlb_->entry(page).write_tag = page;
  struct sigaction action {};
  action.sa_sigaction = on_fpe;
  action.sa_flags = SA_SIGINFO;
  CHECK(sigaction(SIGFPE, &action, nullptr) == 0);
}
VectorBench::~VectorBench() { munmap(pages_, 2 * kPageSize); }

uint64_t VectorBench::operand_address() const { return reinterpret_cast<uint64_t>(pages_) + 256; }

bool VectorBench::decode(std::span<const uint8_t> bytes, Decoded& decoded) const {
  if (decoder_.decode(CodeSize::Code64, bytes, 0, decoded) != DecodeStatus::Ok) return false;
  if (decoded.zy.length != bytes.size()) return false;
  for (unsigned i = 0; i < decoded.zy.operand_count_visible; ++i) {
    if (!decoded.is_reg(i)) continue;
    const ZydisRegister reg = decoded.operands[i].reg.value;
    const ZydisRegisterClass kind = ZydisRegisterGetClass(reg);
    const bool general = kind == ZYDIS_REGCLASS_GPR8 || kind == ZYDIS_REGCLASS_GPR16 ||
                         kind == ZYDIS_REGCLASS_GPR32 || kind == ZYDIS_REGCLASS_GPR64;
    if (!general) continue;
    const ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
    if (whole != ZYDIS_REGISTER_RAX && whole != ZYDIS_REGISTER_RCX && whole != ZYDIS_REGISTER_RDX)
      return false;
  }
  return true;
}

void VectorBench::load_cpu(const BenchState& state) {
  Cpu& cpu = *cpu_;
  cpu.tlb = tlb_.get();
  cpu.code_size = CodeSize::Code64;
  cpu.cr0 = 0x80000033;
  cpu.cr4 = 0x6a0;
  cpu.efer = 0x500;
  cpu.fault = {};
  cpu.gpr[kRax] = state.rax;
  cpu.gpr[kRcx] = state.rcx;
  cpu.gpr[kRdx] = state.rdx;
  cpu.gpr[kRsi] = state.rsi;
  cpu.gpr[kRdi] = state.rdi;
  cpu.arith = to_arithmetic(state.rflags);
  FxImage image;
  std::memcpy(&image, state.fx, sizeof(image));
  fx_restore(cpu.fpu, image, true);
  std::memcpy(pages_ + 256, state.memory, kOperandBytes);
}

void VectorBench::store_cpu(BenchState& state) {
  const Cpu& cpu = *cpu_;
  state.rax = cpu.gpr[kRax];
  state.rcx = cpu.gpr[kRcx];
  state.rdx = cpu.gpr[kRdx];
  state.rsi = cpu.gpr[kRsi];
  state.rdi = cpu.gpr[kRdi];
  state.rflags = (state.rflags & ~kArithmeticFlags) | to_rflags(cpu.arith);
  FxImage image;
  fx_save(cpu.fpu, image, true);
  std::memcpy(state.fx, &image, sizeof(image));
  std::memcpy(state.memory, pages_ + 256, kOperandBytes);
}

Outcome VectorBench::interpret(const Decoded& decoded, BenchState& state) {
  Decoded bound = decoded;
  const Handler run = bind_vector(bound);
  if (run == nullptr) return Outcome::NotBound;
  Insn block[2] = {bound.insn, Insn{}};
  block[0].run = run;
  block[1].run = stop;
  load_cpu(state);
  stopped_at_end = false;
  fpu_enter(*cpu_);
  run(*cpu_, block);
  fpu_leave(*cpu_);
  store_cpu(state);
  if (stopped_at_end) return Outcome::Done;
  return cpu_->fault.vector == kXM ? Outcome::SimdException : Outcome::OtherFault;
}

Outcome VectorBench::run_natively(std::span<const uint8_t> bytes, BenchState& state) {
  const std::vector<uint8_t> code = make_trampoline(bytes);
  CHECK(code.size() <= kPageSize);
  uint8_t* entry = pages_ + kPageSize;
  std::memcpy(entry, code.data(), code.size());
  std::memcpy(pages_ + 256, state.memory, kOperandBytes);
  const BenchState start = state;
  Outcome outcome = Outcome::Done;
  if (sigsetjmp(fpe_exit, 1) == 0) {
    reinterpret_cast<void (*)(BenchState*)>(entry)(&state);
  } else {
    outcome = Outcome::SimdException;
    state = start;
    std::memcpy(state.fx + offsetof(FxImage, mxcsr), &fpe_mxcsr, sizeof(fpe_mxcsr));
  }
  asm volatile("fninit");
  set_host_mxcsr(kMxcsrReset);
  std::memcpy(state.memory, pages_ + 256, kOperandBytes);
  return outcome;
}

BenchState VectorBench::random_state(std::mt19937_64& random) const {
  BenchState state{};
  FxImage image;
  image.fcw = static_cast<uint16_t>(0x7f | (random() & 0xf00));
  image.fsw = static_cast<uint16_t>(random() & 0x7f7f);
  image.tags = static_cast<uint8_t>(random() % 4 == 0 ? random() : 0xff);
  image.mxcsr = static_cast<uint32_t>(kMxcsrMasks | (random() & (kMxcsrValid & ~kMxcsrMasks)));
  if (random() % 2 == 0) image.mxcsr &= ~(kMxcsrFtz | 0x40U);
  for (auto& st : image.st) random_extended(random, st);
  for (auto& xmm : image.xmm) random_vector(random, xmm);
  if (random() % 4 == 0) std::memcpy(image.xmm[2], image.xmm[1], 16);
  std::memcpy(state.fx, &image, sizeof(image));
  for (unsigned i = 0; i < kOperandBytes; i += 16) random_vector(random, state.memory + i);
  if (random() % 2 == 0) random_extended(random, state.memory);
  state.rax = random() % 2 == 0 ? random() % 40 - 20 : random();
  state.rcx = random();
  state.rdx = random() % 2 == 0 ? random() % 40 - 20 : random();
  state.rsi = state.rdi = operand_address();
  state.rflags = (random() & kArithmeticFlags) | 0x202;
  return state;
}

std::string VectorBench::difference(const BenchState& native, const BenchState& interpreted) {
  std::string text;
  const auto compare = [&text](const char* name, auto expected, auto actual) {
    if (expected != actual)
      text += fmt::format("{}: native {:x}, here {:x}\n", name, expected, actual);
  };
  const auto compare_bytes = [&text](const char* name, unsigned i, const uint8_t* expected,
                                     const uint8_t* actual, size_t size) {
    if (std::memcmp(expected, actual, size) == 0) return;
    text += fmt::format("{}{}: native ", name, i);
    for (size_t k = size; k-- > 0;) text += fmt::format("{:02x}", expected[k]);
    text += ", here ";
    for (size_t k = size; k-- > 0;) text += fmt::format("{:02x}", actual[k]);
    text += "\n";
  };
  FxImage a, b;
  std::memcpy(&a, native.fx, sizeof(a));
  std::memcpy(&b, interpreted.fx, sizeof(b));
  compare("fcw", a.fcw, b.fcw);
  compare("fsw", a.fsw, b.fsw);
  compare("tags", a.tags, b.tags);
  compare("mxcsr", a.mxcsr, b.mxcsr);
  for (unsigned i = 0; i < 8; ++i) compare_bytes("st", i, a.st[i], b.st[i], 16);
  for (unsigned i = 0; i < 16; ++i) compare_bytes("xmm", i, a.xmm[i], b.xmm[i], 16);
  compare("rax", native.rax, interpreted.rax);
  compare("rcx", native.rcx, interpreted.rcx);
  compare("rdx", native.rdx, interpreted.rdx);
  compare("rsi", native.rsi, interpreted.rsi);
  compare("rdi", native.rdi, interpreted.rdi);
  compare("rflags", native.rflags & kArithmeticFlags, interpreted.rflags & kArithmeticFlags);
  compare_bytes("memory", 0, native.memory, interpreted.memory, kOperandBytes);
  return text;
}

TEST(VectorBench, tells_a_difference) {
  VectorBench bench;
  std::mt19937_64 random(1);
  const BenchState state = bench.random_state(random);
  BenchState other = state;
  EXPECT_EQ(VectorBench::difference(state, other), "");
  other.fx[offsetof(FxImage, xmm)] ^= 1;
  EXPECT_NE(VectorBench::difference(state, other), "");
}

}  // namespace trapeze::soft::exec
