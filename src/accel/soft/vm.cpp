#include "accel/soft/vm.h"

#include <vector>

#include "accel/soft/host_cpu.h"
#include "accel/soft/mmu/code_map.h"
#include "accel/soft/timers.h"
#include "accel/soft/vcpu.h"
#include "irq/chip/apic_bus.h"
#include "irq/chip/irq_chips.h"

namespace trapeze::soft {
namespace {

class SoftVm final : public AccelVm, private VcpuHost, private IrqChipsHost {
 public:
  SoftVm(GuestMemory& memory, const Clock& clock, CpuModel model, std::unique_ptr<CodeMap> code_map,
         unsigned vcpu_count, bool translate)
      : memory_(memory),
        clock_(clock),
        model_(std::move(model)),
        code_map_(std::move(code_map)),
        chips_(clock, apic_bus_, *this),
        vcpus_(vcpu_count),
        tsc_zero_ns_(clock.monotonic_ns()),
        translate_(translate),
        timers_(clock, vcpu_count + 1,
                [this](size_t slot, uint64_t now_ns) { timer_expired(slot, now_ns); }) {}

  // vCPUs have died before (they are the caller's), so nobody else uses the chips any more.
  ~SoftVm() override = default;

  Result<std::unique_ptr<AccelVcpu>> create_vcpu(VcpuId id, IoSink& io) override {
    CHECK(id.raw() < vcpus_.size() && vcpus_[id.raw()] == nullptr);
    VcpuWiring wiring{};
    wiring.memory = &memory_;
    wiring.clock = &clock_;
    wiring.model = &model_;
    wiring.code_map = code_map_.get();
    wiring.chips = &chips_;
    wiring.apic_bus = &apic_bus_;
    wiring.host = this;
    wiring.tsc_zero_ns = tsc_zero_ns_;
    wiring.translate = translate_;
    auto vcpu = TRY(SoftVcpu::create(id, io, wiring));
    vcpus_[id.raw()] = vcpu.get();
    return std::unique_ptr<AccelVcpu>(std::move(vcpu));
  }

  void set_irq_level(Gsi gsi, bool asserted) override { chips_.set_irq_level(gsi, asserted); }
  void send_msi(const MsiMessage& message) override { chips_.send_msi(message); }

  Result<AccelVmState> save() const override {
    AccelVmState state;
    state.chips = chips_.save();
    state.clock_ns = clock_.monotonic_ns() - tsc_zero_ns_ + kvm_clock_offset_ns_;
    state.tsc_khz = kTscKhz;
    return state;
  }
  Result<void> restore(const AccelVmState& state) override {
    TRY(check_tsc_speed(state.tsc_khz, kTscKhz));
    chips_.restore(state.chips);
    kvm_clock_offset_ns_ = state.clock_ns - (clock_.monotonic_ns() - tsc_zero_ns_);
    for (SoftVcpu* vcpu : vcpus_) {
      if (vcpu != nullptr) vcpu->set_kvm_clock_offset(kvm_clock_offset_ns_);
    }
    return {};
  }

 private:
  size_t chips_slot() const { return vcpus_.size(); }

  void timer_expired(size_t slot, uint64_t now_ns) {
    if (slot == chips_slot()) {
      chips_.run_timers(now_ns);
      timers_.set(slot, chips_.next_deadline_ns());
    } else if (vcpus_[slot] != nullptr) {
      vcpus_[slot]->timer_passed();
    }
  }

  // VcpuHost
  void send_ipi(const ApicMessage& message) override { apic_bus_.send(message); }
  void broadcast_eoi(uint8_t vector) override { chips_.eoi(vector); }
  void arm_timer(VcpuId id, std::optional<uint64_t> deadline_ns) override {
    timers_.set(id.raw(), deadline_ns);
  }
  void vcpu_gone(VcpuId id) override {
    timers_.retire(id.raw());
    timers_.retire(chips_slot());  // the PIT's interrupt reaches into vCPU 0
    vcpus_[id.raw()] = nullptr;
  }
  // IrqChipsHost
  void pic_output_changed(bool asserted) override {
    if (vcpus_[0] != nullptr) vcpus_[0]->lapic().set_lint0(asserted);
  }
  void deadline_changed() override { timers_.set(chips_slot(), chips_.next_deadline_ns()); }

  GuestMemory& memory_;
  const Clock& clock_;
  const CpuModel model_;
  std::unique_ptr<CodeMap> code_map_;
  ApicBus apic_bus_;
  IrqChips chips_;
  std::vector<SoftVcpu*> vcpus_;  // owned by the caller of create_vcpu()
  const uint64_t tsc_zero_ns_;
  uint64_t kvm_clock_offset_ns_ = 0;  // modulo 2^64; changes while no vCPU runs
  const bool translate_;
  TimerThread timers_;
};

}  // namespace

Result<std::unique_ptr<AccelVm>> create_vm(GuestMemory& memory, const Clock& clock,
                                           const SoftConfig& config) {
  const std::string_view name =
      config.cpu_model.empty() ? CpuModel::names().front() : std::string_view(config.cpu_model);
  CpuModel model = TRY(CpuModel::create(name, config.vcpu_count));
  if (const std::string lacking = missing_host_features(model); !lacking.empty()) {
    return fail("the CPU model {} needs a host CPU with {}; use --cpu {}", name, lacking,
                CpuModel::names().front());
  }
  auto code_map = TRY(CodeMap::create(memory));
  std::string missing;
  const bool can_translate = Translator::is_supported(&missing);
  if (config.exec == SoftExec::Translator && !can_translate) {
    return fail("the translator cannot run here: {}; use --soft-exec interpreter", missing);
  }
  const bool translate = can_translate && config.exec != SoftExec::Interpreter;
  return std::unique_ptr<AccelVm>(std::make_unique<SoftVm>(
      memory, clock, std::move(model), std::move(code_map), config.vcpu_count, translate));
}

}  // namespace trapeze::soft
