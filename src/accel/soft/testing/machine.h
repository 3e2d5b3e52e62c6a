// TestMachine: one Cpu with memory and nothing around it, for tests of instructions.
//
// Memory: 16 MiB of RAM from 0. Long64 has paging on, identity-mapped for the low 1 GiB with user
// pages, all writable; Protected32 and Real16 have paging off. The GDT is at 0x500 (0x08 code64,
// 0x10 data, 0x18 code32, 0x20 code16, 0x28 data16; 0x33/0x2b user code64/data).
//
// With a CPU model that has AVX, CR4.OSXSAVE is set and XCR0 holds all.
//
// RAM and Cpu lie between inaccessible pages: guest code that reaches the host's memory crashes.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "accel/soft/core/cpu.h"
#include "accel/soft/run.h"
#include "memory/guest_memory.h"

namespace trapeze::soft {

class Translator;

enum class TestMode : uint8_t { Long64, Protected32, Real16 };

class TestMachine {
 public:
  static constexpr uint64_t kCode = 0x10000;   // where code() puts the program
  static constexpr uint64_t kData = 0x200000;  // free for the test
  static constexpr uint64_t kStackTop = 0x8000;
  static constexpr const char* kLevel3 = "x86-64-v3";
  // True when this host can run the CPU model x86-64-v3.
  static bool host_has_level3();

  explicit TestMachine(TestMode mode = TestMode::Long64, const char* cpu_model = nullptr);
  ~TestMachine();

  // From now on all that can be translated is, from its first run.
  void use_translator();
  Translator& translator();
  // Translates what is at RIP without running it.
  void translate_here();
  // What the translator has emitted, as text (listing.h).
  std::string emitted_code() const;
  // False when something wrote to the bytes beside the Cpu.
  bool is_intact() const;

  Cpu& cpu();
  GuestMemory& memory();
  // Puts the bytes, then HLT, at kCode and points rip there.
  void code(std::span<const uint8_t> bytes);
  void code(std::initializer_list<uint8_t> bytes) { code(std::span(bytes.begin(), bytes.size())); }
  // Runs to HLT, the first exception (left in cpu().fault, rip at the instruction) or the limit.
  RunResult run(uint64_t max_instructions = 100'000);
  // Runs with exceptions and interrupts delivered, to HLT, a triple fault or the limit.
  RunResult run_system(uint64_t max_instructions = 100'000);

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace trapeze::soft
