#include "app/cli/doctor_checks.h"

#include <cpuid.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fstream>

#include "accel/soft/host_cpu.h"
#include "backend/net/helper/slirp_library.h"
#include "base/error.h"
#include "base/fd.h"

namespace trapeze::cli {
namespace {

struct CpuFeature {
  const char* name;
  uint32_t leaf;
  char reg;  // b, c, d
  unsigned bit;
  const char* meaning;
};

constexpr CpuFeature kFeatures[] = {
    {"vmx", 1, 'c', 5, "hardware virtualization (Intel)"},
    {"svm", 0x80000001, 'c', 2, "hardware virtualization (AMD)"},
    {"hypervisor", 1, 'c', 31, "this host is itself a virtual machine"},
    {"sse4_2", 1, 'c', 20, "the software engine runs guest SSE on it"},
    {"aes", 1, 'c', 25, "guest AES instructions run as they are"},
    {"avx2", 7, 'b', 5, "for --cpu x86-64-v3"},
    {"bmi2", 7, 'b', 8, "for the software engine's translator"},
    {"fsgsbase", 7, 'b', 0, "for the software engine's translator"},
};

bool has_feature(const CpuFeature& feature) {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  if (__get_cpuid_count(feature.leaf, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  const unsigned value = feature.reg == 'b' ? ebx : feature.reg == 'c' ? ecx : edx;
  return ((value >> feature.bit) & 1U) != 0;
}

Check check_device(const char* name, const char* path, const char* module, const char* use) {
  const Fd fd(::open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK));
  const int os_error = errno;
  if (fd.is_open()) return {name, CheckState::Good, std::string(path) + ": usable", {}};
  const std::string detail = std::string(path) + ": " + errno_text(os_error);
  if (os_error == EACCES || os_error == EPERM) {
    return {name, CheckState::Missing, detail,
            std::string("give this user access to ") + path + ", for " + use};
  }
  return {name, CheckState::Missing, detail, std::string("modprobe ") + module + ", for " + use};
}

Check check_io_uring() {
  io_uring_params params{};
  const Fd ring(static_cast<int>(::syscall(SYS_io_uring_setup, 1, &params)));
  if (ring.is_open()) return {"io_uring", CheckState::Good, "usable", {}};
  const int os_error = errno;
  const bool is_forbidden = os_error == EPERM;
  return {"io_uring", CheckState::Missing, errno_text(os_error),
          is_forbidden
              ? "sysctl kernel.io_uring_disabled=0, or a container profile that allows it; "
                "disks work without it, more slowly"
              : "a kernel with CONFIG_IO_URING; disks work without it, more slowly"};
}

Check check_userfaultfd() {
  constexpr int kUserModeOnly = 1;  // UFFD_USER_MODE_ONLY
  const Fd fd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | kUserModeOnly)));
  if (!fd.is_open()) {
    return {"userfaultfd", CheckState::Missing, errno_text(errno),
            "a kernel with CONFIG_USERFAULTFD, for snapshots that are read as they are needed"};
  }
  const Fd full(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC)));
  const bool has_device = ::access("/dev/userfaultfd", R_OK | W_OK) == 0;
  if (full.is_open() || has_device) return {"userfaultfd", CheckState::Good, "usable", {}};
  return {
      "userfaultfd", CheckState::Missing, "only for faults of user mode",
      "sysctl vm.unprivileged_userfaultfd=1, or access to /dev/userfaultfd, for snapshots under "
      "KVM"};
}

Check check_user_network() {
  const auto library = SlirpLibrary::load();
  if (library) return {"user_network", CheckState::Good, "libslirp: usable", {}};
  return {"user_network", CheckState::Missing, library.error().message,
          "install libslirp, for --net user"};
}

Check check_landlock() {
  constexpr unsigned kVersion = 1;  // LANDLOCK_CREATE_RULESET_VERSION
  const long version = ::syscall(SYS_landlock_create_ruleset, nullptr, 0, kVersion);
  if (version > 0) return {"landlock", CheckState::Good, fmt::format("ABI {}", version), {}};
  return {"landlock", CheckState::Missing, errno_text(errno),
          "lsm=landlock,... on the host's kernel command line, for a sandbox around file access"};
}

// The software engine's CPU models that this host can run.
Check check_cpu_models() {
  Check check{"cpu_models", CheckState::Good, {}, {}};
  for (const std::string_view name : CpuModel::names()) {
    const auto model = CpuModel::create(name, 1);
    const std::string lacking = model ? soft::missing_host_features(*model) : std::string();
    if (lacking.empty()) {
      if (!check.detail.empty()) check.detail += ", ";
      check.detail += name;
    } else {
      check.state = CheckState::Missing;
      check.advice = fmt::format("{} needs a host CPU with {}", name, lacking);
    }
  }
  return check;
}

std::string first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// "always [madvise] never": the chosen one stands in brackets.
std::string chosen_in(const std::string& line) {
  const size_t begin = line.find('[');
  const size_t end = line.find(']');
  return begin == std::string::npos || end <= begin ? line
                                                    : line.substr(begin + 1, end - begin - 1);
}

Check check_huge_pages() {
  const std::string mode = chosen_in(first_line("/sys/kernel/mm/transparent_hugepage/enabled"));
  const std::string reserved = first_line("/proc/sys/vm/nr_hugepages");
  std::string detail = fmt::format("transparent: {}; reserved: {}", mode.empty() ? "no" : mode,
                                   reserved.empty() ? "0" : reserved);
  if (mode == "always" || mode == "madvise") {
    return {"huge_pages", CheckState::Good, std::move(detail), {}};
  }
  return {
      "huge_pages", CheckState::Missing, std::move(detail),
      "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, for less time in page walks"};
}

}  // namespace

std::vector<CpuFlag> cpu_flags() {
  std::vector<CpuFlag> flags;
  for (const auto& feature : kFeatures) {
    flags.push_back({feature.name, has_feature(feature), feature.meaning});
  }
  return flags;
}

Check check_kvm(const KvmFacts& facts) {
  if (!facts.is_usable) return {"kvm", CheckState::Missing, facts.problem, {}};
  std::string detail = "/dev/kvm: " + kvm::describe(facts.host);
  if (facts.kind == kvm::HostKind::Hardware)
    return {"kvm", CheckState::Good, std::move(detail), {}};
  return {"kvm", CheckState::Note, std::move(detail),
          "`trapeze doctor --probe` asks it, with a guest of a few instructions, whether it offers "
          "the public PVM interface"};
}

std::vector<KvmCapability> kvm_capabilities() {
  std::vector<KvmCapability> result;
  const auto device = kvm::KvmDevice::open();
  if (!device) return result;
  for (const auto& info : kvm::capabilities_that_matter()) {
    result.push_back({info.name, device->capability(info.number), info.meaning});
  }
  return result;
}

std::vector<Check> check_host() {
  return {check_cpu_models(),
          check_device("vhost_net", "/dev/vhost-net", "vhost_net", "networks without copies"),
          check_device("vhost_vsock", "/dev/vhost-vsock", "vhost_vsock", "sockets to the guest"),
          check_device("tun", "/dev/net/tun", "tun", "networks through tap devices"),
          check_user_network(),
          check_io_uring(),
          check_userfaultfd(),
          check_landlock(),
          check_huge_pages()};
}

}  // namespace trapeze::cli
