#include "accel/kvm/probe.h"

#include <cstring>

#include "accel/kvm/exits.h"
#include "accel/kvm/tiny_guest.h"

namespace trapeze::kvm {
namespace {

constexpr uint16_t kDonePort = 0xf4;
constexpr uint16_t kFaultPort = 0xf5;

// mov %cs,%esi; pushfq; pop %rdi; and, only where both are as PVM makes them, the synthetic CPUID,
// whose INVLPG means nothing elsewhere. RSI, RDI, RBX, RCX, RDX hold the answers.
constexpr uint8_t kCode[] = {
    0x8c, 0xce,                                           // mov %cs,%esi
    0xfb,                                                 // sti
    0x9c,                                                 // pushfq
    0x5f,                                                 // pop %rdi
    0x31, 0xdb,                                           // xor %ebx,%ebx
    0x31, 0xc9,                                           // xor %ecx,%ecx
    0x31, 0xd2,                                           // xor %edx,%edx
    0x89, 0xf0,                                           // mov %esi,%eax
    0x24, 0x03,                                           // and $3,%al
    0x3c, 0x03,                                           // cmp $3,%al
    0x75, 0x0f,                                           // jne done
    0xb8, 0x00,      0x00, 0x00, 0x40,                    // mov $0x40000000,%eax
    0x0f, 0x01,      0x3c, 0x25, 0x50, 0x56, 0x4d, 0xff,  // invlpg 0xffffffffff4d5650
    0x0f, 0xa2,                                           // cpuid
    0xe6, kDonePort,                                      // done: out %al,$0xf4
    0xf4,                                                 // hlt
};
constexpr uint8_t kFault[] = {0xe6, kFaultPort, 0xf4};

std::string text_of(const kvm_regs& regs) {
  std::string text(12, '\0');
  const uint32_t words[] = {static_cast<uint32_t>(regs.rbx), static_cast<uint32_t>(regs.rcx),
                            static_cast<uint32_t>(regs.rdx)};
  std::memcpy(text.data(), words, sizeof(words));
  text.resize(std::strlen(text.c_str()));
  return text;
}

Result<PvmProbe> run_probe(std::chrono::milliseconds limit) {
  const auto guest = TRY(TinyGuest::create(kCode, kFault));
  const kvm_run* run = TRY(guest->run(limit));
  if (run == nullptr) return fail("the probe guest did not end within {} ms", limit.count());
  const bool is_done = run->exit_reason == KVM_EXIT_IO && run->io.port == kDonePort;
  if (!is_done) {
    const bool faulted = run->exit_reason == KVM_EXIT_IO && run->io.port == kFaultPort;
    return fail("the probe guest {}", faulted ? "met an exception" : describe_exit(*run));
  }
  const kvm_regs regs = TRY(guest->registers());
  PvmProbe probe;
  probe.ran = true;
  probe.cpl = regs.rsi & 3U;
  probe.interrupt_flag = (regs.rdi & (1U << 9)) != 0;
  probe.signature = text_of(regs);
  probe.is_public = is_public_pvm(probe);
  return probe;
}

}  // namespace

bool is_public_pvm(const PvmProbe& probe) {
  return probe.ran && probe.cpl == 3 && probe.interrupt_flag && probe.signature == "KVMKVMKVM";
}

PvmProbe probe_pvm(std::chrono::milliseconds limit) {
  auto probe = run_probe(limit);
  if (probe) return std::move(*probe);
  PvmProbe failed;
  failed.problem = probe.error().message;
  return failed;
}

}  // namespace trapeze::kvm
