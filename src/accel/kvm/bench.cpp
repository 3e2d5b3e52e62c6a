#include "accel/kvm/bench.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include "accel/kvm/exits.h"
#include "accel/kvm/ioctl.h"
#include "accel/kvm/routes.h"
#include "accel/kvm/tiny_guest.h"
#include "base/clock.h"

namespace trapeze::kvm {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kLimit{2000};
constexpr uint64_t kEnoughNs = 100'000'000;
constexpr unsigned kBatch = 1000;  // kernel exits between two looks at the clock
constexpr uint8_t kVector = 0x40;

constexpr uint8_t kReportPort = 0xf4;
constexpr uint8_t kFault[] = {0xe6, 0xf5, 0xf4};  // out %al,$0xf5; hlt

// A thousand of `body`, then a port write that tells, for ever.
std::vector<uint8_t> batch_of(std::initializer_list<uint8_t> body) {
  std::vector<uint8_t> code{0xbe, 0xe8, 0x03, 0x00, 0x00,   // mov $1000,%esi
                            0xbf, 0x00, 0x00, 0x00, 0xe0};  // mov $0xe0000000,%edi
  const size_t loop = code.size();
  code.insert(code.end(), body);
  code.insert(code.end(), {0xff, 0xce});                                            // dec %esi
  code.insert(code.end(), {0x75, static_cast<uint8_t>(loop - (code.size() + 2))});  // jnz loop
  code.insert(code.end(), {0xe6, kReportPort});                                     // out %al,$0xf4
  code.insert(code.end(), {0xeb, static_cast<uint8_t>(0 - (code.size() + 2))});     // jmp start
  return code;
}

// Runs the guest from report to report until that took long enough; gives nanoseconds a report.
Result<double> time_reports(TinyGuest& guest, uint32_t reason) {
  const HostClock clock;
  uint64_t start = 0;
  // The first one pays for page tables and caches.
  for (uint64_t count = 0;; ++count) {
    const kvm_run* run = TRY(guest.run(kLimit));
    if (run == nullptr) return fail("nothing came within {} ms", kLimit.count());
    const bool is_fault = run->exit_reason == KVM_EXIT_IO && run->io.port != kReportPort;
    if (run->exit_reason != reason || is_fault) return fail("{}", describe_exit(*run));
    const uint64_t now = clock.monotonic_ns();
    if (count == 0) start = now;
    const uint64_t passed = now - start;
    if (count > 0 && passed >= kEnoughNs) {
      return static_cast<double>(passed) / static_cast<double>(count);
    }
  }
}

Result<double> time_kernel_exits(std::initializer_list<uint8_t> body, Fd* doorbell) {
  const auto guest = TRY(TinyGuest::create(batch_of(body), kFault));
  if (doorbell != nullptr) {
    kvm_ioeventfd request{};
    request.addr = TinyGuest::kUnbacked;
    request.fd = doorbell->get();
    TRY(KVM_CALL(guest->vm(), KVM_IOEVENTFD, &request));
  }
  const double batch_ns = TRY(time_reports(*guest, KVM_EXIT_IO));
  return batch_ns / kBatch;
}

// cpuid; the counter of the loop is in RSI, which CPUID leaves alone.
Result<double> entry_and_exit() { return time_kernel_exits({0x31, 0xc0, 0x0f, 0xa2}, nullptr); }

Result<double> doorbell() {
  Fd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event.is_open()) return fail_errno("eventfd");
  return time_kernel_exits({0x66, 0x89, 0x07}, &event);  // mov %ax,(%rdi)
}

Result<double> port_write() {
  constexpr uint8_t kCode[] = {0xe6, kReportPort, 0xeb, 0xfc};  // out %al,$0xf4; jmp
  const auto guest = TRY(TinyGuest::create(kCode, kFault));
  return time_reports(*guest, KVM_EXIT_IO);
}

Result<double> mmio_write() {
  constexpr uint8_t kCode[] = {0xbf, 0x00, 0x00, 0x00, 0xe0,  // mov $0xe0000000,%edi
                               0x89, 0x07, 0xeb, 0xfc};       // mov %eax,(%rdi); jmp
  const auto guest = TRY(TinyGuest::create(kCode, kFault));
  return time_reports(*guest, KVM_EXIT_MMIO);
}

// From the write to the eventfd to the report of the handler, which wakes the guest from HLT.
Result<double> interrupt() {
  constexpr uint8_t kCode[] = {0xfb, 0xf4, 0xeb, 0xfd};  // sti; hlt; jmp
  constexpr uint8_t kHandler[] = {
      0xe6, kReportPort,                    // out %al,$0xf4
      0xb9, 0x0b,        0x08, 0x00, 0x00,  // mov $0x80b,%ecx: EOI
      0x31, 0xc0,        0x31, 0xd2,        // xor %eax,%eax; xor %edx,%edx
      0x0f, 0x30,                           // wrmsr
      0x48, 0xcf,                           // iretq
  };
  const auto guest = TRY(TinyGuest::create(kCode, kHandler));
  RouteTable routes(guest->vm(), 4096);
  const auto irqfd = create_irqfd(guest->vm(), routes);
  const bool is_set = irqfd != nullptr && irqfd->set({0xfee0'0000, kVector});
  if (!is_set) return fail("no irqfd can be had");
  const HostClock clock;
  uint64_t sum = 0;
  uint64_t count = 0;
  for (const uint64_t begin = clock.monotonic_ns(); clock.monotonic_ns() - begin < kEnoughNs;) {
    const uint64_t start = clock.monotonic_ns();
    irqfd->signal();
    const kvm_run* run = TRY(guest->run(kLimit));
    if (run == nullptr) return fail("no interrupt came within {} ms", kLimit.count());
    const bool is_report = run->exit_reason == KVM_EXIT_IO && run->io.port == kReportPort;
    if (!is_report) return fail("{}", describe_exit(*run));
    sum += clock.monotonic_ns() - start;
    ++count;
  }
  return static_cast<double>(sum) / static_cast<double>(count);
}

BenchFigure figure(const char* name, const char* meaning, const Result<double>& ns) {
  BenchFigure result{name, meaning, 0, {}};
  if (ns) {
    result.ns = *ns;
  } else {
    result.problem = ns.error().message;
  }
  return result;
}

}  // namespace

Result<std::vector<BenchFigure>> run_bench() {
  TRY(KvmDevice::open());
  return std::vector<BenchFigure>{
      figure("entry_exit", "entry and exit that the kernel handles (CPUID)", entry_and_exit()),
      figure("port_write", "port write to user space and back", port_write()),
      figure("mmio_write", "MMIO write to user space and back", mmio_write()),
      figure("doorbell", "doorbell by ioeventfd", doorbell()),
      figure("interrupt", "interrupt by irqfd to the handler's report", interrupt()),
  };
}

}  // namespace trapeze::kvm
