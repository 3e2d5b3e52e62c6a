// A VM with one vCPU and a program of guest_programs.h, on any accelerator.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <functional>
#include <map>
#include <memory>

#include "accel/accel.h"
#include "accel/kvm/vm.h"
#include "accel/soft/vm.h"
#include "arch/x86/layout.h"
#include "base/clock.h"
#include "guest_programs.h"

namespace trapeze {

inline constexpr uint64_t kCode = 0x8000;
inline constexpr uint64_t kHandler = 0x9000;
inline constexpr uint64_t kMemoryBytes = 16 * MiB;

// RAM with tables and a program in it.
inline std::unique_ptr<GuestMemory> make_memory(std::span<const uint8_t> code,
                                                std::span<const uint8_t> handler) {
  auto memory = std::move(GuestMemory::create(layout::ram_ranges(kMemoryBytes))).value();
  const auto put = [&](uint64_t at, std::span<const uint8_t> bytes) {
    CHECK(memory->write(Gpa{at}, std::as_bytes(bytes)));
  };
  put(kCode, code);
  put(kHandler, handler);
  memory->store<uint64_t>(Gpa{0x508}, 0x00af'9b00'0000'ffff);
  memory->store<uint64_t>(Gpa{0x510}, 0x00cf'9300'0000'ffff);
  memory->store<uint64_t>(Gpa{0x2000}, 0x3003);
  for (uint64_t i = 0; i < 4; ++i) {
    memory->store<uint64_t>(Gpa{0x3000 + i * 8}, 0x20003 + i * 0x1000);
    for (uint64_t j = 0; j < 512; ++j) {
      memory->store<uint64_t>(Gpa{0x20000 + i * 0x1000 + j * 8}, (i * 512 + j) << 21 | 0x83);
    }
  }
  for (uint64_t vector = 0; vector < 256; ++vector) {
    memory->store<uint64_t>(Gpa{0x1000 + vector * 16},
                            kHandler | uint64_t{8} << 16 | uint64_t{0x8e00} << 32);
  }
  return memory;
}

inline VcpuState start_state(bool with_avx = false) {
  VcpuState state = reset_state();
  for (Segment& segment : state.segments) segment = {0, 0xffff'ffff, 0xc093, 16};
  state.segments[kCs] = {0, 0xffff'ffff, 0xa09b, 8};
  state.gdtr = {0x500, 23};
  state.idtr = {0x1000, 4095};
  state.cr0 = 0x8000'0033;
  state.cr3 = 0x2000;
  state.cr4 = with_avx ? 0x40620 : 0x620;
  state.xcr0 = with_avx ? 7 : 1;
  state.efer = 0x500;
  state.apic_base = 0xfee0'0d00;  // x2APIC
  state.rip = kCode;
  state.gpr[kRsp] = 0xf000;
  return state;
}

// A port write to 0xf4 ends run(); everything is counted.
class Sink final : public IoSink {
 public:
  uint64_t mmio_read(Gpa, Width width) override { return all_ones(width); }
  void mmio_write(Gpa gpa, Width, uint64_t) override { ++mmio_writes[gpa.raw()]; }
  uint32_t pio_read(Port, Width width) override { return static_cast<uint32_t>(all_ones(width)); }
  void pio_write(Port port, Width, uint32_t) override {
    if (port != Port(0xf4)) return;
    ++reports;
    vcpu->kick();
  }
  AccelVcpu* vcpu = nullptr;
  int reports = 0;
  std::map<uint64_t, int> mmio_writes;
};

enum class Engine { KvmKernelChips, KvmSplitChips, Soft };

struct Machine {
  Machine(GuestMemory& memory, Engine engine) {
    if (engine == Engine::Soft) {
      vm = std::move(soft::create_vm(memory, clock, {})).value();
    } else {
      kvm::KvmConfig config;
      config.irqchip =
          engine == Engine::KvmSplitChips ? kvm::IrqchipKind::Split : kvm::IrqchipKind::Kernel;
      auto created = kvm::create_vm(memory, clock, config);
      if (!created) ADD_FAILURE() << created.error().message;
      vm = std::move(created).value();
    }
    vcpu = std::move(vm->create_vcpu(VcpuId(0), sink)).value();
    sink.vcpu = vcpu.get();
  }
  ~Machine() { vcpu.reset(); }

  // A figure of --stats, or 0.
  uint64_t stat(std::string_view name) const {
    for (const Stat& stat : vcpu->stats()) {
      if (stat.name == name) return stat.value;
    }
    return 0;
  }

  HostClock clock;
  Sink sink;
  std::unique_ptr<AccelVm> vm;
  std::unique_ptr<AccelVcpu> vcpu;
};

}  // namespace trapeze
