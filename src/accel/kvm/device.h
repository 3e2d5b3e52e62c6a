// KvmDevice: an open /dev/kvm: its version, capabilities, supported CPUID and MSRs. Immutable after
// open(); any thread. Linux Documentation/virt/kvm/api.rst is the reference for this folder.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace trapeze::kvm {

// What is behind /dev/kvm.
enum class HostKind : uint8_t {
  Hardware,  // VT-x or AMD-V: any kernel runs
  Pvm,       // the CPU shows neither; kvm_pvm, or something like it: PVM-enlightened kernels only
};

struct HostFacts {
  bool cpu_has_vmx = false;
  bool cpu_has_svm = false;
  bool pvm_module = false;  // /sys/module/kvm_pvm
  bool amd_module = false;
  bool intel_module = false;
};
// Reads CPUID and `sysfs` ("/sys"); opens nothing else.
HostFacts read_host_facts(const std::string& sysfs = "/sys");
HostKind classify(const HostFacts& facts);
// "AMD-V (kvm_amd)", for people.
std::string describe(const HostFacts& facts);

class KvmDevice {
 public:
  // The message says why not (missing, no permission, busy, another API version, a capability
  // missing) and what to do. Creates no VM.
  static Result<KvmDevice> open(const std::string& path = "/dev/kvm");

  const Fd& fd() const { return fd_; }
  // 0: not there; otherwise its value, often 1.
  int capability(unsigned number) const;
  size_t vcpu_mmap_bytes() const { return vcpu_mmap_bytes_; }
  int max_vcpus() const;
  Result<std::vector<kvm_cpuid_entry2>> supported_cpuid() const;
  Result<std::vector<uint32_t>> msr_indices() const;
  Result<Fd> create_vm() const;

 private:
  KvmDevice(Fd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}
  Result<void> check_version() const;
  Result<void> check_capabilities() const;
  Fd fd_;
  std::string path_;
  size_t vcpu_mmap_bytes_ = 0;
};

// Capabilities without which nothing runs, and those that are used when there; for doctor too.
struct CapabilityInfo {
  unsigned number;
  const char* name;
  bool needed;
  const char* meaning;
};
std::vector<CapabilityInfo> capabilities_that_matter();

}  // namespace trapeze::kvm
