#include "vm/accel_choice.h"

#include "accel/kvm/probe.h"
#include "arch/x86/boot/boot.h"
#include "arch/x86/boot/pvm_kernel.h"
#include "base/file.h"
#include "base/units.h"

namespace trapeze {
namespace {

constexpr uint64_t kMaxImageBytes = 1 * GiB;

Result<AccelChoice> decide_kvm(const AccelWish& wish, const KvmFacts& kvm) {
  if (!kvm.is_usable) return fail("--accel kvm: {}", kvm.problem);
  if (wish.has_cpu_model) {
    return fail(
        "--cpu: with --accel kvm the guest has the host's CPU; leave --cpu away, or use "
        "--accel soft");
  }
  if (kvm.kind == kvm::HostKind::Pvm && !wish.is_pvm_kernel) {
    return fail(
        "{}: not a PVM-enlightened kernel, and this host's KVM ({}) runs no other: take a "
        "kernel built with CONFIG_PVM_GUEST, or --accel soft",
        wish.kernel_path, kvm::describe(kvm.host));
  }
  return AccelChoice{AccelKind::Kvm, "asked for: " + kvm::describe(kvm.host)};
}

AccelChoice decide_auto(const AccelWish& wish, const KvmFacts& kvm) {
  const auto soft = [](std::string reason) {
    return AccelChoice{AccelKind::Soft, std::move(reason)};
  };
  if (wish.has_cpu_model) return soft("--cpu names a model of the software engine");
  if (!kvm.is_usable) return soft(kvm.problem);
  if (kvm.kind == kvm::HostKind::Hardware) return {AccelKind::Kvm, kvm::describe(kvm.host)};
  const std::string host = "/dev/kvm: " + kvm::describe(kvm.host);
  if (!wish.is_pvm_kernel) return soft(host + ", and this kernel is not PVM-enlightened");
  if (!wish.is_pvm_interface_known) {
    return soft(host + ", and it does not offer the public PVM interface");
  }
  return {AccelKind::Kvm, host + ", and this kernel is PVM-enlightened"};
}

bool is_pvm_kernel(const std::string& path) {
  const auto file = FileBytes::open(path, kMaxImageBytes);
  if (!file) return false;  // loading it will say what is wrong
  if (boot::has_pvm_cpuid(file->bytes())) return true;
  const auto kind = boot::detect(file->bytes(), path);
  if (!kind || *kind != boot::KernelKind::BzImage) return false;
  const auto image = boot::extract_vmlinux(file->bytes(), path, kMaxImageBytes);
  return image && boot::has_pvm_cpuid(*image);
}

}  // namespace

KvmFacts inspect_kvm(const std::string& device_path) {
  KvmFacts facts;
  facts.host = kvm::read_host_facts();
  facts.kind = kvm::classify(facts.host);
  const auto device = kvm::KvmDevice::open(device_path);
  facts.is_usable = device.has_value();
  if (!device) facts.problem = device.error().message;
  return facts;
}

Result<AccelChoice> decide_accel(const AccelWish& wish, const KvmFacts& kvm) {
  switch (wish.wanted) {
    case AccelKind::Kvm:
      return decide_kvm(wish, kvm);
    case AccelKind::Soft:
      if (wish.has_kvm_options) {
        return fail("--irqchip, --cpu-pm and --halt-poll belong to --accel kvm");
      }
      return AccelChoice{AccelKind::Soft, "asked for"};
    case AccelKind::Auto:
      break;
  }
  AccelChoice choice = decide_auto(wish, kvm);
  if (choice.kind == AccelKind::Soft && wish.has_kvm_options) {
    return fail("--irqchip, --cpu-pm and --halt-poll need KVM, which is not to be had here: {}",
                choice.reason);
  }
  return choice;
}

Result<AccelChoice> choose_accel(const VmConfig& config) {
  AccelWish wish;
  wish.wanted = config.accel;
  wish.has_cpu_model = !config.cpu_model.empty();
  wish.has_kvm_options =
      config.kvm.split_irqchip || config.kvm.cpu_pm || config.kvm.halt_poll_ns.has_value();
  wish.kernel_path = config.kernel_path;
  if (wish.wanted == AccelKind::Soft) return decide_accel(wish, {});
  const KvmFacts kvm = inspect_kvm();
  if (kvm.is_usable && kvm.kind == kvm::HostKind::Pvm) {
    // A search through the whole image takes 20 ms: a kit knows the answer.
    wish.is_pvm_kernel =
        config.kernel_is_pvm ? *config.kernel_is_pvm : is_pvm_kernel(config.kernel_path);
    // A guest on a PVM host is not started for a kernel that could not use the answer.
    wish.is_pvm_interface_known = wish.is_pvm_kernel && kvm::probe_pvm().is_public;
  }
  return decide_accel(wish, kvm);
}

}  // namespace trapeze
