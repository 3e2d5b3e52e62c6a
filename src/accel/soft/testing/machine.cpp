#include "accel/soft/testing/machine.h"

#include <fmt/format.h>

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <new>

#include "accel/soft/cache/block_cache.h"
#include "accel/soft/core/env.h"
#include "accel/soft/host_cpu.h"
#include "accel/soft/mmu/code_map.h"
#include "accel/soft/mmu/fast_tlb.h"
#include "accel/soft/mmu/mmu.h"
#include "accel/soft/system/mode.h"
#include "accel/soft/testing/listing.h"
#include "accel/soft/translator/translator.h"
#include "base/mapping.h"
#include "base/units.h"

namespace trapeze::soft {
namespace {

constexpr uint64_t kMemoryBytes = 16 * MiB;
constexpr uint64_t kGdt = 0x500;
constexpr uint64_t kPml4 = 0x1000, kPdpt = 0x2000, kPd = 0x3000;

constexpr std::array<uint64_t, 8> kGdtEntries = {
    0,
    0x00af9b000000ffff,  // 0x08 code64
    0x00cf93000000ffff,  // 0x10 data
    0x00cf9b000000ffff,  // 0x18 code32
    0x00009b000000ffff,  // 0x20 code16
    0x00cff3000000ffff,  // 0x28 user data
    0x00affb000000ffff,  // 0x30 user code64
    0x000093000000ffff,  // 0x38 data16
};

Segment code_segment(uint16_t selector, uint32_t limit, uint32_t access) {
  return {0, limit, access, selector};
}

void set_data_segments(VcpuState& state, uint16_t selector, uint32_t limit, uint32_t access) {
  for (const SegIndex index : {kEs, kSs, kDs, kFs, kGs}) {
    state.segments[index] = {0, limit, access, selector};
  }
}

VcpuState initial_state(TestMode mode) {
  VcpuState state = reset_state();
  state.gdtr = {kGdt, static_cast<uint16_t>(kGdtEntries.size() * 8 - 1)};
  state.idtr = {0, 0};
  state.gpr[kRsp] = TestMachine::kStackTop;
  state.rip = TestMachine::kCode;
  switch (mode) {
    case TestMode::Long64:
      state.cr0 = 0x8001'0033;  // PG WP NE ET MP PE
      state.cr3 = kPml4;
      state.cr4 = 0x6a0;   // PAE PGE OSFXSR OSXMMEXCPT
      state.efer = 0xd01;  // NXE LMA LME SCE
      state.segments[kCs] = code_segment(0x08, 0xffff'ffff, 0xa09b);
      set_data_segments(state, 0x10, 0xffff'ffff, 0xc093);
      break;
    case TestMode::Protected32:
      state.cr0 = 0x33;
      state.cr4 = 0x600;
      state.segments[kCs] = code_segment(0x18, 0xffff'ffff, 0xc09b);
      set_data_segments(state, 0x10, 0xffff'ffff, 0xc093);
      break;
    case TestMode::Real16:
      state.cr0 = 0x30;
      state.cr4 = 0x600;
      state.segments[kCs] = {TestMachine::kCode, 0xffff, 0x9b,
                             static_cast<uint16_t>(TestMachine::kCode / 16)};
      set_data_segments(state, 0, 0xffff, 0x93);
      state.rip = 0;
      break;
  }
  return state;
}

}  // namespace

// A Cpu between inaccessible pages: what misses its end crashes, what misses its start either
// crashes or is seen by is_intact().
struct TestMachine::Parts {
  static constexpr size_t kCpuPages = align_up(sizeof(Cpu), kPageSize);
  static constexpr size_t kGuardBytes = 64 * KiB;
  static constexpr std::byte kCanary{0xa5};

  explicit Parts(CpuModel cpu_model)
      : model(std::move(cpu_model)),
        cpu_mapping(Mapping::create(kCpuPages + 2 * kGuardBytes, PROT_NONE,
                                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, "a Cpu")
                        .value()),
        slack(cpu_mapping.bytes().subspan(kGuardBytes, kCpuPages - sizeof(Cpu))),
        cpu(make_cpu()) {}

  Cpu& make_cpu() {
    std::byte* const start = cpu_mapping.data() + kGuardBytes;
    CHECK(::mprotect(start, kCpuPages, PROT_READ | PROT_WRITE) == 0);
    std::ranges::fill(slack, kCanary);
    return *new (start + slack.size()) Cpu{};
  }
  bool is_intact() const {
    return std::ranges::all_of(slack, [](std::byte value) { return value == kCanary; });
  }

  RunResult run(const RunLimits& limits) {
    return translator != nullptr ? run_translator(cpu, *translator, limits)
                                 : run_interpreter(cpu, limits);
  }

  CpuModel model;
  HostClock clock;
  std::unique_ptr<GuestMemory> memory;
  std::unique_ptr<CodeMap> code_map;
  std::unique_ptr<BlockCache> blocks;
  CpuEnv env;
  TlbContexts tlbs;
  Mapping cpu_mapping;
  std::span<std::byte> slack;
  Cpu& cpu;
  std::unique_ptr<Translator> translator;
};

bool TestMachine::host_has_level3() {
  return missing_host_features(CpuModel::create(kLevel3, 1).value()).empty();
}

TestMachine::TestMachine(TestMode mode, const char* cpu_model) {
  auto model = CpuModel::create(cpu_model != nullptr ? cpu_model : CpuModel::names().front(), 1);
  CHECK(model.has_value());
  parts_ = std::make_unique<Parts>(std::move(model).value());
  Parts& parts = *parts_;
  const std::array<GpaRange, 1> ram{GpaRange{Gpa{0}, kMemoryBytes}};
  parts.memory = GuestMemory::create(ram).value();
  parts.code_map = CodeMap::create(*parts.memory).value();
  parts.blocks = BlockCache::create(parts.model).value();
  parts.env.memory = parts.memory.get();
  parts.env.model = &parts.model;
  parts.env.clock = &parts.clock;
  parts.env.code_map = parts.code_map.get();
  parts.env.code_owner = parts.blocks.get();
  parts.cpu.env = &parts.env;
  parts.cpu.tlbs = &parts.tlbs;
  parts.code_map->add_cpu(parts.cpu);

  for (size_t i = 0; i < kGdtEntries.size(); ++i) {
    parts.memory->store<uint64_t>(Gpa{kGdt + i * 8}, kGdtEntries[i]);
  }
  parts.memory->store<uint64_t>(Gpa{kPml4}, kPdpt | 7);
  parts.memory->store<uint64_t>(Gpa{kPdpt}, kPd | 7);
  for (uint64_t i = 0; i < 512; ++i) {
    parts.memory->store<uint64_t>(Gpa{kPd + i * 8}, i * 2 * MiB | 0x87);
  }
  reset_cpu(parts.cpu);
  VcpuState state = initial_state(mode);
  if (parts.model.has(Feature::Avx)) {
    state.cr4 |= 1U << 18;  // OSXSAVE
    state.xcr0 = parts.model.xcr0_bits();
    state.xsave.resize(xsave_area_bytes(state.xcr0));
  }
  CHECK(restore_cpu(parts.cpu, state).has_value());
}

TestMachine::~TestMachine() = default;

void TestMachine::use_translator() {
  Parts& parts = *parts_;
  parts.translator = Translator::create(parts.cpu, *parts.blocks, parts.model).value();
  parts.translator->set_threshold(0);
}

Translator& TestMachine::translator() { return *parts_->translator; }

void TestMachine::translate_here() {
  Block* const block = parts_->blocks->find(parts_->cpu, nullptr);
  CHECK(block != nullptr && parts_->translator->enter_point(parts_->cpu, *block) != nullptr);
}

std::string TestMachine::emitted_code() const {
  if (parts_->translator == nullptr) return {};
  std::string text;
  for (const Translator::Emitted& emitted : parts_->translator->emitted()) {
    text += fmt::format("code for {:x}:\n{}", emitted.linear,
                        list_code(emitted.code, *parts_->cpu.translator.tables));
  }
  return text;
}

bool TestMachine::is_intact() const { return parts_->is_intact(); }
Cpu& TestMachine::cpu() { return parts_->cpu; }
GuestMemory& TestMachine::memory() { return *parts_->memory; }

void TestMachine::code(std::span<const uint8_t> bytes) {
  std::vector<uint8_t> program(bytes.begin(), bytes.end());
  program.push_back(0xf4);  // HLT
  CHECK(parts_->memory->write(Gpa{kCode}, std::as_bytes(std::span(program))));
  parts_->cpu.rip = is_real_or_vm86(parts_->cpu) ? 0 : kCode;
  parts_->cpu.halted = false;
}

RunResult TestMachine::run(uint64_t max_instructions) {
  return parts_->run({.instructions = max_instructions, .stop_on_fault = true});
}

RunResult TestMachine::run_system(uint64_t max_instructions) {
  return parts_->run({.instructions = max_instructions});
}

}  // namespace trapeze::soft
