// Guest: a TestMachine for one short program, for the unit tests of integer instructions.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <initializer_list>

#include "accel/soft/core/flags.h"
#include "accel/soft/testing/machine.h"
#include "base/units.h"

namespace trapeze::soft {

class Guest {
 public:
  static constexpr int kHalted = -1;
  static constexpr uint64_t kData = TestMachine::kData;
  static constexpr uint64_t kUnmapped = 2 * TestMachine::kData;  // see unmap_behind_data()

  explicit Guest(TestMode mode = TestMode::Long64) : machine_(mode) {}

  uint64_t& operator[](GprIndex index) { return machine_.cpu().gpr[index]; }
  Cpu& cpu() { return machine_.cpu(); }

  void set_flags(uint64_t flags) { cpu().arith = to_arithmetic(flags); }
  uint64_t flags(uint64_t mask = kArithmeticFlags) { return to_rflags(cpu().arith) & mask; }

  template <typename T>
  void put(uint64_t address, T value) {
    ASSERT_TRUE(machine_.memory().store<T>(Gpa{address}, value));
  }
  template <typename T>
  T get(uint64_t address) {
    return machine_.memory().load<T>(Gpa{address}).value();
  }
  // Only in Long64, and before the first access: the 2 MiB page at kUnmapped faults.
  void unmap_behind_data() { put<uint64_t>(0x3000 + 8 * (kUnmapped >> 21), 0); }

  // Once for each Guest. Returns the vector of the exception that ended the program, or kHalted.
  int run(std::initializer_list<uint8_t> bytes) {
    machine_.code(bytes);
    return resume();
  }
  // The same program once more, from its start.
  int again() {
    cpu().rip = TestMachine::kCode;
    cpu().halted = false;
    return resume();
  }

 private:
  int resume() {
    const RunResult result = machine_.run();
    if (result == RunResult::Fault) return cpu().fault.vector;
    EXPECT_EQ(result, RunResult::Halted);
    return kHalted;
  }

  TestMachine machine_;
};

}  // namespace trapeze::soft
