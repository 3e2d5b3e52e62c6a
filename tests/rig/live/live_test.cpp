// accel/kvm on a real /dev/kvm. Runs in the rig only (kvm_test.py): it refuses to start elsewhere,
// because a host's own /dev/kvm is not for tests.
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <optional>
#include <thread>

#include "accel/kvm/bench.h"
#include "machine.h"

namespace trapeze {
namespace {

using std::chrono::milliseconds;

// Kicks a vCPU after a while, from another thread.
class KickAfter {
 public:
  KickAfter(AccelVcpu& vcpu, milliseconds delay)
      : thread_([&vcpu, delay] {
          std::this_thread::sleep_for(delay);
          vcpu.kick();
        }) {}
  ~KickAfter() { thread_.join(); }

 private:
  std::thread thread_;
};

// The longer part, before releases.
bool many_turns() { return std::getenv("TRAPEZE_RIG_LONG") != nullptr; }

template <typename T>
T value_at(const GuestMemory& memory, uint64_t gpa) {
  return memory.load<T>(Gpa{gpa}).value();
}

// Memory, a general register and a vector register have counted the same turns: none was lost and
// none done twice.
void expect_counted(const GuestMemory& memory) {
  const auto turns = value_at<uint64_t>(memory, kRounds);
  EXPECT_GT(turns, 0U);
  EXPECT_EQ(value_at<uint64_t>(memory, kTurns), turns);
  EXPECT_EQ(value_at<double>(memory, kSum), static_cast<double>(turns));
  EXPECT_GT(value_at<uint64_t>(memory, kTicks), 0U);
}

void run_to_report(Machine& machine) {
  while (machine.sink.reports == 0) {
    ASSERT_EQ(machine.vcpu->run(), ExitReason::Kicked) << machine.vcpu->error();
  }
}

// Runs until the guest has come so far, however slow this machine is.
void run_until(Machine& machine, const std::function<bool()>& has_come_so_far) {
  std::thread kicker([&] {
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!has_come_so_far() && std::chrono::steady_clock::now() < limit) {
      std::this_thread::sleep_for(milliseconds(10));
    }
    machine.vcpu->kick();
  });
  EXPECT_EQ(machine.vcpu->run(), ExitReason::Kicked) << machine.vcpu->error();
  kicker.join();
  EXPECT_TRUE(has_come_so_far()) << "it does not run, or no interrupt comes";
}

void run_for_ticks(Machine& machine, const GuestMemory& memory, uint64_t count) {
  const auto ticks = value_at<uint64_t>(memory, kTicks);
  run_until(machine, [&] { return value_at<uint64_t>(memory, kTicks) >= ticks + count; });
}

// The timer of the guest ticks all the while, so some moves hit the handler and some the loop.
void run_for_a_while(Machine& machine, const GuestMemory& memory) {
  const auto turns = value_at<uint64_t>(memory, kRounds);
  const auto ticks = value_at<uint64_t>(memory, kTicks);
  run_until(machine, [&] {
    return value_at<uint64_t>(memory, kTicks) > ticks &&
           value_at<uint64_t>(memory, kRounds) > turns;
  });
}

// The parts of a state that must not change by a save and a restore.
void expect_same(VcpuState a, VcpuState b) {
  a.msrs.clear();  // the TSC goes on
  b.msrs.clear();
  a.lapic[0x39] = b.lapic[0x39] = 0;  // the timer's current count too
  // The processor priority follows from TPR and ISR (SDM 3A 10.8.3.1); KVM brings it up to date
  // when it restores, and not always before it saves.
  a.lapic[0x0a] = b.lapic[0x0a] = 0;
  EXPECT_EQ(a.gpr, b.gpr);
  EXPECT_EQ(a.segments, b.segments);
  EXPECT_EQ(a.xsave, b.xsave);
  EXPECT_EQ(a.lapic, b.lapic);
  EXPECT_EQ(a.events, b.events);
  EXPECT_EQ(a, b);
}

struct LiveOnChips : testing::TestWithParam<Engine> {};

TEST_P(LiveOnChips, state_of_a_running_vcpu_goes_on_in_new_vms) {
  const auto memory = make_memory(bytes_between(count_avx_begin, count_avx_end),
                                  bytes_between(apic_handler_begin, apic_handler_end));
  VcpuState state = start_state(true);
  constexpr int kMoves = 4;
  for (int move = 0; move <= kMoves; ++move) {
    Machine machine(*memory, GetParam());
    const auto restored = machine.vcpu->restore(state);
    ASSERT_TRUE(restored) << restored.error().message;
    if (move > 0) expect_same(machine.vcpu->save(), state);
    if (move == kMoves) {
      memory->store(Gpa{kStop}, uint64_t{1});
      run_to_report(machine);
    } else {
      run_for_a_while(machine, *memory);
    }
    state = machine.vcpu->save();
  }
  expect_counted(*memory);
  EXPECT_EQ(value_at<uint64_t>(*memory, kUpper), kPattern) << "YMM2";
}

TEST_P(LiveOnChips, timer_ticks_through_the_8259s) {
  const auto memory = make_memory(bytes_between(pic_begin, pic_end),
                                  bytes_between(pic_handler_begin, pic_handler_end));
  VcpuState state = start_state();
  state.apic_base = 0xfee0'0900;
  Machine machine(*memory, GetParam());
  ASSERT_TRUE(machine.vcpu->restore(state));
  run_for_ticks(machine, *memory, 20);
  memory->store(Gpa{kStop}, uint64_t{1});
  run_to_report(machine);
}

INSTANTIATE_TEST_SUITE_P(Kvm, LiveOnChips,
                         testing::Values(Engine::KvmKernelChips, Engine::KvmSplitChips),
                         [](const auto& instance) {
                           return instance.param == Engine::KvmKernelChips ? "KernelChips"
                                                                           : "SplitChips";
                         });

TEST(Live, state_moves_between_soft_and_kvm_and_back) {
  const auto memory = make_memory(bytes_between(count_begin, count_end),
                                  bytes_between(apic_handler_begin, apic_handler_end));
  VcpuState state = start_state();
  for (const Engine engine :
       {Engine::Soft, Engine::KvmKernelChips, Engine::Soft, Engine::KvmSplitChips, Engine::Soft}) {
    Machine machine(*memory, engine);
    const auto restored = machine.vcpu->restore(state);
    ASSERT_TRUE(restored) << restored.error().message;
    run_for_a_while(machine, *memory);
    state = machine.vcpu->save();
  }
  memory->store(Gpa{kStop}, uint64_t{1});
  Machine machine(*memory, Engine::KvmKernelChips);
  ASSERT_TRUE(machine.vcpu->restore(state));
  run_to_report(machine);
  expect_counted(*memory);
}

// An interrupt that the 8259s have given and that is not delivered is in no register: the engine
// refuses such a state and says to take another.
VcpuState save_between_interrupts(Machine& machine, const GuestMemory& memory) {
  VcpuState state = machine.vcpu->save();
  for (int i = 0; i < 100 && state.events.interrupt_injected; ++i) {
    run_for_ticks(machine, memory, 1);
    state = machine.vcpu->save();
  }
  EXPECT_FALSE(state.events.interrupt_injected);
  return state;
}

// 8259s, 8254, I/O APIC and the clock of the VM move with the vCPU.
TEST(Live, vm_moves_between_kinds_of_irqchip_and_soft) {
  const auto memory = make_memory(bytes_between(pic_begin, pic_end),
                                  bytes_between(pic_handler_begin, pic_handler_end));
  VcpuState vcpu = start_state();
  vcpu.apic_base = 0xfee0'0900;
  std::optional<AccelVmState> vm;
  for (const Engine engine : {Engine::KvmKernelChips, Engine::KvmSplitChips, Engine::Soft,
                              Engine::KvmKernelChips, Engine::KvmKernelChips}) {
    SCOPED_TRACE(static_cast<int>(engine));
    Machine machine(*memory, engine);
    if (!vm) {
      // As firmware leaves it: the local APIC is on and takes the 8259s' output ("virtual wire").
      vcpu.lapic = machine.vcpu->save().lapic;
      vcpu.lapic[0xf] = 0x1ff;
      vcpu.lapic[0x35] = 0x700;
    }
    ASSERT_TRUE(machine.vcpu->restore(vcpu));
    if (vm) {
      vm->tsc_khz = 0;  // this guest does not look at its TSC
      const auto restored = machine.vm->restore(*vm);
      ASSERT_TRUE(restored) << restored.error().message;
    }
    run_for_ticks(machine, *memory, 3);
    vcpu = save_between_interrupts(machine, *memory);
    const auto saved = machine.vm->save();
    ASSERT_TRUE(saved) << saved.error().message;
    EXPECT_EQ(saved->chips.pic.primary.vector_base, 0x20);
    EXPECT_EQ(saved->chips.pic.primary.imr, 0xfe);
    EXPECT_EQ(saved->chips.pic.secondary.imr, 0xff);
    EXPECT_EQ(saved->chips.pit.channels[0].mode, 2);
    EXPECT_EQ(saved->chips.pit.channels[0].count, 0x2e9cU);
    EXPECT_GT(saved->clock_ns, vm ? vm->clock_ns : 0);
    EXPECT_LT(saved->clock_ns, uint64_t{3600'000'000'000}) << "of this VM, not of the host";
    vm = *saved;
  }
}

TEST(Live, vm_whose_tsc_would_run_at_another_speed_is_refused) {
  const auto memory = make_memory(bytes_between(halt_begin, halt_end), {});
  std::optional<AccelVmState> saved;
  {
    Machine machine(*memory, Engine::KvmKernelChips);
    saved = machine.vm->save().value();
  }
  EXPECT_GT(saved->tsc_khz, 0U);
  if (saved->tsc_khz == 1'000'000) saved->tsc_khz *= 2;  // the very speed of the engine
  Machine machine(*memory, Engine::Soft);
  const auto restored = machine.vm->restore(*saved);
  ASSERT_FALSE(restored);
  EXPECT_NE(restored.error().message.find("kHz"), std::string::npos);
}

TEST(Live, avx_state_is_refused_by_soft_by_name) {
  const auto memory = make_memory(bytes_between(count_avx_begin, count_avx_end),
                                  bytes_between(apic_handler_begin, apic_handler_end));
  VcpuState state = start_state(true);
  {
    Machine machine(*memory, Engine::KvmKernelChips);
    ASSERT_TRUE(machine.vcpu->restore(state));
    run_for_a_while(machine, *memory);
    state = machine.vcpu->save();
  }
  Machine machine(*memory, Engine::Soft);
  const auto restored = machine.vcpu->restore(state);
  ASSERT_FALSE(restored);
  EXPECT_NE(restored.error().message.find("XCR0 0x7"), std::string::npos);
}

TEST(Live, no_kick_is_lost) {
  const auto memory = make_memory(bytes_between(halt_begin, halt_end), {});
  Machine machine(*memory, Engine::KvmKernelChips);
  ASSERT_TRUE(machine.vcpu->restore(start_state()));
  std::atomic<int> returned{0};
  // Each takes some scheduling on a machine of two CPUs that are emulated and busy.
  const int kicks = many_turns() ? 3000 : 300;
  std::thread kicker([&] {
    for (int i = 0; i < kicks; ++i) {
      // From "not yet in KVM_RUN" to "asleep in HLT".
      for (volatile int spin = 0; spin < (i * 37) % 5000;) spin = spin + 1;
      machine.vcpu->kick();
      while (returned.load(std::memory_order_acquire) <= i) std::this_thread::yield();
    }
  });
  for (int i = 0; i < kicks; ++i) {
    ASSERT_EQ(machine.vcpu->run(), ExitReason::Kicked);
    returned.store(i + 1, std::memory_order_release);
  }
  kicker.join();
}

TEST(Live, doorbell_costs_no_exit_until_it_is_unbound) {
  const auto memory = make_memory(bytes_between(kick_begin, kick_end), {});
  Machine machine(*memory, Engine::KvmKernelChips);
  const Fd event(::eventfd(0, EFD_NONBLOCK));
  const DoorbellPlace place{DoorbellPlace::Space::Memory, 0xe000'0000};
  ASSERT_TRUE(machine.vm->bind_doorbell(place, event));
  ASSERT_TRUE(machine.vcpu->restore(start_state()));
  run_to_report(machine);
  uint64_t kicks = 0;
  ASSERT_EQ(::read(event.get(), &kicks, sizeof(kicks)), 8);
  EXPECT_EQ(kicks, 100U);
  EXPECT_EQ(machine.stat("exit.mmio"), 0U);
  EXPECT_EQ(machine.stat("exit.all"), 1U) << "the report";

  machine.vm->unbind_doorbell(place, event);
  machine.sink.reports = 0;
  ASSERT_TRUE(machine.vcpu->restore(start_state()));
  run_to_report(machine);
  EXPECT_EQ(machine.sink.mmio_writes[0xe000'0000], 100);
}

TEST(Live, irqfd_and_msi_reach_the_handler) {
  const auto memory = make_memory(bytes_between(halt_begin, halt_end),
                                  bytes_between(report_handler_begin, report_handler_end));
  Machine machine(*memory, Engine::KvmKernelChips);
  VcpuState state = start_state();
  state.lapic = machine.vcpu->save().lapic;
  state.lapic[0xf] = 0x1ff;
  ASSERT_TRUE(machine.vcpu->restore(state));
  const auto event = machine.vm->create_msi_event();
  ASSERT_NE(event, nullptr);
  ASSERT_TRUE(event->set({0xfee0'0000, 0x41}));
  event->signal();
  run_to_report(machine);
  machine.vm->send_msi({0xfee0'0000, 0x42});
  machine.sink.reports = 0;
  run_to_report(machine);
  EXPECT_EQ(machine.sink.reports, 1);
}

TEST(Live, triple_fault_is_told) {
  const auto memory = make_memory(bytes_between(triple_begin, triple_end), {});
  Machine machine(*memory, Engine::KvmKernelChips);
  ASSERT_TRUE(machine.vcpu->restore(start_state()));
  EXPECT_EQ(machine.vcpu->run(), ExitReason::TripleFault);
}

TEST(Live, code_where_no_memory_is_ends_with_a_readable_dump) {
  const auto memory = make_memory(bytes_between(wild_begin, wild_end), {});
  Machine machine(*memory, Engine::KvmKernelChips);
  ASSERT_TRUE(machine.vcpu->restore(start_state()));
  ASSERT_EQ(machine.vcpu->run(), ExitReason::AccelError);
  const std::string text = machine.vcpu->error();
  EXPECT_NE(text.find("cannot emulate"), std::string::npos) << text;
  EXPECT_NE(text.find("rip 00000000e0000000"), std::string::npos) << text;
}

TEST(Live, cpu_pm_leaves_hlt_to_the_guest_and_a_kick_still_ends_it) {
  const auto memory = make_memory(bytes_between(halt_begin, halt_end), {});
  HostClock clock;
  Sink sink;
  kvm::KvmConfig config;
  config.cpu_pm = true;
  const auto vm = std::move(kvm::create_vm(*memory, clock, config)).value();
  const auto vcpu = std::move(vm->create_vcpu(VcpuId(0), sink)).value();
  ASSERT_TRUE(vcpu->restore(start_state()));
  const KickAfter kick(*vcpu, milliseconds(50));
  EXPECT_EQ(vcpu->run(), ExitReason::Kicked);
}

TEST(Live, too_many_vcpus_and_too_much_memory_are_refused_with_the_limit) {
  const auto memory = make_memory({}, {});
  HostClock clock;
  kvm::KvmConfig config;
  config.vcpu_count = 100'000;
  const auto many = kvm::create_vm(*memory, clock, config);
  ASSERT_FALSE(many);
  EXPECT_NE(many.error().message.find("at most"), std::string::npos);
}

TEST(Live, bench_measures_everything) {
  const auto figures = kvm::run_bench();
  ASSERT_TRUE(figures) << figures.error().message;
  for (const auto& figure : *figures) {
    EXPECT_EQ(figure.problem, "") << figure.name;
    EXPECT_GT(figure.ns, 0) << figure.name;
    std::printf("%-12s %10.0f ns  %s\n", figure.name.c_str(), figure.ns, figure.meaning.c_str());
  }
}

}  // namespace
}  // namespace trapeze

int main(int argc, char** argv) {
  if (std::getenv("TRAPEZE_RIG") == nullptr) {
    std::fprintf(stderr, "this test runs in the rig only: tests/rig/kvm_test.py\n");
    return 1;
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
