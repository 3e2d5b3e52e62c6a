// A /dev/kvm that is not as it should be: other version, missing capabilities, busy, too small. The
// program's own ioctl() stands in front of libc's and answers KVM's requests while a FakeKvm is
// there.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdarg>
#include <map>
#include <set>

#include "accel/kvm/uapi.h"
#include "accel/kvm/vm.h"
#include "base/units.h"

namespace trapeze::kvm {
namespace {

struct FakeKvm {
  FakeKvm() { current = this; }
  ~FakeKvm() { current = nullptr; }
  FakeKvm(const FakeKvm&) = delete;
  FakeKvm& operator=(const FakeKvm&) = delete;

  int version = 12;
  std::set<unsigned> missing;  // capabilities; all others are there
  std::map<unsigned, int> values{{KVM_CAP_MAX_VCPUS, 4}, {KVM_CAP_NR_MEMSLOTS, 32}};
  std::map<unsigned long, int> refused;  // request: errno
  unsigned phys_bits = 40;
  int mmap_bytes = 12288;

  int answer(unsigned long request, void* argument) {
    if (const auto found = refused.find(request); found != refused.end()) {
      errno = found->second;
      return -1;
    }
    if (request == KVM_GET_API_VERSION) return version;
    if (request == KVM_GET_VCPU_MMAP_SIZE) return mmap_bytes;
    if (request == KVM_CHECK_EXTENSION) return check(reinterpret_cast<uintptr_t>(argument));
    // The VM: any file descriptor that can be closed.
    if (request == KVM_CREATE_VM) return ::open("/dev/null", O_RDWR | O_CLOEXEC);
    if (request == kGetSupportedCpuid) return fill_cpuid(argument);
    return 0;
  }

  static FakeKvm* current;

 private:
  int check(uintptr_t number) const {
    if (missing.count(static_cast<unsigned>(number)) != 0) return 0;
    const auto found = values.find(static_cast<unsigned>(number));
    return found == values.end() ? 1 : found->second;
  }
  int fill_cpuid(void* argument) const {
    auto* const header = static_cast<CpuidTable::Header*>(argument);
    kvm_cpuid_entry2 entry{};
    entry.function = 0x8000'0008;
    entry.eax = phys_bits;
    header->count = 1;
    std::memcpy(static_cast<void*>(header + 1), &entry, sizeof(entry));
    return 0;
  }
};
FakeKvm* FakeKvm::current = nullptr;

}  // namespace
}  // namespace trapeze::kvm

extern "C" int ioctl(int fd, unsigned long request, ...) noexcept {
  va_list arguments;
  va_start(arguments, request);
  void* const argument = va_arg(arguments, void*);
  va_end(arguments);
  auto* const fake = trapeze::kvm::FakeKvm::current;
  if (fake != nullptr && _IOC_TYPE(request) == KVMIO) return fake->answer(request, argument);
  return static_cast<int>(::syscall(SYS_ioctl, fd, request, argument));
}

namespace trapeze::kvm {
namespace {

class BadKvm : public testing::Test {
 protected:
  // The message of an open(), or "".
  static std::string open_error() {
    const auto device = KvmDevice::open("/dev/null");
    return device ? std::string() : device.error().message;
  }
  std::string vm_error(uint64_t memory_bytes = 64 * MiB) {
    const GpaRange ram{Gpa{0}, memory_bytes};
    const auto memory = GuestMemory::create(std::span(&ram, 1)).value();
    const HostClock clock;
    const auto vm = create_vm(*memory, clock, config_);
    return vm ? std::string() : vm.error().message;
  }
  static testing::AssertionResult has(const std::string& text,
                                      std::initializer_list<const char*> words) {
    for (const char* word : words) {
      if (text.find(word) == std::string::npos) {
        return testing::AssertionFailure() << "no \"" << word << "\" in: " << text;
      }
    }
    return testing::AssertionSuccess();
  }

  BadKvm() { config_.device_path = "/dev/null"; }

  FakeKvm kvm_;
  KvmConfig config_;
};

TEST_F(BadKvm, good_one_is_taken) {
  EXPECT_EQ(open_error(), "");
  EXPECT_EQ(vm_error(), "");
  config_.irqchip = IrqchipKind::Split;
  EXPECT_EQ(vm_error(), "");
}

TEST_F(BadKvm, other_version_is_refused_with_both_numbers) {
  for (const int version : {11, 13, 0}) {
    kvm_.version = version;
    EXPECT_TRUE(has(open_error(), {"/dev/null", "version", std::to_string(version).c_str(), "12",
                                   "--accel soft"}));
  }
}

TEST_F(BadKvm, missing_capabilities_are_all_named) {
  kvm_.missing = {KVM_CAP_USER_MEMORY, KVM_CAP_IMMEDIATE_EXIT};
  EXPECT_TRUE(has(open_error(), {"USER_MEMORY", "IMMEDIATE_EXIT", "4.13", "--accel soft"}));
}

TEST_F(BadKvm, every_needed_capability_is_checked) {
  for (const CapabilityInfo& info : capabilities_that_matter()) {
    kvm_.missing = {info.number};
    EXPECT_EQ(!open_error().empty(), info.needed) << info.name;
  }
}

TEST_F(BadKvm, small_vcpu_mapping_is_refused) {
  kvm_.mmap_bytes = 16;
  EXPECT_TRUE(has(open_error(), {"KVM_GET_VCPU_MMAP_SIZE", "16 bytes"}));
}

TEST_F(BadKvm, busy_virtualization_names_the_other_hypervisor) {
  kvm_.refused[KVM_CREATE_VM] = EBUSY;
  EXPECT_TRUE(has(vm_error(), {"another hypervisor", "busy", "--accel soft"}));
}

TEST_F(BadKvm, vm_that_cannot_be_created_says_why) {
  kvm_.refused[KVM_CREATE_VM] = ENOMEM;
  EXPECT_TRUE(has(vm_error(), {"KVM_CREATE_VM", "Cannot allocate memory"}));
}

TEST_F(BadKvm, device_without_its_module_says_which_to_load) {
  // A unix socket answers open() with ENXIO, as a device node does that nobody serves.
  const std::string path = ::testing::TempDir() + "trapeze-no-kvm-" + std::to_string(::getpid());
  const int socket = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  ASSERT_LT(path.size(), sizeof(address.sun_path));
  path.copy(address.sun_path, path.size());
  ASSERT_EQ(::bind(socket, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  const auto device = KvmDevice::open(path);
  ::unlink(path.c_str());
  ::close(socket);
  ASSERT_FALSE(device);
  EXPECT_TRUE(has(device.error().message, {"no KVM module", "modprobe kvm_intel", "--accel soft"}));
}

TEST_F(BadKvm, too_many_vcpus_are_refused_with_the_limit) {
  config_.vcpu_count = 5;
  EXPECT_TRUE(has(vm_error(), {"--cpus 5", "at most 4"}));
  config_.vcpu_count = 4;
  EXPECT_EQ(vm_error(), "");
}

TEST_F(BadKvm, too_much_memory_is_refused_with_the_limit) {
  kvm_.phys_bits = 36;
  EXPECT_TRUE(has(vm_error(64 * GiB), {"--memory: 65536 MiB", "36 bits"}));
}

TEST_F(BadKvm, memory_that_kvm_does_not_take_names_the_range) {
  kvm_.refused[KVM_SET_USER_MEMORY_REGION] = EINVAL;
  EXPECT_TRUE(has(vm_error(), {"--memory", "64 MiB", "Invalid argument"}));
}

TEST_F(BadKvm, kind_of_irqchip_that_is_not_there_names_the_other) {
  kvm_.missing = {KVM_CAP_PIT2};
  EXPECT_TRUE(has(vm_error(), {"KVM_CAP_PIT2", "--irqchip split"}));
  kvm_.missing = {KVM_CAP_SPLIT_IRQCHIP};
  config_.irqchip = IrqchipKind::Split;
  EXPECT_TRUE(has(vm_error(), {"--irqchip split", "use kernel"}));
}

TEST_F(BadKvm, options_that_the_host_lacks_are_named) {
  kvm_.values[KVM_CAP_X86_DISABLE_EXITS] = 1;  // MWAIT alone
  config_.cpu_pm = true;
  EXPECT_TRUE(has(vm_error(), {"--cpu-pm"}));
  config_.cpu_pm = false;
  config_.halt_poll_ns = 1000;
  kvm_.missing = {KVM_CAP_HALT_POLL};
  EXPECT_TRUE(has(vm_error(), {"--halt-poll", "KVM_CAP_HALT_POLL"}));
}

}  // namespace
}  // namespace trapeze::kvm
