// For the tests of this folder: a TestMachine with descriptor tables, a TSS and handlers of its
// own.
#pragma once

#include <gtest/gtest.h>

#include "accel/soft/core/env.h"
#include "accel/soft/mmu/mmu.h"
#include "accel/soft/system/descriptor.h"
#include "accel/soft/system/mode.h"
#include "accel/soft/testing/machine.h"

namespace trapeze::soft {

// Selectors of the fixture's GDT.
inline constexpr uint16_t kCode64 = 0x08, kData0 = 0x10, kCode32 = 0x18, kCode16 = 0x20,
                          kUserCode32 = 0x2b, kUserData = 0x33, kUserCode64 = 0x3b, kTssSel = 0x40,
                          kFree = 0x50;  // and above: for the test

class SystemTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kGdt = 0x300000, kIdt = 0x310000, kTss = 0x320000, kLdt = 0x330000;
  static constexpr uint64_t kRsp0 = 0x408000, kIst1 = 0x418000, kUserStack = 0x428000;
  static constexpr uint64_t kHandler = 0x500000;  // handler of vector v is at kHandler + 16 * v

  void start(TestMode mode) {
    machine_ = std::make_unique<TestMachine>(mode);
    constexpr uint64_t kEntries[] = {0,
                                     0x00af9b000000ffff,
                                     0x00cf93000000ffff,
                                     0x00cf9b000000ffff,
                                     0x000f9b000000ffff,
                                     0x00cffb000000ffff,
                                     0x00cff3000000ffff,
                                     0x00affb000000ffff};
    for (unsigned i = 0; i < std::size(kEntries); ++i)
      set_gdt(static_cast<uint16_t>(i * 8), kEntries[i]);
    cpu().gdtr = {kGdt, 0xfff};
    cpu().idtr = {kIdt, 0xfff};
    const bool is_long = mode == TestMode::Long64;
    // Busy 32- or 64-bit TSS, limit 0x67.
    set_gdt(kTssSel, 0x00008b0000000067 | (kTss & 0xffffff) << 16);
    cpu().tr = {kTss, 0x67, 0x8b, kTssSel};
    if (is_long) {
      store<uint64_t>(kTss + 4, kRsp0);
      store<uint64_t>(kTss + 36, kIst1);
    } else {
      store<uint32_t>(kTss + 4, kRsp0);
      store<uint16_t>(kTss + 8, kData0);
    }
    if (mode != TestMode::Real16) {
      for (unsigned i : {kEs, kSs, kDs, kFs, kGs}) cpu().seg[i].selector = kData0;
      cpu().seg[kCs].selector = is_long ? kCode64 : kCode32;
    }
    update_mode(cpu());
  }
  // As code at CPL 3 would be: 64-bit, or 32-bit in protected mode.
  void enter_user() {
    const bool is_long = is_long_mode(cpu());
    cpu().seg[kCs] = {0, 0xffffffff, is_long ? 0xa0fbU : 0xc0fbU,
                      is_long ? kUserCode64 : kUserCode32};
    for (unsigned i : {kEs, kSs, kDs, kFs, kGs}) cpu().seg[i] = {0, 0xffffffff, 0xc0f3, kUserData};
    cpu().cpl = 3;
    cpu().gpr[kRsp] = kUserStack;
    update_mode(cpu());
  }

  Cpu& cpu() { return machine_->cpu(); }
  template <typename T>
  void store(uint64_t gpa, T value) {
    ASSERT_TRUE(machine_->memory().store<T>(Gpa(gpa), value));
  }
  template <typename T>
  T at(uint64_t gpa) {
    return machine_->memory().load<T>(Gpa(gpa)).value();
  }
  uint64_t stack64(unsigned slot) { return at<uint64_t>(cpu().gpr[kRsp] + slot * 8); }
  uint32_t stack32(unsigned slot) { return at<uint32_t>(cpu().gpr[kRsp] + slot * 4); }

  void set_gdt(uint16_t selector, uint64_t value) {
    store<uint64_t>(kGdt + (selector & 0xfff8), value);
  }
  void set_gdt_bits(uint16_t selector, uint64_t set, uint64_t clear = 0) {
    const uint64_t address = kGdt + (selector & 0xfff8U);
    store<uint64_t>(address, (at<uint64_t>(address) & ~clear) | set);
  }
  static uint64_t handler_of(unsigned vector) { return kHandler + 16 * vector; }
  static uint64_t gate_low(uint64_t offset, uint16_t selector, unsigned type, unsigned dpl,
                           unsigned ist, bool present) {
    return (offset & 0xffff) | (uint64_t{selector} << 16) | (uint64_t{ist} << 32) |
           (uint64_t{type} << 40) | (uint64_t{dpl} << 45) | (uint64_t{present} << 47) |
           ((offset & 0xffff0000) << 32);
  }
  struct GateSpec {
    unsigned type = kTypeIntGate32;
    unsigned dpl = 0;
    unsigned ist = 0;
    bool present = true;
    uint16_t selector = 0;  // 0: the usual one
    uint64_t offset = 0;    // 0: handler_of(vector)
  };
  void gate(unsigned vector, const GateSpec& spec) {
    const bool is_long = is_long_mode(cpu());
    const uint64_t offset = spec.offset != 0 ? spec.offset : handler_of(vector);
    const uint16_t selector = spec.selector != 0 ? spec.selector : is_long ? kCode64 : kCode32;
    const uint64_t low = gate_low(offset, selector, spec.type, spec.dpl, spec.ist, spec.present);
    if (is_long) {
      store<uint64_t>(kIdt + vector * 16, low);
      store<uint64_t>(kIdt + vector * 16 + 8, offset >> 32);
    } else {
      store<uint64_t>(kIdt + vector * 8, low);
    }
  }
  void gate(unsigned vector) { gate(vector, GateSpec()); }

  // Checks and forgets the pending exception.
  void expect_fault(uint8_t vector, uint32_t error_code) {
    ASSERT_TRUE(cpu().fault.pending);
    EXPECT_EQ(cpu().fault.vector, vector);
    EXPECT_TRUE(cpu().fault.has_error_code);
    EXPECT_EQ(cpu().fault.error_code, error_code);
    cpu().fault = {};
  }
  // Runs `bytes` to the HLT behind them.
  RunResult run(std::initializer_list<uint8_t> bytes) {
    machine_->code(bytes);
    return machine_->run();
  }

  std::unique_ptr<TestMachine> machine_;
};

}  // namespace trapeze::soft
