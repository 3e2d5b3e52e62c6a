// Whether a PVM host offers the public PVM interface: asked of the host itself, by a guest of a few
// instructions (PVM specification, "detection"). There are hosts that do not.
#pragma once

#include <chrono>
#include <string>

namespace trapeze::kvm {

struct PvmProbe {
  bool ran = false;  // the guest came to its end
  unsigned cpl = 0;  // of its supervisor code, as it sees it
  bool interrupt_flag = false;
  std::string signature;   // what the synthetic CPUID answered at 0x40000000
  std::string problem;     // when it did not run
  bool is_public = false;  // all of it as the specification wants
};

// Starts a VM on this host's /dev/kvm: milliseconds. Only for a host that is a PVM one; never by
// itself when nothing depends on the answer.
PvmProbe probe_pvm(std::chrono::milliseconds limit = std::chrono::milliseconds(200));
// What the facts mean.
bool is_public_pvm(const PvmProbe& probe);

}  // namespace trapeze::kvm
