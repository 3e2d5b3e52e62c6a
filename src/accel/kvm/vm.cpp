#include "accel/kvm/vm.h"

#include <mutex>

#include "accel/kvm/chip_state.h"
#include "accel/kvm/cpuid.h"
#include "accel/kvm/ioctl.h"
#include "accel/kvm/routes.h"
#include "accel/kvm/split_chips.h"
#include "accel/kvm/vcpu.h"
#include "arch/x86/layout.h"
#include "base/log.h"

namespace trapeze::kvm {
namespace {

// Three pages that VT-x without "unrestricted guest" needs, and one for its identity map; in the
// hole, behind the local APIC.
constexpr uint64_t kTssPages = 0xfeff'd000;
constexpr uint64_t kIdentityMapPage = 0xfeff'c000;

class KvmVm final : public AccelVm {
 public:
  KvmVm(KvmDevice device, Fd vm, GuestMemory& memory, const Clock& clock, const KvmConfig& config)
      : device_(std::move(device)),
        vm_(std::move(vm)),
        memory_(memory),
        clock_(clock),
        config_(config),
        facts_(read_host_facts()),
        kind_(classify(facts_)),
        routes_(vm_, static_cast<uint32_t>(device_.capability(KVM_CAP_IRQ_ROUTING))) {}

  Result<void> set_up() {
    TRY(install_kick_handler());
    supported_ = TRY(device_.supported_cpuid());
    TRY(check_size());
    TRY(map_memory());
    TRY(create_chips());
    TRY(set_options());
    return {};
  }

  Result<std::unique_ptr<AccelVcpu>> create_vcpu(VcpuId id, IoSink& io) override {
    CHECK(id.raw() < config_.vcpu_count);
    VcpuParts parts;
    parts.device = &device_;
    parts.vm = &vm_;
    parts.memory = &memory_;
    parts.chips = chips_.get();
    parts.supported_cpuid = supported_;
    parts.cpuid_policy = policy();
    const int xsave_bytes = ::ioctl(vm_.get(), KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
    parts.xsave_bytes = xsave_bytes > 0 ? static_cast<size_t>(xsave_bytes) : 0;
    parts.on_gone = [this](VcpuId gone) { forget(gone); };
    auto vcpu = TRY(KvmVcpu::create(id, io, parts));
    if (id.raw() == 0) {
      const std::lock_guard lock(bsp_mutex_);
      bsp_ = vcpu.get();
    }
    return std::unique_ptr<AccelVcpu>(std::move(vcpu));
  }

  void set_irq_level(Gsi gsi, bool asserted) override {
    if (chips_) return chips_->set_irq_level(gsi, asserted);
    // Not wired on this board: 0 is behind the 8254, 2 is its pin.
    if (gsi.raw() == 0 || gsi.raw() == 2 || gsi.raw() >= kWires) return;
    kvm_irq_level level{};
    level.irq = gsi.raw();
    level.level = asserted ? 1 : 0;
    ::ioctl(vm_.get(), KVM_IRQ_LINE, &level);  // has no error that a device could act on
  }

  void send_msi(const MsiMessage& message) override {
    kvm_msi request{};
    request.address_lo = static_cast<uint32_t>(message.address);
    request.address_hi = static_cast<uint32_t>(message.address >> 32);
    request.data = message.data;
    ::ioctl(vm_.get(), KVM_SIGNAL_MSI, &request);  // refuses what is no MSI address
  }

  std::unique_ptr<MsiEvent> create_msi_event() override {
    return has_irqfd_ ? create_irqfd(vm_, routes_) : nullptr;
  }

  Result<AccelVmState> save() const override {
    AccelVmState state;
    state.chips = chips_ ? chips_->save() : TRY(save_kernel_chips());
    if (device_.capability(KVM_CAP_ADJUST_CLOCK) > 0) {
      kvm_clock_data clock{};
      TRY(KVM_CALL(vm_, KVM_GET_CLOCK, &clock));
      state.clock_ns = clock.clock;
    }
    state.tsc_khz = tsc_khz_;
    return state;
  }

  Result<void> restore(const AccelVmState& state) override {
    TRY(check_tsc_speed(state.tsc_khz, tsc_khz_));
    if (chips_) {
      chips_->restore(state.chips);
    } else {
      TRY(restore_kernel_chips(state.chips));
    }
    if (device_.capability(KVM_CAP_ADJUST_CLOCK) > 0) {
      kvm_clock_data clock{};
      clock.clock = state.clock_ns;
      TRY(KVM_CALL(vm_, KVM_SET_CLOCK, &clock));
    }
    return {};
  }

  bool bind_doorbell(const DoorbellPlace& place, const Fd& event) override {
    return set_doorbell(place, event, 0);
  }
  void unbind_doorbell(const DoorbellPlace& place, const Fd& event) override {
    set_doorbell(place, event, KVM_IOEVENTFD_FLAG_DEASSIGN);
  }
  // AMD-V says port and width of an OUT, but for a store to memory KVM fetches and decodes the
  // instruction; VT-x has a shorter way for stores that nobody decodes (KVM_FAST_MMIO_BUS).
  bool prefers_port_doorbells() const override {
    return has_doorbells_ && kind_ == HostKind::Hardware && facts_.cpu_has_svm;
  }

 private:
  bool set_doorbell(const DoorbellPlace& place, const Fd& event, uint32_t flags) {
    if (!has_doorbells_) return false;
    kvm_ioeventfd request{};
    request.addr = place.address;
    request.len = 0;  // any width
    request.fd = event.get();
    request.flags = flags;
    if (place.space == DoorbellPlace::Space::Ports) request.flags |= KVM_IOEVENTFD_FLAG_PIO;
    return ::ioctl(vm_.get(), KVM_IOEVENTFD, &request) == 0;
  }

  CpuidPolicy policy() const {
    CpuidPolicy policy;
    policy.kind = kind_;
    policy.vcpu_count = config_.vcpu_count;
    policy.has_tsc_deadline = device_.capability(KVM_CAP_TSC_DEADLINE_TIMER) > 0;
    policy.mwait_in_guest = mwait_in_guest_;
    policy.tsc_khz = tsc_khz_;
    if (kind_ == HostKind::Pvm) policy.max_phys_bits = kPvmMaxPhysBits;
    return policy;
  }

  Result<void> check_size() {
    const int limit = device_.max_vcpus();
    if (config_.vcpu_count > static_cast<unsigned>(limit)) {
      return fail("--cpus {}: KVM on this host runs at most {} in one VM", config_.vcpu_count,
                  limit);
    }
    unsigned bits = phys_bits(supported_);
    if (kind_ == HostKind::Pvm) bits = std::min(bits, kPvmMaxPhysBits);
    const uint64_t top = layout::pci_mmio64(memory_.size_bytes(), memory_.file_bytes()).end().raw();
    if (bits < 64 && top > uint64_t{1} << bits) {
      return fail(
          "--memory: {} MiB need physical addresses up to {:#x}, a guest on this host has {} "
          "bits of them",
          memory_.size_bytes() / MiB, top, bits);
    }
    const int slots = device_.capability(KVM_CAP_NR_MEMSLOTS);
    if (slots > 0 && memory_.regions().size() > static_cast<size_t>(slots)) {
      return fail("KVM has {} memory slots, {} are needed", slots, memory_.regions().size());
    }
    return {};
  }

  Result<void> map_memory() {
    uint32_t slot = 0;
    for (const GpaRange& range : memory_.regions()) {
      kvm_userspace_memory_region region{};
      region.slot = slot++;
      region.guest_phys_addr = range.start.raw();
      region.memory_size = range.size;
      region.userspace_addr = reinterpret_cast<uintptr_t>(memory_.host_base()) + range.start.raw();
      const auto set = KVM_CALL(vm_, KVM_SET_USER_MEMORY_REGION, &region);
      if (!set) {
        return fail("--memory: KVM does not take {} MiB at {:#x}: {}", range.size / MiB,
                    range.start.raw(), set.error().message);
      }
    }
    return {};
  }

  Result<void> create_chips() {
    if (kind_ == HostKind::Hardware) {
      const uint64_t identity_map = kIdentityMapPage;
      TRY(KVM_CALL(vm_, KVM_SET_IDENTITY_MAP_ADDR, &identity_map));
      TRY(KVM_CALL(vm_, KVM_SET_TSS_ADDR, kTssPages));
    }
    switch (config_.irqchip) {
      case IrqchipKind::Kernel:
        return create_kernel_chips();
      case IrqchipKind::Split:
        return create_split_chips();
    }
    return {};
  }

  Result<void> create_kernel_chips() {
    if (device_.capability(KVM_CAP_PIT2) == 0) {
      return fail("this host's KVM has no 8254 (KVM_CAP_PIT2): use --irqchip split");
    }
    TRY(KVM_CALL(vm_, KVM_CREATE_IRQCHIP, 0));
    kvm_pit_config pit{};
    pit.flags = KVM_PIT_SPEAKER_DUMMY;  // port 0x61 in the kernel too
    TRY(KVM_CALL(vm_, KVM_CREATE_PIT2, &pit));
    return routes_.set_wires(kernel_chip_routes());
  }

  Result<void> create_split_chips() {
    if (device_.capability(KVM_CAP_SPLIT_IRQCHIP) == 0) {
      return fail("--irqchip split: this host's KVM cannot (KVM_CAP_SPLIT_IRQCHIP); use kernel");
    }
    TRY(enable(KVM_CAP_SPLIT_IRQCHIP, kWires, "KVM_CAP_SPLIT_IRQCHIP"));
    chips_ = std::make_unique<SplitChips>(vm_, routes_, clock_, [this] { poke_bsp(); });
    return {};
  }

  Result<kvm_irqchip> get_chip(uint32_t id) const {
    kvm_irqchip chip{};
    chip.chip_id = id;
    TRY(KVM_CALL(vm_, KVM_GET_IRQCHIP, &chip));
    return chip;
  }

  Result<IrqChipsState> save_kernel_chips() const {
    IrqChipsState state;
    state.pic.primary = from_kvm(TRY(get_chip(KVM_IRQCHIP_PIC_MASTER)).chip.pic, true);
    state.pic.secondary = from_kvm(TRY(get_chip(KVM_IRQCHIP_PIC_SLAVE)).chip.pic, false);
    state.ioapic = from_kvm(TRY(get_chip(KVM_IRQCHIP_IOAPIC)).chip.ioapic);
    kvm_pit_state2 pit{};
    TRY(KVM_CALL(vm_, KVM_GET_PIT2, &pit));
    state.pit = from_kvm(pit, clock_.monotonic_ns());
    return state;
  }

  Result<void> restore_kernel_chips(const IrqChipsState& state) {
    kvm_irqchip primary = TRY(get_chip(KVM_IRQCHIP_PIC_MASTER));
    primary.chip.pic = to_kvm(state.pic.primary, primary.chip.pic, true);
    TRY(KVM_CALL(vm_, KVM_SET_IRQCHIP, &primary));
    kvm_irqchip secondary = TRY(get_chip(KVM_IRQCHIP_PIC_SLAVE));
    secondary.chip.pic = to_kvm(state.pic.secondary, secondary.chip.pic, false);
    TRY(KVM_CALL(vm_, KVM_SET_IRQCHIP, &secondary));
    kvm_irqchip ioapic{};
    ioapic.chip_id = KVM_IRQCHIP_IOAPIC;
    ioapic.chip.ioapic = to_kvm(state.ioapic);
    TRY(KVM_CALL(vm_, KVM_SET_IRQCHIP, &ioapic));
    const kvm_pit_state2 pit = to_kvm(state.pit);
    TRY(KVM_CALL(vm_, KVM_SET_PIT2, &pit));
    return {};
  }

  Result<void> set_options() {
    if (device_.capability(KVM_CAP_X2APIC_API) > 0) {
      TRY(enable(KVM_CAP_X2APIC_API,
                 KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK,
                 "KVM_CAP_X2APIC_API"));
    }
    if (config_.cpu_pm) TRY(give_cpu_away());
    if (config_.halt_poll_ns) {
      if (device_.capability(KVM_CAP_HALT_POLL) == 0) {
        return fail("--halt-poll: this host's KVM cannot (KVM_CAP_HALT_POLL)");
      }
      TRY(enable(KVM_CAP_HALT_POLL, *config_.halt_poll_ns, "KVM_CAP_HALT_POLL"));
    }
    if (device_.capability(KVM_CAP_GET_TSC_KHZ) > 0) {
      // A VM knows since Linux 5.16; without it the guest asks kvmclock.
      const int khz = ::ioctl(vm_.get(), KVM_GET_TSC_KHZ, 0);
      if (khz > 0) tsc_khz_ = static_cast<uint32_t>(khz);
    }
    return {};
  }

  Result<void> give_cpu_away() {
    const auto possible = static_cast<uint32_t>(device_.capability(KVM_CAP_X86_DISABLE_EXITS));
    const uint32_t wanted =
        KVM_X86_DISABLE_EXITS_MWAIT | KVM_X86_DISABLE_EXITS_HLT | KVM_X86_DISABLE_EXITS_PAUSE;
    if ((possible & wanted & ~uint32_t{KVM_X86_DISABLE_EXITS_MWAIT}) == 0) {
      return fail(
          "--cpu-pm: this host's KVM cannot leave HLT and PAUSE to the guest "
          "(KVM_CAP_X86_DISABLE_EXITS: {:#x})",
          possible);
    }
    mwait_in_guest_ = (possible & KVM_X86_DISABLE_EXITS_MWAIT) != 0;
    return enable(KVM_CAP_X86_DISABLE_EXITS, possible & wanted, "KVM_CAP_X86_DISABLE_EXITS");
  }

  Result<void> enable(uint32_t capability, uint64_t argument, const char* name) {
    kvm_enable_cap request{};
    request.cap = capability;
    request.args[0] = argument;
    if (::ioctl(vm_.get(), KVM_ENABLE_CAP, &request) < 0) return fail_errno("{}", name);
    return {};
  }

  void poke_bsp() {
    const std::lock_guard lock(bsp_mutex_);
    if (bsp_ != nullptr) bsp_->poke();
  }
  void forget(VcpuId id) {
    if (id.raw() != 0) return;
    const std::lock_guard lock(bsp_mutex_);
    bsp_ = nullptr;
  }

  const KvmDevice device_;
  const Fd vm_;
  GuestMemory& memory_;
  const Clock& clock_;
  const KvmConfig config_;
  const HostFacts facts_;
  const HostKind kind_;
  const bool has_irqfd_ = device_.capability(KVM_CAP_IRQFD) > 0;
  const bool has_doorbells_ = device_.capability(KVM_CAP_IOEVENTFD) > 0 &&
                              device_.capability(KVM_CAP_IOEVENTFD_ANY_LENGTH) > 0;
  std::vector<kvm_cpuid_entry2> supported_;
  uint32_t tsc_khz_ = 0;
  bool mwait_in_guest_ = false;
  RouteTable routes_;
  std::mutex bsp_mutex_;
  KvmVcpu* bsp_ = nullptr;  // guarded by bsp_mutex_; owned by the caller of create_vcpu()
  std::unique_ptr<SplitChips> chips_;
};

}  // namespace

Result<std::unique_ptr<AccelVm>> create_vm(GuestMemory& memory, const Clock& clock,
                                           const KvmConfig& config) {
  auto device = TRY(KvmDevice::open(config.device_path));
  auto fd = TRY(device.create_vm());
  auto vm = std::make_unique<KvmVm>(std::move(device), std::move(fd), memory, clock, config);
  TRY(vm->set_up());
  return std::unique_ptr<AccelVm>(std::move(vm));
}

}  // namespace trapeze::kvm
