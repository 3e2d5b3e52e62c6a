#include "accel/kvm/device.h"

#include <cpuid.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "accel/kvm/ioctl.h"
#include "accel/kvm/uapi.h"

namespace trapeze::kvm {
namespace {

constexpr int kApiVersion = 12;  // since Linux 2.6.22; api.rst: refuse any other
constexpr size_t kMaxCpuidEntries = 256;

constexpr CapabilityInfo kCapabilities[] = {
    {KVM_CAP_USER_MEMORY, "USER_MEMORY", true, "guest RAM is memory of this process"},
    {KVM_CAP_IRQCHIP, "IRQCHIP", true, "interrupt controllers in the kernel"},
    {KVM_CAP_IRQ_ROUTING, "IRQ_ROUTING", true, "interrupt routing table"},
    {KVM_CAP_SIGNAL_MSI, "SIGNAL_MSI", true, "message-signalled interrupts"},
    {KVM_CAP_IMMEDIATE_EXIT, "IMMEDIATE_EXIT", true, "a vCPU is stopped without a lost wake-up"},
    {KVM_CAP_EXT_CPUID, "EXT_CPUID", true, "what CPUID the host supports"},
    {KVM_CAP_MP_STATE, "MP_STATE", true, "vCPUs that wait for their start"},
    {KVM_CAP_VCPU_EVENTS, "VCPU_EVENTS", true, "events on their way are saved"},
    {KVM_CAP_DEBUGREGS, "DEBUGREGS", true, "debug registers are saved"},
    {KVM_CAP_PIT2, "PIT2", false, "8254 in the kernel"},
    {KVM_CAP_SPLIT_IRQCHIP, "SPLIT_IRQCHIP", false, "--irqchip split"},
    {KVM_CAP_IRQFD, "IRQFD", false, "devices interrupt by an eventfd"},
    {KVM_CAP_IOEVENTFD, "IOEVENTFD", false, "a doorbell costs no exit to user space"},
    {KVM_CAP_XSAVE2, "XSAVE2", false, "register states beyond 4 KiB (AMX)"},
    {KVM_CAP_XCRS, "XCRS", false, "guests with XSAVE and AVX"},
    {KVM_CAP_TSC_DEADLINE_TIMER, "TSC_DEADLINE_TIMER", false, "timer without calibration"},
    {KVM_CAP_ADJUST_CLOCK, "ADJUST_CLOCK", false, "kvmclock is saved"},
    {KVM_CAP_GET_TSC_KHZ, "GET_TSC_KHZ", false, "the guest is told its TSC frequency"},
    {KVM_CAP_X2APIC_API, "X2APIC_API", false, "APIC IDs beyond 255"},
    {KVM_CAP_X86_DISABLE_EXITS, "X86_DISABLE_EXITS", false, "--cpu-pm"},
    {KVM_CAP_HALT_POLL, "HALT_POLL", false, "--halt-poll"},
    {KVM_CAP_READONLY_MEM, "READONLY_MEM", false, "read-only memory"},
    {KVM_CAP_DIRTY_LOG_RING, "DIRTY_LOG_RING", false, "quick tracking of written pages"},
    {KVM_CAP_NESTED_STATE, "NESTED_STATE", false, "virtual machines in the guest"},
};

bool module_is_loaded(const std::string& sysfs, const char* name) {
  return ::access((sysfs + "/module/" + name).c_str(), F_OK) == 0;
}

Unexpected<Error> explain_open_error(const std::string& path, int os_error) {
  const auto error = [&](const char* way_out) {
    return Unexpected(
        Error{fmt::format("{}: {}: {}", path, errno_text(os_error), way_out), os_error});
  };
  switch (os_error) {
    case ENOENT:
      return error(
          "this host offers no KVM (switch virtualization on in the firmware and load kvm_intel or "
          "kvm_amd; in a cloud VM, ask for nested virtualization), or use --accel soft");
    case EACCES:
    case EPERM:
      return error(
          "this user may not use KVM: add the user to the group that owns it (usermod -aG kvm "
          "USER) "
          "and log in again, or use --accel soft");
    case ENODEV:
    case ENXIO:
      return error(
          "no KVM module is loaded behind it (modprobe kvm_intel or kvm_amd), or use "
          "--accel soft");
    case EBUSY:
      return error(
          "another hypervisor has the CPU's virtualization; stop it (for example "
          "VirtualBox), or use --accel soft");
    default:
      return error("or use --accel soft");
  }
}

}  // namespace

HostFacts read_host_facts(const std::string& sysfs) {
  HostFacts facts;
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) != 0) facts.cpu_has_vmx = (c & (1U << 5)) != 0;
  if (__get_cpuid(0x80000001, &a, &b, &c, &d) != 0) facts.cpu_has_svm = (c & (1U << 2)) != 0;
  facts.pvm_module = module_is_loaded(sysfs, "kvm_pvm");
  facts.amd_module = module_is_loaded(sysfs, "kvm_amd");
  facts.intel_module = module_is_loaded(sysfs, "kvm_intel");
  return facts;
}

HostKind classify(const HostFacts& facts) {
  // Both can be compiled in, but only one vendor module drives /dev/kvm: PVM's asks that the
  // others are not loaded.
  if (facts.pvm_module && !facts.amd_module && !facts.intel_module) return HostKind::Pvm;
  return facts.cpu_has_vmx || facts.cpu_has_svm ? HostKind::Hardware : HostKind::Pvm;
}

std::string describe(const HostFacts& facts) {
  if (classify(facts) == HostKind::Pvm) {
    return facts.pvm_module
               ? "PVM (kvm_pvm): no hardware virtualization, only PVM-enlightened kernels"
               : "no hardware virtualization in the CPU: a PVM host, or one like it";
  }
  return facts.cpu_has_svm ? "hardware virtualization (AMD-V)" : "hardware virtualization (VT-x)";
}

std::vector<CapabilityInfo> capabilities_that_matter() {
  return {std::begin(kCapabilities), std::end(kCapabilities)};
}

Result<KvmDevice> KvmDevice::open(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd.is_open()) return explain_open_error(path, errno);
  KvmDevice device(std::move(fd), path);
  TRY(device.check_version());
  TRY(device.check_capabilities());
  device.vcpu_mmap_bytes_ =
      static_cast<size_t>(TRY(KVM_CALL(device.fd_, KVM_GET_VCPU_MMAP_SIZE, 0)));
  if (device.vcpu_mmap_bytes_ < sizeof(kvm_run)) {
    return fail("{}: KVM_GET_VCPU_MMAP_SIZE: {} bytes, too few for a kvm_run", path,
                device.vcpu_mmap_bytes_);
  }
  return device;
}

Result<void> KvmDevice::check_version() const {
  const auto version = KVM_CALL(fd_, KVM_GET_API_VERSION, 0);
  if (!version) {
    return fail("{}: does not answer as KVM ({}); is it the right device?", path_,
                version.error().message);
  }
  if (*version != kApiVersion) {
    return fail("{}: KVM API version {}, and only {} is known: use --accel soft", path_, *version,
                kApiVersion);
  }
  return {};
}

Result<void> KvmDevice::check_capabilities() const {
  std::string missing;
  for (const CapabilityInfo& info : kCapabilities) {
    if (!info.needed || capability(info.number) > 0) continue;
    missing += (missing.empty() ? "" : ", ") + std::string(info.name);
  }
  if (missing.empty()) return {};
  return fail(
      "{}: this kernel's KVM lacks {}: a newer host kernel is needed (4.13 or later), or use "
      "--accel soft",
      path_, missing);
}

int KvmDevice::capability(unsigned number) const {
  const int value = ::ioctl(fd_.get(), KVM_CHECK_EXTENSION, static_cast<unsigned long>(number));
  return value < 0 ? 0 : value;
}

int KvmDevice::max_vcpus() const {
  const int value = capability(KVM_CAP_MAX_VCPUS);
  return value > 0 ? value : 4;  // api.rst, KVM_CAP_NR_VCPUS: 4 when nobody says
}

Result<std::vector<kvm_cpuid_entry2>> KvmDevice::supported_cpuid() const {
  CpuidTable table(kMaxCpuidEntries);
  TRY(kvm_ioctl(fd_, kGetSupportedCpuid, "KVM_GET_SUPPORTED_CPUID", table.header()));
  const auto entries = table.entries();
  return std::vector<kvm_cpuid_entry2>(entries.begin(), entries.end());
}

Result<std::vector<uint32_t>> KvmDevice::msr_indices() const {
  MsrListHeader probe{};
  // Fails with E2BIG and tells how many there are.
  if (::ioctl(fd_.get(), kGetMsrIndexList, &probe) < 0 && errno != E2BIG) {
    return fail_errno("KVM_GET_MSR_INDEX_LIST");
  }
  std::vector<uint32_t> list(1 + probe.count);
  list[0] = probe.count;
  TRY(kvm_ioctl(fd_, kGetMsrIndexList, "KVM_GET_MSR_INDEX_LIST", list.data()));
  list.resize(1 + std::min(list[0], probe.count));
  list.erase(list.begin());
  return list;
}

Result<Fd> KvmDevice::create_vm() const {
  const int vm = ::ioctl(fd_.get(), KVM_CREATE_VM, 0UL);
  if (vm >= 0) return Fd(vm);
  if (errno == EBUSY) {
    return fail(
        "{}: another hypervisor has the CPU's virtualization (KVM_CREATE_VM: {}); stop it, "
        "or use --accel soft",
        path_, errno_text(EBUSY));
  }
  return fail_errno("{}: KVM_CREATE_VM", path_);
}

}  // namespace trapeze::kvm
