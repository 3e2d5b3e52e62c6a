// x86-64-v3 under the translator: each program against the interpreter, run twice so that the
// second run goes through the links of the first, and the rules that native code must keep.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "accel/soft/exec/fpu.h"
#include "accel/soft/system/mode.h"
#include "accel/soft/testing/machine.h"
#include "accel/soft/translator/translator.h"
#include "base/units.h"

namespace trapeze::soft {
namespace {

using Code = std::vector<uint8_t>;

constexpr uint64_t kData = TestMachine::kData, kDataBytes = 3 * kPageSize;
constexpr uint64_t kUnmapped = 2 * TestMachine::kData;

// One of the two machines, set up anew for each run.
class Side {
 public:
  Side(TestMode mode, bool translated)
      : machine_(std::make_unique<TestMachine>(mode, TestMachine::kLevel3)), mode_(mode) {
    if (translated) machine_->use_translator();
    // Behind the last page of data nothing is mapped.
    if (mode == TestMode::Long64) {
      CHECK(machine_->memory().store<uint64_t>(Gpa{0x3000 + 8 * (kUnmapped >> 21)}, 0));
    }
    start_ = save_cpu(machine_->cpu());
  }

  Cpu& cpu() { return machine_->cpu(); }
  TestMachine& machine() { return *machine_; }

  // State as for a run; the caller may change it.
  void prepare() {
    CHECK(restore_cpu(cpu(), start_).has_value());
    std::vector<uint8_t> data(kDataBytes);
    for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<uint8_t>(i * 37 + (i >> 8));
    CHECK(machine_->memory().write(Gpa{kData}, std::as_bytes(std::span(data))));
    CHECK(machine_->memory().write(Gpa{kUnmapped - kDataBytes}, std::as_bytes(std::span(data))));
    std::mt19937_64 random{20261121};
    const unsigned gprs = mode_ == TestMode::Long64 ? 16 : 8;
    for (unsigned i = 0; i < gprs; ++i) {
      if (i != kRsp) cpu().gpr[i] = mode_ == TestMode::Long64 ? random() : random() & 0xffff'ffff;
    }
    for (unsigned i = 0; i < 16; ++i) {
      for (unsigned at = 0; at < 16; ++at) {
        cpu().fpu.xmm[i][at] = static_cast<uint8_t>(random());
        cpu().ymm_high[i][at] = static_cast<uint8_t>(random());
      }
    }
    cpu().gpr[kRsi] = kData;
    cpu().gpr[kRdi] = kUnmapped - 64;
    cpu().fault = {};
  }

  // All that a program can change.
  std::vector<uint64_t> run(const Code& code) {
    machine_->code(code);
    machine_->run();
    std::vector<uint64_t> all(cpu().gpr, cpu().gpr + 16);
    all.push_back(cpu().rip);
    all.push_back(rflags(cpu()));
    all.push_back(cpu().fault.pending ? 1U + cpu().fault.vector : 0U);
    all.push_back(cpu().fault.pending ? cpu().fault.cr2 : 0U);
    const VcpuState state = save_cpu(cpu());
    append(all, state.xsave.data(), state.xsave.size());
    append(all, machine_->memory().host(Gpa{kData}, kDataBytes), kDataBytes);
    append(all, machine_->memory().host(Gpa{kUnmapped - kDataBytes}, kDataBytes), kDataBytes);
    return all;
  }

 private:
  static void append(std::vector<uint64_t>& all, const std::byte* bytes, size_t size) {
    const size_t at = all.size();
    all.resize(at + size / 8);
    std::memcpy(all.data() + at, bytes, size / 8 * 8);
  }

  const std::unique_ptr<TestMachine> machine_;
  const TestMode mode_;
  VcpuState start_;
};

class TranslatedVex : public testing::Test {
 protected:
  void SetUp() override {
    if (!TestMachine::host_has_level3()) GTEST_SKIP() << "this host's CPU is not x86-64-v3";
    if (!Translator::is_supported()) GTEST_SKIP() << "the translator does not run here";
    use(TestMode::Long64);
  }
  void use(TestMode mode) {
    interpreted_ = std::make_unique<Side>(mode, false);
    translated_ = std::make_unique<Side>(mode, true);
  }

  // The exception that ends the code in both, or -1.
  template <typename Change>
  int run(const Code& code, Change change) {
    int vector = -1;
    for (unsigned i = 0; i < 3; ++i) {
      interpreted_->prepare();
      change(interpreted_->cpu());
      const std::vector<uint64_t> wanted = interpreted_->run(code);
      translated_->prepare();
      change(translated_->cpu());
      EXPECT_EQ(translated_->run(code), wanted) << translated_->machine().emitted_code();
      vector = interpreted_->cpu().fault.pending ? interpreted_->cpu().fault.vector : -1;
    }
    return vector;
  }
  int run(const Code& code) {
    return run(code, [](Cpu&) {});
  }
  bool emits(const char* text) {
    return translated_->machine().emitted_code().find(text) != std::string::npos;
  }

  std::unique_ptr<Side> interpreted_, translated_;
};

constexpr uint8_t kJumpOn[] = {0xeb, 0x00};

Code joined(std::initializer_list<Code> parts) {
  Code all;
  for (const Code& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}
const Code kVaddps = {0xc5, 0xec, 0x58, 0xcb};  // vaddps ymm1, ymm2, ymm3
const Code kAddps = {0x0f, 0x58, 0xcb};         // addps xmm1, xmm3
const Code kJump(std::begin(kJumpOn), std::end(kJumpOn));
const Code kCpuid = {0x0f, 0xa2};  // left to the interpreter

TEST_F(TranslatedVex, upper_halves_live_on_through_sse_and_the_interpreter) {
  EXPECT_EQ(run(joined({kVaddps, kAddps, kCpuid, kAddps, kVaddps, kJump, kAddps, kJump, kVaddps})),
            -1);
  EXPECT_TRUE(emits("vaddps ymm1, ymm2, ymm3"));
}

TEST_F(TranslatedVex, registers_are_loaded_whole_where_the_upper_halves_were_zero) {
  // vzeroupper; cpuid; addps; vpcmpeqd ymm2, ymm2, ymm2; cpuid; vaddps; vzeroall; cpuid; vaddps
  EXPECT_EQ(run(joined({{0xc5, 0xf8, 0x77},
                        kCpuid,
                        kAddps,
                        {0xc5, 0xed, 0x76, 0xd2},
                        kCpuid,
                        kVaddps,
                        {0xc5, 0xfc, 0x77},
                        kCpuid,
                        kVaddps})),
            -1);
}

TEST_F(TranslatedVex, code_with_sse_does_not_vouch_for_avx) {
  const auto without_avx = [](Cpu& cpu) { cpu.xcr0 = 3; };
  EXPECT_EQ(run(joined({kAddps, kJump, kVaddps}), without_avx), kUD);
  EXPECT_EQ(run(joined({kAddps, kJump, kAddps, kVaddps}), without_avx), kUD);
  // And once it was allowed.
  EXPECT_EQ(run(joined({kAddps, kJump, kVaddps})), -1);
  EXPECT_EQ(run(joined({kAddps, kJump, kVaddps}), without_avx), kUD);
}

TEST_F(TranslatedVex, code_may_take_avx_from_itself) {
  // xor ecx, ecx; xor edx, edx; mov eax, 3; xsetbv
  const Code kNoAvx = {0x31, 0xc9, 0x31, 0xd2, 0xb8, 3, 0, 0, 0, 0x0f, 0x01, 0xd1};
  EXPECT_EQ(run(joined({kVaddps, kNoAvx, kVaddps})), kUD);
  // mov rax, cr0; or rax, 8; mov cr0, rax
  const Code kTaskSwitched = {0x0f, 0x20, 0xc0, 0x48, 0x83, 0xc8, 0x08, 0x0f, 0x22, 0xc0};
  EXPECT_EQ(run(joined({kVaddps, kTaskSwitched, kVaddps})), kNM);
  // mov rax, cr4; btr rax, 18; mov cr4, rax
  const Code kNoXsave = {0x0f, 0x20, 0xe0, 0x48, 0x0f, 0xba, 0xf0, 0x12, 0x0f, 0x22, 0xe0};
  EXPECT_EQ(run(joined({kVaddps, kNoXsave, kVaddps})), kUD);
}

TEST_F(TranslatedVex, unmasked_exceptions_are_raised) {
  EXPECT_EQ(run(kVaddps, [](Cpu& cpu) { cpu.fpu.mxcsr = kMxcsrReset & ~(kMxcsrPe << 7); }), kXM);
  // vldmxcsr [rsi] with all unmasked, in the middle
  EXPECT_EQ(run(joined({kVaddps, {0xc5, 0xf8, 0xae, 0x16}, kVaddps}),
                [this](Cpu& cpu) {
                  for (Side* side : {interpreted_.get(), translated_.get()}) {
                    CHECK(side->machine().memory().store<uint32_t>(Gpa{kData}, 0));
                  }
                  cpu.gpr[kRsi] = kData;
                }),
            kXM);
}

TEST_F(TranslatedVex, aligned_moves_fault_where_they_are_not) {
  const auto off_by_16 = [](Cpu& cpu) { cpu.gpr[kRsi] += 16; };
  const Code kLoad = {0xc5, 0xfd, 0x6f, 0x06};           // vmovdqa ymm0, [rsi]
  const Code kStore = {0xc5, 0xfd, 0x7f, 0x06};          // vmovdqa [rsi], ymm0
  const Code kIndexed = {0xc5, 0xfd, 0x6f, 0x04, 0x0e};  // [rsi+rcx]
  const Code kNear = {0xc5, 0xfd, 0x6f, 0x46, 0x20};     // [rsi+32]
  const Code kConstant = {0xc5, 0xfd, 0x6f, 0x04, 0x25, 0, 0, 0x20, 0};
  const Code kConstantOff = {0xc5, 0xfd, 0x6f, 0x04, 0x25, 16, 0, 0x20, 0};
  const auto with_index = [](Cpu& cpu) { cpu.gpr[kRcx] = 48; };
  EXPECT_EQ(run(joined({kLoad, kStore, kNear, kConstant})), -1);
  EXPECT_EQ(run(kLoad, off_by_16), kGP);
  EXPECT_EQ(run(kStore, off_by_16), kGP);
  EXPECT_EQ(run(kNear, off_by_16), kGP);
  EXPECT_EQ(run(kConstantOff), kGP);
  EXPECT_EQ(run(kIndexed, with_index), kGP);
  EXPECT_EQ(run({0xc5, 0xf9, 0x6f, 0x06}, off_by_16), -1);  // 16 bytes: aligned
  // In a group: vmovdqa xmm0, [rsi]; vmovdqa xmm1, [rsi+16]
  const Code kGroup = {0xc5, 0xf9, 0x6f, 0x06, 0xc5, 0xf9, 0x6f, 0x4e, 0x10};
  EXPECT_EQ(run(kGroup), -1);
  EXPECT_EQ(run(kGroup, [](Cpu& cpu) { cpu.gpr[kRsi] += 8; }), kGP);
}

// Groups: probes that tell of 16 and of 32 bytes' alignment at once.
TEST_F(TranslatedVex, aligned_moves_in_groups) {
  const auto off_by = [](uint64_t bytes) {
    return [bytes](Cpu& cpu) { cpu.gpr[kRsi] = kData + 256 + bytes; };
  };
  const Code kWide0 = {0xc5, 0xfd, 0x6f, 0x06};           // vmovdqa ymm0, [rsi]
  const Code kWide32 = {0xc5, 0xfd, 0x7f, 0x4e, 0x20};    // vmovdqa [rsi+32], ymm1
  const Code kWide16 = {0xc5, 0xfd, 0x6f, 0x56, 0x10};    // vmovdqa ymm2, [rsi+16]
  const Code kNarrow16 = {0xc5, 0xf9, 0x6f, 0x5e, 0x10};  // vmovdqa xmm3, [rsi+16]
  const Code kNarrow8 = {0xc5, 0xf9, 0x6f, 0x66, 0x08};   // vmovdqa xmm4, [rsi+8]
  const Code kLoose = {0xc5, 0xfe, 0x6f, 0x6e, 0xf1};     // vmovdqu ymm5, [rsi-15]
  for (const uint64_t bytes : {0, 8, 16, 24, 3}) {
    const int wide = bytes == 0 ? -1 : int{kGP};
    EXPECT_EQ(run(joined({kWide0, kWide32}), off_by(bytes)), wide);
    EXPECT_EQ(run(joined({kNarrow16, kWide0}), off_by(bytes)), wide);
    EXPECT_EQ(run(joined({kWide0, kNarrow16}), off_by(bytes)), wide);
    EXPECT_EQ(run(joined({kLoose, kWide32, kWide0}), off_by(bytes)), wide);
    EXPECT_EQ(run(joined({kWide16, kNarrow16, kLoose}), off_by(bytes)), bytes == 16 ? -1 : kGP);
    EXPECT_EQ(run(joined({kNarrow8, kLoose}), off_by(bytes)), bytes % 16 == 8 ? -1 : kGP);
    EXPECT_EQ(run(joined({kWide0, kWide16}), off_by(bytes)), kGP);
  }
}

TEST_F(TranslatedVex, accesses_across_pages_arrive_whole) {
  const auto at_the_edge = [](Cpu& cpu) { cpu.gpr[kRsi] = kData + kPageSize - 15; };
  EXPECT_EQ(run({0xc5, 0xfe, 0x6f, 0x06}, at_the_edge), -1);  // vmovdqu ymm0, [rsi]
  EXPECT_EQ(run({0xc5, 0xfe, 0x7f, 0x06}, at_the_edge), -1);  // vmovdqu [rsi], ymm0
  // Four in a group: loads and stores of [rsi] and [rsi+32].
  EXPECT_EQ(run({0xc5, 0xfe, 0x6f, 0x06, 0xc5, 0xfe, 0x6f, 0x4e, 0x20, 0xc5, 0xfe, 0x7f, 0x0e, 0xc5,
                 0xfe, 0x7f, 0x46, 0x20},
                at_the_edge),
            -1);
  EXPECT_TRUE(emits("vmovdqu"));
}

TEST_F(TranslatedVex, faults_leave_everything_as_it_was) {
  const auto at_the_end = [](Cpu& cpu) { cpu.gpr[kRdi] = kUnmapped - 16; };
  EXPECT_EQ(run({0xc5, 0xfe, 0x7f, 0x07}, at_the_end), kPF);  // vmovdqu [rdi], ymm0
  EXPECT_EQ(run({0xc5, 0xfe, 0x6f, 0x0f}, at_the_end), kPF);  // vmovdqu ymm1, [rdi]
  EXPECT_EQ(run({0xc5, 0xec, 0x58, 0x0f}, at_the_end), kPF);  // vaddps ymm1, ymm2, [rdi]
  EXPECT_EQ(run({0xc4, 0xe2, 0xfb, 0xf6, 0x47, 0x10}, at_the_end), kPF);  // mulx rax,rax,[rdi+16]
}

TEST_F(TranslatedVex, masked_moves_next_to_nothing) {
  const auto first_four = [](Cpu& cpu) {
    cpu.gpr[kRdi] = kUnmapped - 16;
    std::memset(cpu.fpu.xmm[2], 0x80, 16);
    std::memset(cpu.ymm_high[2], 0, 16);
  };
  const Code kLoad = {0xc4, 0xe2, 0x6d, 0x8c, 0x0f};   // vpmaskmovd ymm1, ymm2, [rdi]
  const Code kStore = {0xc4, 0xe2, 0x6d, 0x8e, 0x1f};  // vpmaskmovd [rdi], ymm2, ymm3
  EXPECT_EQ(run(joined({kLoad, kStore, kLoad}), first_four), -1);
  EXPECT_TRUE(emits("vpmaskmovd ymm1, ymm2"));
  EXPECT_EQ(run(kStore,
                [&](Cpu& cpu) {
                  first_four(cpu);
                  cpu.ymm_high[2][7] = 0x80;
                }),
            kPF);
  // All of it there: random masks.
  EXPECT_EQ(run({0xc4, 0xe2, 0x6d, 0x8c, 0x0e, 0xc4, 0xe2, 0xed, 0x8e, 0x1e}), -1);
}

TEST_F(TranslatedVex, gathers_keep_the_rest_of_the_registers) {
  const auto indices = [](Cpu& cpu) {
    for (unsigned i = 0; i < 16; ++i) {
      cpu.fpu.xmm[4][i] = i % 4 == 0 ? static_cast<uint8_t>(i * 5) : 0;
      cpu.ymm_high[4][i] = i % 4 == 0 ? static_cast<uint8_t>(i * 9) : 0;
    }
  };
  // vaddps; vgatherdps ymm5, [rsi+ymm4*4], ymm6; vaddps ymm1, ymm1, ymm5
  EXPECT_EQ(run(joined({kVaddps, {0xc4, 0xe2, 0x4d, 0x92, 0x2c, 0xa6}, {0xc5, 0xf4, 0x58, 0xcd}}),
                indices),
            -1);
}

// Registers that live in memory, in all places and together with memory operands.
TEST_F(TranslatedVex, general_registers_that_live_in_memory) {
  const auto pointer = [](Cpu& cpu) { cpu.gpr[10] = kData + 128; };
  EXPECT_EQ(run({0xc4, 0x42, 0xa8, 0xf2, 0xcb}), -1);           // andn r9, r10, r11
  EXPECT_EQ(run({0xc4, 0x42, 0xb0, 0xf2, 0xc9}), -1);           // andn r9, r9, r9
  EXPECT_EQ(run({0xc4, 0x42, 0xa8, 0xf2, 0x0a}, pointer), -1);  // andn r9, r10, [r10]
  EXPECT_EQ(run({0xc4, 0x42, 0xb3, 0xf6, 0xd3}), -1);           // mulx r10, r9, r11
  EXPECT_EQ(run({0xc4, 0x42, 0xab, 0xf6, 0xd3}), -1);           // mulx r10, r10, r11
  EXPECT_EQ(run({0xc4, 0x42, 0xb3, 0xf6, 0x1a}, pointer), -1);  // mulx r11, r9, [r10]
  EXPECT_EQ(run({0xc4, 0x62, 0xf3, 0xf6, 0xc9}), -1);           // mulx r9, rcx, rcx
  EXPECT_EQ(run({0xc4, 0x42, 0xb0, 0xf3, 0xda}), -1);           // blsi r9, r10 and the like
  EXPECT_EQ(run({0xc4, 0x42, 0xa9, 0xf7, 0xcb}), -1);           // shlx r9, r11, r10
  EXPECT_EQ(run({0xc4, 0x42, 0x29, 0xf7, 0x0a}, pointer), -1);  // shlx r9d, [r10], r10d
  EXPECT_EQ(run({0xc4, 0x43, 0xfb, 0xf0, 0xca, 0x0d}), -1);     // rorx r9, r10, 13
  EXPECT_EQ(run({0xc4, 0xc1, 0x79, 0x7e, 0xda}), -1);           // vmovd r10d, xmm3
  EXPECT_EQ(run({0xc4, 0x41, 0x83, 0x2a, 0xfb}), -1);           // vcvtsi2sd xmm15,.,r11
  EXPECT_EQ(run({0xc4, 0x43, 0x01, 0x20, 0xf9, 0x03}), -1);     // vpinsrb xmm15,.,r9d,3
  EXPECT_EQ(run({0xc4, 0x43, 0x79, 0x14, 0xf9, 0x03}), -1);     // vpextrb r9d, xmm15, 3
  EXPECT_EQ(run({0xc5, 0x7d, 0xd7, 0xd1}), -1);                 // vpmovmskb r10d, ymm1
  // add rcx's copy of r9 and then change r9: add rax, r9; shlx r9, rax, rcx; add rax, r9
  EXPECT_EQ(run({0x4c, 0x01, 0xc8, 0xc4, 0x62, 0xf1, 0xf7, 0xc8, 0x4c, 0x01, 0xc8}), -1);
}

TEST_F(TranslatedVex, flags_are_exact_around_bmi) {
  // cmp eax, ecx; shlx rax, rbx, rcx; rorx rdx, rbx, 3; setl al; andn ebx, ecx, eax; setc cl
  EXPECT_EQ(run({0x39, 0xc8, 0xc4, 0xe2, 0xf1, 0xf7, 0xc3, 0xc4, 0xe3, 0xfb, 0xf0, 0xd3,
                 0x03, 0x0f, 0x9c, 0xc0, 0xc4, 0xe2, 0x70, 0xf2, 0xd8, 0x0f, 0x92, 0xc1}),
            -1);
}

TEST_F(TranslatedVex, in_32_bit_code) {
  use(TestMode::Protected32);
  EXPECT_EQ(run(kVaddps), -1);
  EXPECT_TRUE(emits("vaddps ymm1, ymm2, ymm3"));
  EXPECT_EQ(run({0xc5, 0xfe, 0x6f, 0x06, 0xc5, 0xfe, 0x7f, 0x46, 0x28}), -1);  // [esi], [esi+40]
  EXPECT_EQ(run({0xc5, 0xfd, 0x6f, 0x46, 0x10}), kGP);                         // vmovdqa [esi+16]
  EXPECT_EQ(run({0xc5, 0xf8, 0x77}), -1);                                      // vzeroupper
  EXPECT_EQ(run({0xc4, 0xe2, 0xf0, 0xf2, 0xc3}), -1);                          // andn with W
  EXPECT_EQ(run({0xc4, 0xe1, 0xf9, 0x7e, 0xd9}), -1);                          // vmovd with W
}

}  // namespace
}  // namespace trapeze::soft
