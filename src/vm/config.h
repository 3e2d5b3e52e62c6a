// What a VM is made of: plain values, already parsed, not yet checked against the host.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/units.h"
#include "virtio/vsock/protocol.h"
#include "vm/agent/session.h"
#include "vm/disks.h"
#include "vm/nets.h"
#include "vm/pmems.h"
#include "vm/shares.h"
#include "vm/vhost_user/devices.h"

namespace trapeze {

struct VsockConfig {
  // What is on the host's side: unix sockets at `path` (backend/vsock/unix_host.h), or AF_VSOCK of
  // the host's kernel (backend/vsock/vhost_vsock.h).
  enum class Kind : uint8_t { Unix, Vhost };
  Kind kind = Kind::Unix;
  std::string path;
  uint64_t guest_cid = vsock::kFirstGuestCid;
};

enum class AccelKind : uint8_t { Auto, Soft, Kvm };

// Only for --accel kvm (accel/kvm/vm.h says what each does).
struct KvmOptions {
  bool split_irqchip = false;
  bool cpu_pm = false;
  std::optional<uint64_t> halt_poll_ns;
};
// How the software engine executes: Auto is the translator where the host can run its code.
enum class SoftExecutor : uint8_t { Auto, Interpreter, Translator };

inline constexpr uint32_t kMaxVcpus = 32;
inline constexpr uint64_t kMinMemoryBytes = 16 * MiB;
inline constexpr uint64_t kMaxMemoryBytes = 1 * TiB;

struct VmConfig {
  AccelKind accel = AccelKind::Auto;
  KvmOptions kvm;
  std::string cpu_model;  // empty: the default
  SoftExecutor soft_exec = SoftExecutor::Auto;
  uint32_t vcpus = 1;
  uint64_t memory_bytes = 512 * MiB;
  std::string kernel_path;
  std::string initrd_path;  // empty: none
  // The file is replaced, never written in place, as those of a kit: guest RAM maps it instead of a
  // copy. A file of the user's may be overwritten while the VM runs.
  bool kernel_is_stable = false;
  bool initrd_is_stable = false;
  std::optional<bool> kernel_is_pvm;  // PVM-enlightened, as far as that is known
  // An archive that is put after the initial RAM disk; its files replace those of the same name.
  std::vector<std::byte> initrd_overlay;
  std::string cmdline;
  // Put before `cmdline` when the kernel is Linux. Test images and unikernels get `cmdline` alone.
  std::string linux_cmdline;
  std::vector<DiskConfig> disks;  // in the order in which the guest finds them
  std::vector<NetConfig> nets;    // the same
  std::vector<ShareConfig> shares;
  std::vector<VhostUserConfig> vhost_users;  // after the disks
  std::optional<VsockConfig> vsock;
  std::vector<PmemConfig> pmems;          // /dev/pmem0, ... in the guest
  std::optional<uint64_t> balloon_bytes;  // a virtio-balloon, of that size at first
  uint32_t io_threads = 0;                // for disks; 0: one for each
  bool debug_exit = false;                // a debug-exit port, as QEMU's isa-debug-exit at 0xf4
  bool test_devices = false;  // what CPU test images expect besides (device/test_device.h)
};

// Where the guest's serial port goes.
enum class ConsoleMode : uint8_t { None, Stdio, File };

// A machine that others find by its name (vm/manage/run_directory.h).
struct ManagedConfig {
  std::string name;
  // Nobody is at stdin, stdout and stderr: the command's streams are the machine's console.
  bool is_detached = false;
  std::function<void()> on_started;  // the command runs, or a kernel without an agent
};

struct RunConfig {
  VmConfig vm;
  // With a command: an agent in the guest runs it. Without: the guest runs until it ends itself.
  std::optional<CommandConfig> command;
  ConsoleMode console = ConsoleMode::None;
  std::string console_path;  // for ConsoleMode::File
  std::optional<std::chrono::nanoseconds> timeout;
  std::optional<ManagedConfig> managed;
  uint64_t process_start_ns = 0;  // CLOCK_MONOTONIC; the zero of the timeline
};

}  // namespace trapeze
