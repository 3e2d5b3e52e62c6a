// Builds a VM from its configuration: the only place that knows concrete accelerators and devices.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "vm/config.h"
#include "vm/vm.h"

namespace trapeze {

// What the VM is connected to; outlives it.
struct VmConnections {
  EventLoop& loop;
  ByteSink& serial_output;
  std::vector<ConsolePortConfig> ports;  // of its virtio-console; none: no such device
  std::string agent_socket{};            // where further sessions come in; empty: nowhere
};

class VmBuilder {
 public:
  static Result<std::unique_ptr<Vm>> build(const VmConfig& config,
                                           const VmConnections& connections);

 private:
  VmBuilder(const VmConfig& config, const VmConnections& connections)
      : config_(config), connections_(connections), vm_(new Vm(connections.loop)) {}
  Result<void> create_machine();
  Result<void> create_virtio();
  Result<void> create_vsock();
  Result<void> create_unix_vsock();
  Result<void> create_vhost_vsock();
  Result<VcpuState> load_guest();
  Result<void> create_vcpus(const VcpuState& boot_state);

  const VmConfig& config_;
  const VmConnections& connections_;
  std::unique_ptr<Vm> vm_;
  bool is_kvm_ = false;
};

// Checks what can be checked without building anything. The message names the value.
Result<void> validate(const VmConfig& config);
Result<void> check_balloon(uint64_t balloon_bytes, uint64_t memory_bytes);

}  // namespace trapeze
