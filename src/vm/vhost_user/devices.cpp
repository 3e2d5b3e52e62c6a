#include "vm/vhost_user/devices.h"

#include <utility>

namespace trapeze {
namespace {

const char* name_of(VhostUserConfig::Kind kind) {
  switch (kind) {
    case VhostUserConfig::Kind::Block:
      return "blk";
    case VhostUserConfig::Kind::Fs:
      return "fs";
    case VhostUserConfig::Kind::Net:
      return "net";
  }
  return "";
}

Result<VhostUserModel> make_model(const VhostUserConfig& config, const VhostUserInfo& info) {
  switch (config.kind) {
    case VhostUserConfig::Kind::Block:
      return vhost_user_block_model(info, config.block);
    case VhostUserConfig::Kind::Fs:
      return vhost_user_fs_model(info, config.tag);
    case VhostUserConfig::Kind::Net:
      break;
  }
  return vhost_user_net_model(info, config.mac);
}

}  // namespace

Result<void> VhostUsers::open(const std::vector<VhostUserConfig>& configs, PciRoot& pci) {
  if (configs.size() > kMaxDevices) {
    return fail("{} vhost-user devices: a machine has at most {}", configs.size(), kMaxDevices);
  }
  units_.reserve(configs.size());
  for (const VhostUserConfig& config : configs) TRY(add(config, pci));
  return {};
}

Result<void> VhostUsers::add(const VhostUserConfig& config, PciRoot& pci) {
  const bool is_block = config.kind == VhostUserConfig::Kind::Block;
  const size_t index = units_.size();
  Unit& unit = units_.emplace_back();
  unit.thread = TRY(EventLoopThread::create(fmt::format("vuser{}", index)));
  EventLoop& loop = unit.thread->loop();
  SocketBackendConfig socket;
  socket.name = config.option;
  socket.path = config.path;
  socket.config_bytes = is_block ? kVhostUserBlockConfigBytes : 0;
  unit.backend = TRY(SocketBackend::create(socket, loop));
  Result<void> made;
  loop.call([&] {
    auto model = make_model(config, unit.backend->info());
    if (!model) {
      made = fail("{}: {}", config.option, model.error().message);
      return;
    }
    unit.device =
        std::make_unique<VhostUserDevice>(std::move(*model), *unit.backend, memory_, loop);
  });
  TRY(std::move(made));
  unit.transport =
      TRY(VirtioPci::create_in(pci, fmt::format("vhost-user-{}{}", name_of(config.kind), index),
                               *unit.device, memory_, loop));
  return {};
}

VhostUsers::~VhostUsers() {
  for (Unit& unit : units_) {
    unit.transport.reset();
    if (unit.thread == nullptr) continue;
    unit.thread->loop().call([&] {
      unit.device.reset();
      unit.backend.reset();
    });
  }
}

}  // namespace trapeze
