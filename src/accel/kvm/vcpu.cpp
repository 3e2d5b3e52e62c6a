#include "accel/kvm/vcpu.h"

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bit>
#include <cstring>

#include "accel/kvm/ioctl.h"
#include "accel/kvm/msrs.h"
#include "accel/kvm/uapi.h"
#include "base/log.h"

namespace trapeze::kvm {
namespace {

int kick_signal() { return SIGRTMIN; }

// Enabled, fixed ranges enabled, default type write-back: there is no firmware that would do it.
constexpr uint64_t kMtrrsWriteBack = 0xc06;
constexpr uint64_t kFastStrings = 1;

}  // namespace

Result<void> install_kick_handler() {
  struct sigaction action {};
  action.sa_handler = [](int) {};
  // KVM_RUN says EINTR all the same; a device's system call on the vCPU's thread goes on.
  action.sa_flags = SA_RESTART;
  if (::sigaction(kick_signal(), &action, nullptr) != 0) return fail_errno("sigaction");
  return {};
}

Result<std::unique_ptr<KvmVcpu>> KvmVcpu::create(VcpuId id, IoSink& io, const VcpuParts& parts) {
  const auto number = KVM_CALL(*parts.vm, KVM_CREATE_VCPU, static_cast<unsigned long>(id.raw()));
  if (!number) return fail("vCPU {}: {}", id.raw(), number.error().message);
  Fd fd(*number);
  auto page = TRY(Mapping::create(parts.device->vcpu_mmap_bytes(), PROT_READ | PROT_WRITE,
                                  MAP_SHARED, fd.get(), 0, "a vCPU's kvm_run"));
  std::unique_ptr<KvmVcpu> vcpu(new KvmVcpu(id, io, parts, std::move(fd), std::move(page)));
  TRY(vcpu->set_up());
  return vcpu;
}

KvmVcpu::KvmVcpu(VcpuId id, IoSink& io, VcpuParts parts, Fd fd, Mapping run_page)
    : id_(id),
      io_(io),
      parts_(std::move(parts)),
      fd_(std::move(fd)),
      run_page_(std::move(run_page)),
      run_(reinterpret_cast<kvm_run*>(run_page_.data())),
      has_xcrs_(parts_.device->capability(KVM_CAP_XCRS) > 0) {}

KvmVcpu::~KvmVcpu() { parts_.on_gone(id_); }

Result<void> KvmVcpu::set_up() {
  const auto entries = guest_cpuid(parts_.supported_cpuid, parts_.cpuid_policy, id_);
  CpuidTable table{std::span<const kvm_cpuid_entry2>(entries)};
  TRY(kvm_ioctl(fd_, kSetCpuid2, "KVM_SET_CPUID2", table.header()));
  // A PVM guest takes its memory types from its host.
  if (parts_.cpuid_policy.kind == HostKind::Pvm) return {};
  return write_msrs({{kMsrMtrrDefType, kMtrrsWriteBack}, {kMsrMiscEnable, kFastStrings}});
}

void KvmVcpu::kick() {
  kicked_.store(true, std::memory_order_release);
  poke();
}

void KvmVcpu::poke() {
  // The flag, then the thread: run() sets the thread, then KVM reads the flag. One sees the other.
  __atomic_store_n(&run_->immediate_exit, uint8_t{1}, __ATOMIC_SEQ_CST);
  const pid_t thread = thread_.load(std::memory_order_seq_cst);
  if (thread != 0) ::syscall(SYS_tgkill, ::getpid(), thread, kick_signal());
}

ExitReason KvmVcpu::run() {
  thread_.store(::gettid(), std::memory_order_seq_cst);
  const auto leave = [this](ExitReason reason) {
    thread_.store(0, std::memory_order_seq_cst);
    return reason;
  };
  for (;;) {
    offer_extint();
    if (::ioctl(fd_.get(), KVM_RUN, 0) < 0) {
      const int os_error = errno;
      // EAGAIN: a vCPU that waits for its SIPI was woken.
      if (os_error != EINTR && os_error != EAGAIN) {
        fail_with("KVM_RUN: " + errno_text(os_error));
        return leave(ExitReason::AccelError);
      }
      counters_.count_interrupted();
      // By now KVM has taken the result of the access before, so the state is complete. The flag
      // goes down before the kick is looked at: one that comes in between is seen at the next turn.
      __atomic_store_n(&run_->immediate_exit, uint8_t{0}, __ATOMIC_SEQ_CST);
      if (kicked_.exchange(false, std::memory_order_acquire)) return leave(ExitReason::Kicked);
      continue;
    }
    switch (handle_exit()) {
      case Next::Enter:
        break;
      case Next::TripleFault:
        return leave(ExitReason::TripleFault);
      case Next::Error:
        return leave(ExitReason::AccelError);
    }
  }
}

KvmVcpu::Next KvmVcpu::handle_exit() {
  counters_.count(run_->exit_reason);
  switch (run_->exit_reason) {
    case KVM_EXIT_IO:
      handle_io();
      return Next::Enter;
    case KVM_EXIT_MMIO:
      handle_mmio();
      return Next::Enter;
    case KVM_EXIT_IOAPIC_EOI:
      if (parts_.chips != nullptr) parts_.chips->eoi(run_->eoi.vector);
      return Next::Enter;
    case KVM_EXIT_IRQ_WINDOW_OPEN:  // offer_extint() comes next
    case KVM_EXIT_INTR:
    case KVM_EXIT_NMI:
    case KVM_EXIT_SET_TPR:
    case KVM_EXIT_TPR_ACCESS:
    case KVM_EXIT_X86_BUS_LOCK:
    case KVM_EXIT_NOTIFY:
      return Next::Enter;
    case KVM_EXIT_HYPERCALL:
      run_->hypercall.ret = static_cast<uint64_t>(-1000);  // KVM_ENOSYS
      return Next::Enter;
    case KVM_EXIT_X86_RDMSR:
    case KVM_EXIT_X86_WRMSR:
      run_->msr.error = 1;  // #GP, as without a filter
      return Next::Enter;
    case KVM_EXIT_SHUTDOWN:
      return Next::TripleFault;
    case KVM_EXIT_HLT:
      return fail_with("HLT came out of KVM, although the local APIC is in the kernel");
    default:
      return fail_with(describe_exit(*run_));
  }
}

void KvmVcpu::handle_io() {
  const auto& io = run_->io;
  counters_.count_port(io.port);
  std::byte* data = run_page_.data() + io.data_offset;
  const Port port(io.port);
  const auto width = static_cast<Width>(io.size);
  // A repeated string instruction comes with all its elements.
  for (uint32_t i = 0; i < io.count; ++i, data += io.size) {
    uint32_t value = 0;
    if (io.direction == KVM_EXIT_IO_IN) {
      const bool is_chip = parts_.chips != nullptr && parts_.chips->pio_read(port, width, value);
      if (!is_chip) value = io_.pio_read(port, width);
      std::memcpy(data, &value, io.size);
    } else {
      std::memcpy(&value, data, io.size);
      const bool is_chip = parts_.chips != nullptr && parts_.chips->pio_write(port, width, value);
      if (!is_chip) io_.pio_write(port, width, value);
    }
  }
}

void KvmVcpu::handle_mmio() {
  auto& mmio = run_->mmio;
  counters_.count_page(mmio.phys_addr);
  const std::span<std::byte> data(reinterpret_cast<std::byte*>(mmio.data),
                                  std::min<size_t>(mmio.len, sizeof(mmio.data)));
  // An access that crosses a page comes in parts of any length: 1 to 8 bytes.
  size_t done = 0;
  while (done < data.size()) {
    const size_t size = std::bit_floor(data.size() - done);
    const Gpa gpa(mmio.phys_addr + done);
    const auto width = static_cast<Width>(size);
    uint64_t value = 0;
    if (mmio.is_write != 0) {
      std::memcpy(&value, data.data() + done, size);
      const bool is_chip = parts_.chips != nullptr && parts_.chips->mmio_write(gpa, width, value);
      if (!is_chip) io_.mmio_write(gpa, width, value);
    } else {
      const bool is_chip = parts_.chips != nullptr && parts_.chips->mmio_read(gpa, width, value);
      if (!is_chip) value = io_.mmio_read(gpa, width);
      std::memcpy(data.data() + done, &value, size);
    }
    done += size;
  }
}

// Split irqchip: the 8259s are here, and their interrupts go to the bootstrap processor by hand.
void KvmVcpu::offer_extint() {
  if (parts_.chips == nullptr || id_.raw() != 0) return;
  if (parts_.chips->extint_pending() && run_->ready_for_interrupt_injection != 0) {
    kvm_interrupt interrupt{};
    interrupt.irq = parts_.chips->acknowledge();
    // Fails only when KVM has one already, which ready_for_interrupt_injection excludes.
    ::ioctl(fd_.get(), KVM_INTERRUPT, &interrupt);
    run_->ready_for_interrupt_injection = 0;
  }
  run_->request_interrupt_window = parts_.chips->extint_pending() ? 1 : 0;
}

KvmVcpu::Next KvmVcpu::fail_with(std::string what) {
  error_ = std::move(what);
  if (run_->exit_reason == KVM_EXIT_INTERNAL_ERROR && parts_.cpuid_policy.kind == HostKind::Pvm) {
    error_ +=
        "; this is a PVM host: it runs PVM-enlightened kernels only, others need --accel soft";
  }
  error_ += "\n" + dump();
  return Next::Error;
}

}  // namespace trapeze::kvm
