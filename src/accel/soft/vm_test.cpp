#include "accel/soft/vm.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <array>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "base/units.h"

namespace trapeze::soft {
namespace {

// Ports: 0x10 counts bytes. Everything else is nothing.
class CountingIo final : public IoSink {
 public:
  uint64_t mmio_read(Gpa, Width width) override { return all_ones(width); }
  void mmio_write(Gpa gpa, Width, uint64_t value) override {
    last_mmio = gpa;
    last_value = value;
  }
  uint32_t pio_read(Port, Width width) override { return static_cast<uint32_t>(all_ones(width)); }
  void pio_write(Port port, Width, uint32_t value) override {
    if (port == Port(0x10)) {
      last_byte = value;
      writes.fetch_add(1);
    }
  }
  std::atomic<uint32_t> writes{0};
  std::atomic<uint32_t> last_byte{0};
  Gpa last_mmio;
  uint64_t last_value = 0;
};

class SoftVmTest : public testing::Test {
 protected:
  SoftVmTest() {
    const std::array<GpaRange, 1> ram{GpaRange{Gpa{0}, 4 * MiB}};
    memory_ = GuestMemory::create(ram).value();
    vm_ = create_vm(*memory_, clock_, {.cpu_model = "", .vcpu_count = 1}).value();
    vcpu_ = vm_->create_vcpu(VcpuId(0), io_).value();
  }
  // Real-mode code at 0x1000:0.
  void start(const std::vector<uint8_t>& code) {
    memory_->write(Gpa{0x10000}, std::as_bytes(std::span(code)));
    VcpuState state = vcpu_->save();
    state.segments[kCs] = {0x10000, 0xffff, 0x9b, 0x1000};
    state.rip = 0;
    state.gpr[kRsp] = 0x7000;
    ASSERT_TRUE(vcpu_->restore(state).has_value());
  }

  HostClock clock_;
  CountingIo io_;
  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<AccelVm> vm_;
  std::unique_ptr<AccelVcpu> vcpu_;
};

TEST_F(SoftVmTest, kick_before_run_is_not_lost) {
  start({0xeb, 0xfe});  // jmp .
  vcpu_->kick();
  EXPECT_EQ(vcpu_->run(), ExitReason::Kicked);
}

TEST_F(SoftVmTest, kick_ends_a_busy_guest) {
  start({0xb0, 0x01, 0xe6, 0x10, 0xeb, 0xfa});  // mov al,1 ; l: out 0x10,al ; jmp l
  std::thread kicker([this] {
    while (io_.writes.load() < 100) std::this_thread::yield();
    vcpu_->kick();
  });
  EXPECT_EQ(vcpu_->run(), ExitReason::Kicked);
  kicker.join();
  EXPECT_EQ(io_.last_byte.load(), 1U);
  EXPECT_GT(vcpu_->instructions(), 200U);
}

TEST_F(SoftVmTest, halted_vcpu_sleeps_and_wakes_by_a_kick) {
  start({0xfa, 0xf4});  // cli; hlt
  rusage before{};
  ::getrusage(RUSAGE_SELF, &before);
  std::thread runner([this] { EXPECT_EQ(vcpu_->run(), ExitReason::Kicked); });
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  vcpu_->kick();
  runner.join();
  rusage after{};
  ::getrusage(RUSAGE_SELF, &after);
  const auto cpu_ms = [](const rusage& use) {
    return use.ru_utime.tv_sec * 1000 + use.ru_utime.tv_usec / 1000;
  };
  EXPECT_LT(cpu_ms(after) - cpu_ms(before), 100) << "a halted guest must cost no CPU";
}

TEST_F(SoftVmTest, exception_without_handlers_is_a_triple_fault) {
  start({0x0f, 0x01, 0x1e, 0x00, 0x05, 0x0f, 0x0b});  // lidt [0x500] (zeros); ud2
  EXPECT_EQ(vcpu_->run(), ExitReason::TripleFault);
}

TEST_F(SoftVmTest, interrupt_wakes_a_halted_vcpu) {
  // IVT entry 0x21 -> 0x1000:0x20; the handler writes to port 0x10.
  memory_->store<uint32_t>(Gpa{0x21 * 4}, 0x1000'0020);
  std::vector<uint8_t> code(0x30, 0x90);
  const std::vector<uint8_t> main = {0xfb, 0xf4, 0xeb, 0xfd};           // sti; l: hlt; jmp l
  const std::vector<uint8_t> handler = {0xb0, 0x07, 0xe6, 0x10, 0xcf};  // out 0x10, 7; iret
  std::copy(main.begin(), main.end(), code.begin());
  std::copy(handler.begin(), handler.end(), code.begin() + 0x20);
  start(code);
  // Software-enable the local APIC, which real code would do by its page (SVR at 0xf0).
  VcpuState state = vcpu_->save();
  state.lapic[0xf] = 0x1ff;
  ASSERT_TRUE(vcpu_->restore(state).has_value());
  std::thread runner([this] { EXPECT_EQ(vcpu_->run(), ExitReason::Kicked); });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  vm_->send_msi({0xfee00000, 0x21});
  while (io_.writes.load() == 0) std::this_thread::yield();
  vcpu_->kick();
  runner.join();
  EXPECT_EQ(io_.last_byte.load(), 7U);
}

TEST_F(SoftVmTest, state_goes_round) {
  start({0xf4});
  VcpuState state = vcpu_->save();
  state.gpr[kR15] = 0x1234;
  ASSERT_TRUE(vcpu_->restore(state).has_value());
  VcpuState again = vcpu_->save();
  for (VcpuState* each : {&again, &state}) {  // time goes on meanwhile
    std::erase_if(each->msrs, [](const MsrValue& msr) { return msr.index == 0x10; });
  }
  EXPECT_EQ(again, state);
}

TEST_F(SoftVmTest, state_of_the_vm_goes_round) {
  AccelVmState state = vm_->save().value();
  EXPECT_EQ(state.tsc_khz, 1'000'000U);
  state.chips.ioapic.redirection[5] = 0x1'0031;
  state.chips.pic.primary.vector_base = 0x30;
  state.clock_ns = 5'000'000'000'000;
  ASSERT_TRUE(vm_->restore(state));
  const AccelVmState again = vm_->save().value();
  EXPECT_EQ(again.chips.ioapic, state.chips.ioapic);
  EXPECT_EQ(again.chips.pic, state.chips.pic);
  EXPECT_GE(again.clock_ns, state.clock_ns);
  EXPECT_LT(again.clock_ns, state.clock_ns + 1'000'000'000'000);
  state.tsc_khz = 2'500'000;
  EXPECT_FALSE(vm_->restore(state)) << "the guest's time would run slower";
}

TEST_F(SoftVmTest, restored_clock_is_told_to_the_guest) {
  VcpuState vcpu = vcpu_->save();
  vcpu.msrs.push_back({0x4b564d01, 0x3001});  // kvmclock's page, enabled
  ASSERT_TRUE(vcpu_->restore(vcpu));
  AccelVmState state = vm_->save().value();
  state.clock_ns = 5'000'000'000'000;
  ASSERT_TRUE(vm_->restore(state));
  // pvclock_vcpu_time_info: tsc_timestamp at 8, system_time at 16.
  const auto system_time = memory_->load<uint64_t>(Gpa{0x3010}).value();
  EXPECT_GE(system_time, state.clock_ns);
  EXPECT_LT(system_time, state.clock_ns + 1'000'000'000'000);
}

TEST(SoftVm, unknown_cpu_model_is_refused) {
  const std::array<GpaRange, 1> ram{GpaRange{Gpa{0}, 4 * MiB}};
  const auto memory = GuestMemory::create(ram).value();
  const HostClock clock;
  const auto vm = create_vm(*memory, clock, {.cpu_model = "z80", .vcpu_count = 1});
  ASSERT_FALSE(vm.has_value());
  EXPECT_NE(vm.error().message.find("z80"), std::string::npos);
}

}  // namespace
}  // namespace trapeze::soft
