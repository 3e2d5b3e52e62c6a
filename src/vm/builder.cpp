#include "vm/builder.h"

#include <algorithm>

#include "accel/kvm/vm.h"
#include "accel/soft/vm.h"
#include "agent/protocol.h"
#include "arch/x86/acpi/tables.h"
#include "arch/x86/boot/boot.h"
#include "arch/x86/cpuid/cpu_model.h"
#include "arch/x86/layout.h"
#include "base/file.h"
#include "base/log.h"
#include "virtio/vsock/device.h"
#include "virtio/vsock/served_device.h"
#include "vm/accel_choice.h"

namespace trapeze {
namespace {

constexpr uint64_t kMaxKernelFileBytes = 1 * GiB;
constexpr uint64_t kMaxInitrdFileBytes = 16 * GiB;

Result<std::unique_ptr<AccelVm>> create_accel(AccelKind kind, GuestMemory& memory,
                                              const Clock& clock, const VmConfig& config) {
  if (kind == AccelKind::Kvm) {
    kvm::KvmConfig kvm;
    kvm.vcpu_count = config.vcpus;
    kvm.irqchip = config.kvm.split_irqchip ? kvm::IrqchipKind::Split : kvm::IrqchipKind::Kernel;
    kvm.cpu_pm = config.kvm.cpu_pm;
    kvm.halt_poll_ns = config.kvm.halt_poll_ns;
    return kvm::create_vm(memory, clock, kvm);
  }
  soft::SoftConfig soft{.cpu_model = config.cpu_model, .vcpu_count = config.vcpus};
  switch (config.soft_exec) {
    case SoftExecutor::Auto:
      break;
    case SoftExecutor::Interpreter:
      soft.exec = soft::SoftExec::Interpreter;
      break;
    case SoftExecutor::Translator:
      soft.exec = soft::SoftExec::Translator;
      break;
  }
  return soft::create_vm(memory, clock, soft);
}

bool is_linux_protocol(boot::KernelKind kind) {
  return kind == boot::KernelKind::BzImage || kind == boot::KernelKind::Elf64;
}

std::string join(const std::string& first, const std::string& second) {
  return first.empty() || second.empty() ? first + second : first + " " + second;
}

}  // namespace

Result<void> check_balloon(uint64_t balloon_bytes, uint64_t memory_bytes) {
  // A guest lives on what is left; its kernel alone needs some.
  if (balloon_bytes + kMinMemoryBytes <= memory_bytes) return {};
  return fail("balloon of {} MiB: the machine has {} MiB, and {} of them must stay",
              balloon_bytes / MiB, memory_bytes / MiB, kMinMemoryBytes / MiB);
}

Result<void> validate(const VmConfig& config) {
  if (config.vcpus < 1 || config.vcpus > kMaxVcpus) {
    return fail("--cpus {}: must be 1 to {}", config.vcpus, kMaxVcpus);
  }
  if (config.memory_bytes < kMinMemoryBytes || config.memory_bytes > kMaxMemoryBytes) {
    return fail("--memory: {} bytes; must be {} MiB to {} GiB", config.memory_bytes,
                kMinMemoryBytes / MiB, kMaxMemoryBytes / GiB);
  }
  if (config.memory_bytes % kPageSize != 0) {
    return fail("--memory: {} bytes is no multiple of the page size (4 KiB)", config.memory_bytes);
  }
  if (config.balloon_bytes) TRY(check_balloon(*config.balloon_bytes, config.memory_bytes));
  if (!config.cpu_model.empty()) TRY(CpuModel::create(config.cpu_model, config.vcpus));
  return {};
}

Result<std::unique_ptr<Vm>> VmBuilder::build(const VmConfig& config,
                                             const VmConnections& connections) {
  TRY(validate(config));
  VmBuilder builder(config, connections);
  TRY(builder.create_machine());
  TRY(builder.create_virtio());
  const auto boot_state = TRY(builder.load_guest());
  TRY(builder.create_vcpus(boot_state));
  if (builder.vm_->nets_ != nullptr) TRY(builder.vm_->nets_->wait_until_ready());
  return std::move(builder.vm_);
}

Result<void> VmBuilder::create_machine() {
  const auto ram = layout::ram_ranges(config_.memory_bytes);
  // A back end is given RAM alone, and a guest may name the bytes of a file in its requests.
  if (!config_.pmems.empty() && !config_.vhost_users.empty()) {
    return fail("--pmem and --vhost-user cannot be used together");
  }
  if (config_.pmems.empty()) {
    vm_->memory_ =
        TRY(GuestMemory::create(ram, config_.vhost_users.empty() ? GuestMemory::Backing::Private
                                                                 : GuestMemory::Backing::Shared));
  } else {
    vm_->pmems_ = TRY(Pmems::open(config_.pmems, layout::pmem_start(config_.memory_bytes)));
    vm_->memory_ = TRY(GuestMemory::create(ram, vm_->pmems_->end()));
    TRY(vm_->pmems_->map_into(*vm_->memory_));
  }
  const AccelChoice choice = TRY(choose_accel(config_));
  log(LogLevel::Info, "accelerator: {}: {}", choice.name(), choice.reason);
  is_kvm_ = choice.kind == AccelKind::Kvm;
  vm_->accel_ = TRY(create_accel(choice.kind, *vm_->memory_, vm_->clock_, config_));
  vm_->accel_name_ = choice.name();
  vm_->accel_reason_ = choice.reason;
  vm_->board_ = TRY(Board::create(config_, {.interrupts = *vm_->accel_,
                                            .clock = vm_->clock_,
                                            .timers = vm_->timers_,
                                            .power = *vm_,
                                            .debug_exit = *vm_,
                                            .serial_output = connections_.serial_output,
                                            .pmem_bytes = vm_->memory_->file_bytes()}));
  return {};
}

Result<void> VmBuilder::create_virtio() {
  PciRoot& pci = vm_->board_->pci();
  if (!connections_.ports.empty()) {
    ConsoleConfig console;
    console.ports = connections_.ports;
    vm_->console_ = std::make_unique<ConsoleDevice>(console);
    vm_->console_pci_ = TRY(VirtioPci::create_in(pci, "virtio-console", *vm_->console_,
                                                 *vm_->memory_, connections_.loop));
  }
  vm_->rng_ = std::make_unique<RngDevice>(vm_->entropy_);
  vm_->rng_pci_ =
      TRY(VirtioPci::create_in(pci, "virtio-rng", *vm_->rng_, *vm_->memory_, connections_.loop));
  TRY(create_vsock());
  if (config_.balloon_bytes) {
    vm_->balloon_ = std::make_unique<BalloonDevice>(*config_.balloon_bytes);
    vm_->balloon_pci_ = TRY(VirtioPci::create_in(pci, "virtio-balloon", *vm_->balloon_,
                                                 *vm_->memory_, connections_.loop));
  }
  if (vm_->pmems_ != nullptr) TRY(vm_->pmems_->add_devices(*vm_->memory_, pci));
  if (!config_.disks.empty()) {
    vm_->disks_ = std::make_unique<Disks>(*vm_->memory_, vm_->clock_);
    TRY(vm_->disks_->open(config_.disks, config_.io_threads, pci));
  }
  if (!config_.vhost_users.empty()) {
    vm_->vhost_users_ = std::make_unique<VhostUsers>(*vm_->memory_);
    TRY(vm_->vhost_users_->open(config_.vhost_users, pci));
  }
  if (!config_.nets.empty()) {
    vm_->nets_ = std::make_unique<Nets>(*vm_->memory_, vm_->clock_, is_kvm_);
    TRY(vm_->nets_->open(config_.nets, pci));
  }
  if (!config_.shares.empty()) {
    vm_->shares_ = std::make_unique<Shares>(*vm_->memory_);
    TRY(vm_->shares_->open(config_.shares, pci));
  }
  return {};
}

Result<void> VmBuilder::create_vsock() {
  if (!config_.vsock && connections_.agent_socket.empty()) return {};
  const bool is_vhost = config_.vsock && config_.vsock->kind == VsockConfig::Kind::Vhost;
  TRY(is_vhost ? create_vhost_vsock() : create_unix_vsock());
  vm_->vsock_pci_ = TRY(VirtioPci::create_in(vm_->board_->pci(), "virtio-vsock", *vm_->vsock_,
                                             *vm_->memory_, connections_.loop));
  return {};
}

Result<void> VmBuilder::create_vhost_vsock() {
  // A guest has one vsock, and whoever can connect to the agent's port is root there.
  if (!connections_.agent_socket.empty()) {
    return fail(
        "--vsock vhost: trapeze exec needs the vsock of a machine with a name for itself; leave "
        "--name and --detach out, or write --vsock PATH");
  }
  const uint64_t cid = config_.vsock->guest_cid;
  auto service = VhostVsock::create(cid);
  if (!service) return fail("--vsock vhost: {}", service.error().message);
  vm_->vsock_service_ = std::move(*service);
  vm_->vsock_ = std::make_unique<ServedVsockDevice>(cid, *vm_->vsock_service_, connections_.loop);
  return {};
}

Result<void> VmBuilder::create_unix_vsock() {
  if (config_.vsock) {
    auto host = UnixHost::create(config_.vsock->path, connections_.loop);
    if (!host) return fail("--vsock {}", host.error().message);
    vm_->vsock_host_ = std::move(*host);
  }
  if (!connections_.agent_socket.empty()) {
    vm_->agent_host_ = TRY(UnixHost::create(connections_.agent_socket, connections_.loop,
                                            UnixHost::Peers::OwnUserAndRoot));
  }
  vm_->vsock_hosts_ = std::make_unique<SplitHost>(vm_->vsock_host_.get(), vm_->agent_host_.get(),
                                                  agent::kSessionPort);
  const uint64_t cid = config_.vsock ? config_.vsock->guest_cid : vsock::kFirstGuestCid;
  auto device = std::make_unique<VsockDevice>(cid, *vm_->vsock_hosts_, connections_.loop, is_kvm_);
  vm_->own_vsock_ = device.get();
  vm_->vsock_ = std::move(device);
  return {};
}

Result<VcpuState> VmBuilder::load_guest() {
  const auto tables = TRY(acpi::build_tables({.vcpus = config_.vcpus,
                                              .ram_size_bytes = config_.memory_bytes,
                                              .pmem_bytes = vm_->memory_->file_bytes()}));
  if (!vm_->memory_->write(tables.base, std::as_bytes(std::span(tables.bytes)))) {
    return fail("no room for the ACPI tables at {:#x}", tables.base.raw());
  }
  const auto kernel = TRY(FileBytes::open(config_.kernel_path, kMaxKernelFileBytes));
  FileBytes initrd;
  if (!config_.initrd_path.empty()) {
    initrd = TRY(FileBytes::open(config_.initrd_path, kMaxInitrdFileBytes));
    if (initrd.bytes().empty()) return fail("{}: is empty", config_.initrd_path);
  }
  const auto kind = TRY(boot::detect(kernel.bytes(), config_.kernel_path));
  vm_->is_linux_ = is_linux_protocol(kind);
  boot::BootConfig boot;
  boot.kernel_name = config_.kernel_path;
  boot.initrd_name = config_.initrd_path;
  boot.initrd = initrd.bytes();
  boot.initrd_overlay = config_.initrd_overlay;
  if (config_.kernel_is_stable) boot.kernel_file = kernel.file();
  if (config_.initrd_is_stable) boot.initrd_file = initrd.file();
  boot.cmdline = vm_->is_linux_ ? join(config_.linux_cmdline, config_.cmdline) : config_.cmdline;
  boot.acpi_rsdp = tables.rsdp();
  const auto loaded = TRY(boot::load_kernel(kernel.bytes(), boot, *vm_->memory_));
  vm_->boot_description_ = loaded.how;
  log(LogLevel::Info, "kernel: {}: {}", config_.kernel_path, loaded.how);
  log(LogLevel::Info, "command line: {}", boot.cmdline);
  return loaded.boot_vcpu;
}

Result<void> VmBuilder::create_vcpus(const VcpuState& boot_state) {
  Vm* vm = vm_.get();
  for (uint32_t i = 0; i < config_.vcpus; ++i) {
    auto vcpu = TRY(vm->accel_->create_vcpu(VcpuId(i), vm->board_->bus()));
    if (i == 0) TRY(vcpu->restore(boot_state));
    vm->vcpus_.push_back(std::make_unique<VcpuThread>(
        VcpuId(i), std::move(vcpu), [vm](VcpuId id, ExitReason reason, std::string error) {
          vm->vcpu_ended(id, reason, std::move(error));
        }));
  }
  return {};
}

}  // namespace trapeze
