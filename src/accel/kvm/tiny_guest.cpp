#include "accel/kvm/tiny_guest.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <cstring>

#include "accel/kvm/cpuid.h"
#include "accel/kvm/ioctl.h"
#include "accel/kvm/state.h"
#include "accel/kvm/uapi.h"
#include "accel/kvm/vcpu.h"

namespace trapeze::kvm {
namespace {

// Page tables: 4 GiB in pages of 2 MiB, the board's boot tables in small.
constexpr uint64_t kGdt = 0x500;
constexpr uint64_t kIdt = 0x1000;
constexpr uint64_t kPml4 = 0x2000;
constexpr uint64_t kPdpt = 0x3000;
constexpr uint64_t kPageDirectories = 0x4000;  // four

constexpr uint64_t kPresentWritable = 3;
constexpr uint64_t kLargePage = 1U << 7;

// Sends the kick signal to this thread when the time is over, again and again: the first may come
// just before KVM_RUN.
class Watchdog {
 public:
  explicit Watchdog(std::chrono::milliseconds limit) {
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGRTMIN;
    event._sigev_un._tid = ::gettid();
    if (::timer_create(CLOCK_MONOTONIC, &event, &timer_) != 0) return;
    itimerspec when{};
    when.it_value.tv_sec = limit.count() / 1000;
    when.it_value.tv_nsec = limit.count() % 1000 * 1'000'000;
    when.it_interval.tv_nsec = 1'000'000;
    is_armed_ = ::timer_settime(timer_, 0, &when, nullptr) == 0;
  }
  ~Watchdog() {
    if (is_armed_) ::timer_delete(timer_);
  }
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;
  bool is_armed() const { return is_armed_; }

 private:
  timer_t timer_{};
  bool is_armed_ = false;
};

}  // namespace

Result<std::unique_ptr<TinyGuest>> TinyGuest::create(std::span<const uint8_t> code,
                                                     std::span<const uint8_t> handler) {
  auto device = TRY(KvmDevice::open());
  TRY(install_kick_handler());
  auto vm = TRY(device.create_vm());
  auto memory = TRY(Mapping::anonymous(kMemoryBytes, "a tiny guest"));
  std::unique_ptr<TinyGuest> guest(
      new TinyGuest(std::move(device), std::move(vm), std::move(memory)));
  TRY(guest->set_up(code, handler));
  return guest;
}

Result<void> TinyGuest::set_up(std::span<const uint8_t> code, std::span<const uint8_t> handler) {
  CHECK(code.size() <= kHandler - kCode && handler.size() <= 0x1000);
  std::memcpy(memory_.data() + kCode, code.data(), code.size());
  std::memcpy(memory_.data() + kHandler, handler.data(), handler.size());
  write_tables();
  kvm_userspace_memory_region region{};
  region.memory_size = kMemoryBytes;
  region.userspace_addr = reinterpret_cast<uintptr_t>(memory_.data());
  TRY(KVM_CALL(vm_, KVM_SET_USER_MEMORY_REGION, &region));
  if (classify(read_host_facts()) == HostKind::Hardware) {
    TRY(KVM_CALL(vm_, KVM_SET_TSS_ADDR, 0xfeff'd000UL));
  }
  TRY(KVM_CALL(vm_, KVM_CREATE_IRQCHIP, 0));
  vcpu_ = Fd(TRY(KVM_CALL(vm_, KVM_CREATE_VCPU, 0UL)));
  run_page_ = TRY(Mapping::create(device_.vcpu_mmap_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED,
                                  vcpu_.get(), 0, "a vCPU's kvm_run"));
  return set_registers();
}

void TinyGuest::write_tables() {
  const auto store = [this](uint64_t at, uint64_t value) {
    std::memcpy(memory_.data() + at, &value, sizeof(value));
  };
  store(kGdt + 8, 0x00af'9b00'0000'ffff);   // 64-bit code
  store(kGdt + 16, 0x00cf'9300'0000'ffff);  // data
  store(kPml4, kPdpt | kPresentWritable);
  for (uint64_t i = 0; i < 4; ++i) {
    const uint64_t directory = kPageDirectories + i * 0x1000;
    store(kPdpt + i * 8, directory | kPresentWritable);
    for (uint64_t j = 0; j < 512; ++j) {
      store(directory + j * 8, (i * 512 + j) << 21 | kPresentWritable | kLargePage);
    }
  }
  // 64-bit interrupt gates (SDM 3A 6.14.1).
  for (uint64_t vector = 0; vector < 256; ++vector) {
    store(kIdt + vector * 16, (kHandler & 0xffff) | 8U << 16 | uint64_t{0x8e00} << 32);
    store(kIdt + vector * 16 + 8, 0);
  }
}

Result<void> TinyGuest::set_registers() {
  CpuidPolicy policy;
  policy.kind = classify(read_host_facts());
  const auto supported = TRY(device_.supported_cpuid());
  const auto entries = guest_cpuid(supported, policy, VcpuId(0));
  CpuidTable table{std::span<const kvm_cpuid_entry2>(entries)};
  TRY(kvm_ioctl(vcpu_, kSetCpuid2, "KVM_SET_CPUID2", table.header()));

  VcpuState state = reset_state();
  const Segment data{0, 0xffff'ffff, 0xc093, 16};
  for (Segment& segment : state.segments) segment = data;
  state.segments[kCs] = {0, 0xffff'ffff, 0xa09b, 8};
  state.gdtr = {kGdt, 23};
  state.idtr = {kIdt, 4095};
  state.cr0 = 0x8000'0033;
  state.cr3 = kPml4;
  state.cr4 = 0x620;
  state.efer = 0x500;
  state.apic_base = 0xfee0'0d00;  // x2APIC
  state.rip = kCode;
  state.gpr[kRsp] = kStack;
  const kvm_sregs sregs = sregs_of(state);
  TRY(KVM_CALL(vcpu_, KVM_SET_SREGS, &sregs));
  const kvm_regs regs = regs_of(state);
  TRY(KVM_CALL(vcpu_, KVM_SET_REGS, &regs));
  kvm_lapic_state lapic{};
  TRY(KVM_CALL(vcpu_, KVM_GET_LAPIC, &lapic));
  const uint32_t spurious = 0x1ff;  // software-enabled
  std::memcpy(lapic.regs + 0xf0, &spurious, sizeof(spurious));
  TRY(KVM_CALL(vcpu_, KVM_SET_LAPIC, &lapic));
  return {};
}

Result<kvm_run*> TinyGuest::run(std::chrono::milliseconds limit) {
  const Watchdog watchdog(limit);
  if (!watchdog.is_armed()) return fail_errno("timer_create");
  if (::ioctl(vcpu_.get(), KVM_RUN, 0) == 0) return reinterpret_cast<kvm_run*>(run_page_.data());
  if (errno == EINTR) return static_cast<kvm_run*>(nullptr);
  return fail_errno("KVM_RUN");
}

Result<kvm_regs> TinyGuest::registers() const {
  kvm_regs regs{};
  TRY(KVM_CALL(vcpu_, KVM_GET_REGS, &regs));
  return regs;
}

}  // namespace trapeze::kvm
