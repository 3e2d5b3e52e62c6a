// 32-bit code, in compatibility mode and in protected mode without paging: the translator against
// the interpreter on random programs, and what only 32-bit code has.
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "accel/soft/system/mode.h"
#include "accel/soft/testing/machine.h"
#include "accel/soft/translator/translator.h"

namespace trapeze::soft {
namespace {

constexpr unsigned kEax = 0, kEcx = 1, kEdx = 2, kEsp = 4, kEdi = 7;
constexpr uint64_t kData = TestMachine::kData, kDataBytes = 8192;
constexpr unsigned kPrograms = 400, kInstructions = 40;

enum class Where : uint8_t { Compatibility, Protected };

class Machine {
 public:
  Machine(Where where, bool translated)
      : machine_(where == Where::Protected ? TestMode::Protected32 : TestMode::Long64) {
    if (translated) machine_.use_translator();
    VcpuState state = save_cpu(machine_.cpu());
    if (where == Where::Compatibility) {
      state.segments[kCs] = {0, 0xffff'ffff, 0xc0fb, 0x33};
      state.segments[kSs] = {0, 0xffff'ffff, 0xc0f3, 0x2b};
      state.segments[kDs] = state.segments[kEs] = state.segments[kSs];
    }
    EXPECT_TRUE(restore_cpu(machine_.cpu(), state).has_value());
    EXPECT_EQ(machine_.cpu().code_size, CodeSize::Code32);
    EXPECT_EQ(machine_.cpu().translator.usable, 1U);
  }

  void run(std::span<const uint8_t> code) {
    Cpu& cpu = machine_.cpu();
    std::vector<uint8_t> data(kDataBytes);
    for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<uint8_t>(i * 37 + (i >> 8));
    ASSERT_TRUE(machine_.memory().write(Gpa{kData}, std::as_bytes(std::span(data))));
    machine_.code(code);
    const uint32_t start[8] = {0x89ab'cdef, 0x0000'0013,  0x8000'0001,  kData + 256,
                               0,           kData + 4080, kData + 1024, 24};
    for (unsigned i = 0; i < 8; ++i) cpu.gpr[i] = start[i];
    cpu.gpr[kEsp] = kData + kDataBytes - 64;
    cpu.fault = {};
    set_rflags(cpu, 2, ~uint64_t{0});
    result_ = machine_.run();
  }

  // Everything that the programs can change.
  std::vector<uint64_t> end() {
    Cpu& cpu = machine_.cpu();
    std::vector<uint64_t> all(cpu.gpr, cpu.gpr + 8);
    all.push_back(cpu.rip);
    all.push_back(rflags(cpu));
    all.push_back(cpu.fault.pending ? 1U + cpu.fault.vector : 0U);
    const size_t state = all.size();
    all.resize(state + kDataBytes / 8);
    EXPECT_TRUE(
        machine_.memory().read(Gpa{kData}, std::as_writable_bytes(std::span(all).subspan(state))));
    return all;
  }

  // At the HLT behind the code, which is for supervisors only.
  bool is_at_end(size_t code_bytes) {
    const uint64_t at = TestMachine::kCode + code_bytes;
    return machine_.cpu().rip == at + (machine_.cpu().cpl == 3 ? 0 : 1);
  }
  Cpu& cpu() { return machine_.cpu(); }
  TestMachine& machine() { return machine_; }

 private:
  TestMachine machine_;
  RunResult result_{};
};

class Programs {
 public:
  std::vector<uint8_t> next() {
    code_.clear();
    for (unsigned i = 0; i < kInstructions; ++i) add();
    emit({0x01, 0xca});  // add edx, ecx: all flags are defined
    return code_;
  }

 private:
  unsigned random(unsigned below) { return static_cast<unsigned>(engine_() % below); }
  // Neither the stack pointer nor a pointer to data.
  unsigned scratch() {
    constexpr unsigned kRegisters[] = {kEax, kEcx, kEdx, kEdi};
    return kRegisters[random(4)];
  }
  void emit(std::initializer_list<unsigned> bytes) {
    for (const unsigned byte : bytes) code_.push_back(static_cast<uint8_t>(byte));
  }
  void emit32(uint64_t value) {
    for (unsigned i = 0; i < 4; ++i) code_.push_back(static_cast<uint8_t>(value >> (8 * i)));
  }
  // ModRM and the rest of a memory operand.
  void memory(unsigned reg) {
    switch (random(4)) {
      case 0:
        return emit({0x43 | reg << 3, random(128)});  // [ebx+disp8]
      case 1:
        return emit({0x45 | reg << 3, 0x80U + random(128)});  // [ebp-disp8], near the page's end
      case 2:
        emit({0x05 | reg << 3});  // [disp32]
        return emit32(kData + 2048 + random(64) * 3);
      default:
        emit({0x84 | reg << 3, 0x24});  // [esp+disp32]
        return emit32(random(4) * 8);
    }
  }
  void add() {
    const unsigned reg = scratch(), other = random(8);
    switch (random(20)) {
      case 0:
        return emit({random(8) * 8 | 1, 0xc0 | other << 3 | reg});  // ALU r, r
      case 1:
        emit({random(8) * 8 | 3});
        return memory(reg);
      case 2:
        emit({random(8) * 8 | 1});
        return memory(reg);
      case 3:
        return emit({0x40 | random(2) << 3 | reg});  // INC, DEC
      case 4:
        return emit({0x66, 0x40 | random(2) << 3 | reg});
      case 5:
        return emit({0x50 | other, 0x58 | reg});  // PUSH, POP
      case 6:
        emit({0xb8 | reg});
        return emit32(engine_());
      case 7:
        return emit({0x82, 0xc0 | random(8) << 3 | random(3), random(256)});
      case 8:
        emit({random(2) != 0 ? 0xa1U : 0xa3U});  // MOV with an absolute address
        return emit32(kData + random(4096));
      case 9:
        return emit({0xe8, 0, 0, 0, 0, 0x58 | reg});  // CALL the next instruction, POP
      case 10:
        return emit({0x70 | random(16), 1, 0x40 | reg});  // Jcc over an INC
      case 11:
        emit({0x8d});
        return memory(reg);
      case 12:
        emit({0x0f, 0xb6});
        return memory(reg);
      case 13:
        return emit({0xd1, 0xe0 | reg});  // SHL r, 1
      case 14:
        return emit({0x6a, random(256), 0x58 | reg});
      case 15:
        return emit({0x0f, 0x40 | random(16), 0xc0 | reg << 3 | other});  // CMOVcc
      case 16:
        return emit({0x66, 0x01, 0xc0 | other << 3 | reg});
      case 17:
        return emit({0x88 | random(2) << 1, 0xe0 | random(3)});  // AH with a low byte
      case 18:
        return emit({0x67, 0x8d, 0x40 | reg << 3, random(256)});  // LEA with 16 bits of address
      default:
        return emit({0xe8, 2, 0, 0, 0, 0xeb, 1, 0xc3});  // CALL a RET
    }
  }

  std::mt19937 engine_{20261121};
  std::vector<uint8_t> code_;
};

class Code32 : public testing::TestWithParam<Where> {};

TEST_P(Code32, random_programs_do_what_the_interpreter_does) {
  Machine interpreted(GetParam(), false), translated(GetParam(), true);
  Programs programs;
  for (unsigned i = 0; i < kPrograms; ++i) {
    const std::vector<uint8_t> code = programs.next();
    interpreted.run(code);
    translated.run(code);
    ASSERT_TRUE(interpreted.is_at_end(code.size())) << "program " << i;
    ASSERT_EQ(interpreted.end(), translated.end()) << "program " << i << "\n"
                                                   << translated.machine().emitted_code();
  }
}

TEST_P(Code32, code_is_translated) {
  Machine machine(GetParam(), true);
  machine.run(std::vector<uint8_t>{0x40, 0x50, 0x59});  // inc eax; push eax; pop ecx
  EXPECT_EQ(machine.cpu().gpr[kEcx], 0x89ab'cdf0U);
  EXPECT_NE(machine.machine().emitted_code().find("inc eax"), std::string::npos);
}

TEST_P(Code32, addresses_wrap_at_4_gib) {
  Machine machine(GetParam(), true);
  // mov ebx, -16; mov eax, [ebx + data + 16]; twice, the second time with the entry filled
  std::vector<uint8_t> code{0xbb, 0xf0, 0xff, 0xff, 0xff};
  for (unsigned i = 0; i < 2; ++i) code.insert(code.end(), {0x8b, 0x83, 0x10, 0, 0x20, 0});
  machine.run(code);
  EXPECT_TRUE(machine.is_at_end(code.size()));
  EXPECT_EQ(machine.cpu().gpr[kEax], 0x6f4a'2500U);
}

TEST_P(Code32, code_with_a_segment_that_is_not_flat_is_not_translated) {
  Machine machine(GetParam(), true);
  VcpuState state = save_cpu(machine.cpu());
  state.segments[kDs].base = 0x100;
  ASSERT_TRUE(restore_cpu(machine.cpu(), state).has_value());
  EXPECT_EQ(machine.cpu().translator.usable, 0U);
  machine.run(std::vector<uint8_t>{0xa1, 0, 0xff, 0x1f, 0});  // mov eax, [data - 0x100]
  EXPECT_EQ(machine.cpu().gpr[kEax], 0x6f4a'2500U);
}

INSTANTIATE_TEST_SUITE_P(In, Code32, testing::Values(Where::Compatibility, Where::Protected),
                         [](const auto& which) {
                           return which.param == Where::Protected ? "protected" : "compatibility";
                         });

}  // namespace
}  // namespace trapeze::soft
