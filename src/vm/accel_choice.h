// Which accelerator runs a VM, and why: the wish of the user, the host's /dev/kvm, and the kernel
// together. The decision is a pure function of facts, so that every rule has a test.
#pragma once

#include <string>

#include "accel/kvm/device.h"
#include "base/result.h"
#include "vm/config.h"

namespace trapeze {

// What is known of this host's KVM without creating a VM.
struct KvmFacts {
  bool is_usable = false;
  std::string problem;  // when not: a message with the way out
  kvm::HostFacts host;
  kvm::HostKind kind = kvm::HostKind::Hardware;
};
KvmFacts inspect_kvm(const std::string& device_path = "/dev/kvm");

struct AccelWish {
  AccelKind wanted = AccelKind::Auto;
  bool has_cpu_model = false;           // --cpu: models are the software engine's
  bool has_kvm_options = false;         // --irqchip, --cpu-pm, --halt-poll
  bool is_pvm_kernel = false;           // the image has PVM's synthetic CPUID instruction
  bool is_pvm_interface_known = false;  // the probe guest ran here and found the public interface
  std::string kernel_path;
};

struct AccelChoice {
  AccelKind kind = AccelKind::Soft;  // never Auto
  std::string reason;
  std::string name() const { return kind == AccelKind::Kvm ? "kvm" : "soft"; }
};

// An Error when what was asked for cannot be had: `kvm` never falls back to `soft` by itself.
Result<AccelChoice> decide_accel(const AccelWish& wish, const KvmFacts& kvm);

// The same for this host; reads the kernel image where the host is a PVM one.
Result<AccelChoice> choose_accel(const VmConfig& config);

}  // namespace trapeze
