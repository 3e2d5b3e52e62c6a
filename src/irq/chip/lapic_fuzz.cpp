// Random register, MSR, message and timer sequences on two local APICs on one bus. Checked: no
// crash, no reserved vector pending or in service, priorities consistent, time bounded (the
// periodic timer cannot be made to fire more often than its clamp), states survive a round trip.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/check.h"
#include "irq/chip/apic_bus.h"
#include "irq/chip/lapic.h"
#include "irq/chip/lapic_registers.h"

namespace trapeze {
namespace {

class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), left_(size) {}
  bool empty() const { return left_ == 0; }
  template <typename T>
  T take() {
    T value{};
    const size_t size = left_ < sizeof(T) ? left_ : sizeof(T);
    std::memcpy(&value, data_, size);
    data_ += size;
    left_ -= size;
    return value;
  }

 private:
  const uint8_t* data_;
  size_t left_;
};

class FuzzHost final : public LapicHost {
 public:
  explicit FuzzHost(ApicBus& bus) : bus_(bus) {}
  void send_ipi(const ApicMessage& message) override { bus_.send(message); }
  void wake() override { woken = true; }
  void timer_changed(std::optional<uint64_t> deadline_ns) override { deadline = deadline_ns; }
  void broadcast_eoi(uint8_t vector) override { CHECK(vector >= 16); }
  uint64_t tsc_to_ns(uint64_t tsc) override { return tsc; }
  bool woken = false;
  std::optional<uint64_t> deadline;

 private:
  ApicBus& bus_;
};

struct Cpu {
  Cpu(uint32_t id, const Clock& clock, ApicBus& bus)
      : host(bus), lapic({.id = VcpuId(id), .is_bsp = id == 0}, clock, host) {}
  FuzzHost host;
  Lapic lapic;
};

int highest(const LapicState& state, uint32_t offset) {
  for (int vector = 255; vector >= 0; --vector) {
    const auto v = static_cast<uint32_t>(vector);
    if ((state.regs[(offset >> 4) + v / 32] >> (v % 32) & 1U) != 0) return vector;
  }
  return -1;
}

void check(const Cpu& cpu) {
  const LapicState state = cpu.lapic.save();
  for (const uint32_t bank : {apic_reg::kIrr, apic_reg::kIsr, apic_reg::kTmr}) {
    CHECK((state.regs[bank >> 4] & 0xffff) == 0);
  }
  const int irr = highest(state, apic_reg::kIrr);
  const int isr = highest(state, apic_reg::kIsr);
  const uint32_t tpr = state.regs[apic_reg::kTpr >> 4];
  const uint32_t ppr = state.regs[apic_reg::kPpr >> 4];
  CHECK(ppr >> 4 ==
        (isr >> 4 > static_cast<int>(tpr >> 4) ? static_cast<uint32_t>(isr >> 4) : tpr >> 4));
  const std::optional<uint8_t> pending = cpu.lapic.pending_vector();
  CHECK(pending.has_value() == (irr >= 0 && static_cast<uint32_t>(irr) >> 4 > ppr >> 4));
  CHECK(!pending || *pending == irr);
  CHECK(irr < 0 || cpu.lapic.has_attention());
}

// The vCPU's loop: takes what is pending. Bounded by the number of vectors, twice over.
void run(Cpu& cpu, bool with_eoi) {
  if (cpu.lapic.take_init()) cpu.lapic.init_reset();
  cpu.lapic.take_sipi();
  if (cpu.lapic.take_nmi()) cpu.lapic.nmi_unblocked();
  if (cpu.lapic.extint_pending()) cpu.lapic.extint_taken();
  for (int i = 0; i < 512 && cpu.lapic.pending_vector(); ++i) {
    const uint8_t expected = *cpu.lapic.pending_vector();
    CHECK(cpu.lapic.accept() == expected);
    if (!with_eoi) continue;
    if (cpu.lapic.is_mmio_visible()) {
      cpu.lapic.mmio_write(apic_reg::kEoi, 0);
    } else {
      cpu.lapic.msr_write(apic_reg::kMsrBase + (apic_reg::kEoi >> 4), 0);
    }
  }
}

// Time passes; the timer may fire once for each kApicMinPeriodNs, not more.
void advance(Cpu& cpu, FakeClock& clock, uint64_t ns) {
  const uint64_t end = clock.now_ns + ns;
  uint64_t fired = 0;
  while (cpu.host.deadline && *cpu.host.deadline <= end) {
    if (*cpu.host.deadline > clock.now_ns) clock.now_ns = *cpu.host.deadline;
    cpu.lapic.timer_expired(clock.now_ns);
    CHECK(++fired <= ns / kApicMinPeriodNs + 2);
  }
  clock.now_ns = end;
}

void step(Input& input, std::array<Cpu*, 2>& cpus, ApicBus& bus, FakeClock& clock) {
  const auto op = input.take<uint8_t>();
  Cpu& cpu = *cpus[op & 1U];
  switch ((op >> 1) % 12) {
    case 0:
      cpu.lapic.mmio_read(input.take<uint16_t>());
      return;
    case 1: {
      const uint32_t offset = input.take<uint8_t>() * 16U;
      cpu.lapic.mmio_write(offset, input.take<uint32_t>());
      return;
    }
    case 2: {
      uint64_t value = 0;
      cpu.lapic.msr_read(0x800U + input.take<uint8_t>(), value);
      return;
    }
    case 3: {
      const uint32_t msr = 0x800U + input.take<uint8_t>();
      cpu.lapic.msr_write(msr, input.take<uint32_t>());
      return;
    }
    case 4:  // the bits that matter: base 0xfee00000, BSP, EXTD, EN
      cpu.lapic.set_apic_base(0xfee0'0000U | (input.take<uint8_t>() & 0x0dU) << 8);
      return;
    case 5:
      bus.send_msi({.address = 0xfee0'0000U | input.take<uint32_t>() % 0x10'0000U,
                    .data = input.take<uint16_t>()});
      return;
    case 6:
      cpu.lapic.set_tsc_deadline(input.take<uint32_t>());
      return;
    case 7:
      cpu.lapic.set_tpr(input.take<uint8_t>());
      return;
    case 8:
      cpu.lapic.set_lint0((input.take<uint8_t>() & 1U) != 0);
      return;
    case 9:
      return advance(cpu, clock, input.take<uint32_t>() % 100'000'000U);
    case 10:
      return run(cpu, (op & 0x80U) != 0);
    default: {
      const LapicState state = cpu.lapic.save();
      cpu.lapic.restore(state);
      CHECK(cpu.lapic.save() == state);
      return;
    }
  }
}

}  // namespace
}  // namespace trapeze

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trapeze;
  FakeClock clock;
  ApicBus bus;
  Cpu first(0, clock, bus);
  Cpu second(1, clock, bus);
  bus.add(first.lapic);
  bus.add(second.lapic);
  std::array<Cpu*, 2> cpus{&first, &second};
  for (Cpu* cpu : cpus) cpu->lapic.mmio_write(apic_reg::kSpurious, 0x1ff);
  Input input(data, size);
  while (!input.empty()) {
    step(input, cpus, bus, clock);
    check(first);
    check(second);
  }
  return 0;
}
