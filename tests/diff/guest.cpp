#include "diff/guest.h"

#include <cstring>

#include "accel/soft/exec/fpu.h"
#include "accel/soft/system/mode.h"
#include "base/check.h"

namespace trapeze::diff {
namespace {

using soft::Cpu;

// Physical: tables of our own, then the pages that cases see.
constexpr uint64_t kPml4 = 0x10'0000, kPdpt = 0x10'1000, kPd = 0x10'2000, kPt = 0x10'3000;
constexpr uint64_t kCodePhysical = 0x30'0000, kDataPhysical = 0x31'0000,
                   kReadOnlyPhysical = kDataPhysical + 2 * kPage, kStackPhysical = 0x32'0000;
constexpr uint64_t kPresent = 1, kWritable = 2, kUser = 4, kNoExecute = uint64_t{1} << 63;
constexpr uint64_t kMaxInstructions = 100'000;

constexpr Segment kUserCode{0, 0xffff'ffff, 0xa0fb, 0x33};
constexpr Segment kUserStack{0, 0xffff'ffff, 0xc0f3, 0x2b};

}  // namespace

Guest::Guest(const Backgrounds& backgrounds, Executor executor)
    : backgrounds_(backgrounds), machine_(soft::TestMode::Long64, compared_model()) {
  if (executor == Executor::Translator) machine_.use_translator();
  GuestMemory& memory = machine_.memory();
  const uint64_t link = kPresent | kWritable | kUser;
  CHECK(memory.store<uint64_t>(Gpa{kPml4}, kPdpt | link));
  CHECK(memory.store<uint64_t>(Gpa{kPdpt}, kPd | link));
  CHECK(memory.store<uint64_t>(Gpa{kPd + 8 * (kCodePage >> 21)}, kPt | link));
  map(kCodePage, kCodePhysical, kPresent | kUser);
  map(kData, kDataPhysical, link | kNoExecute);
  map(kData + kPage, kDataPhysical + kPage, link | kNoExecute);
  map(kReadOnly, kReadOnlyPhysical, kPresent | kUser | kNoExecute);
  map(kStack, kStackPhysical, link | kNoExecute);
  CHECK(memory.write(Gpa{kReadOnlyPhysical}, std::as_bytes(std::span(backgrounds[0].read_only))));

  // What Linux gives a process: null data segments, GS as the child process has it.
  VcpuState state = soft::save_cpu(machine_.cpu());
  state.cr0 |= 1U << 18;  // AM
  state.cr3 = kPml4;
  state.segments[kCs] = kUserCode;
  state.segments[kSs] = kUserStack;
  for (const SegIndex index : {kEs, kDs, kFs, kGs}) {
    state.segments[index] = {0, 0, kSegmentUnusable, 0};
  }
  state.segments[kGs].base = kGsBase;
  state.tr.limit = 0x66;  // no I/O permission bitmap
  state.rflags = 0x202;
  CHECK(soft::restore_cpu(machine_.cpu(), state).has_value());
  CHECK(machine_.cpu().cpl == 3);
}

void Guest::map(uint64_t linear, uint64_t physical, uint64_t rights) {
  CHECK(
      machine_.memory().store<uint64_t>(Gpa{kPt + 8 * ((linear >> 12) & 511)}, physical | rights));
}

void Guest::run(const Case& test, Outcome& outcome) {
  GuestMemory& memory = machine_.memory();
  const Background& background = backgrounds_[test.background];
  std::byte* const data = memory.host(Gpa{kDataPhysical}, 2 * kPage);
  std::byte* const stack = memory.host(Gpa{kStackPhysical}, kPage);
  std::memcpy(data, background.changing.data(), 2 * kPage);
  std::memcpy(stack, background.changing.data() + 2 * kPage, kPage);
  std::array<uint8_t, kPage> code;
  code.fill(kHltOpcode);
  std::memcpy(code.data() + (test.start.rip & (kPage - 1)), test.code.data(), test.code_bytes);
  CHECK(memory.write(Gpa{kCodePhysical}, std::as_bytes(std::span(code))));

  Cpu& cpu = machine_.cpu();
  std::memcpy(cpu.gpr, test.start.gpr.data(), sizeof(test.start.gpr));
  cpu.rip = test.start.rip;
  cpu.fault = {};
  cpu.halted = false;
  cpu.shadow = 0;
  soft::set_rflags(cpu, test.start.rflags, ~uint64_t{0});
  soft::FxImage image;
  std::memcpy(&image, test.start.fx.data(), sizeof(image));
  soft::fx_restore(cpu.fpu, image, true);
  std::memcpy(cpu.ymm_high, test.start.ymm_high.data(), kYmmBytes);

  const soft::RunResult result = machine_.run(kMaxInstructions);

  outcome.vector = result == soft::RunResult::Fault ? cpu.fault.vector : kNoVector;
  outcome.error_code = cpu.fault.has_error_code ? cpu.fault.error_code : 0;
  outcome.cr2 = cpu.fault.cr2;
  std::memcpy(outcome.end.gpr.data(), cpu.gpr, sizeof(outcome.end.gpr));
  outcome.end.rip = cpu.rip;
  outcome.end.rflags = soft::rflags(cpu);
  soft::fx_save(cpu.fpu, image, true);
  std::memcpy(outcome.end.fx.data(), &image, sizeof(image));
  std::memcpy(outcome.end.ymm_high.data(), cpu.ymm_high, kYmmBytes);
  std::memcpy(outcome.memory.data(), data, 2 * kPage);
  std::memcpy(outcome.memory.data() + 2 * kPage, stack, kPage);
}

}  // namespace trapeze::diff
