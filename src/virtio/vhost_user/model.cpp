#include "virtio/vhost_user/model.h"

#include <algorithm>
#include <cstring>
#include <span>

#include "virtio/block/protocol.h"
#include "virtio/fs/protocol.h"
#include "virtio/net/protocol.h"
#include "virtio/vhost_user/shadow_queue.h"

namespace trapeze {
namespace {

static_assert(kVhostUserBlockConfigBytes == block::kConfigBytes);
static_assert(kVhostUserMaxTagBytes == fs::kTagBytes);

// What a back end may offer the guest. Whatever else it has (features of queues among it, for its
// queues are not the guest's) stays between it and us.
constexpr uint64_t kBlockFeatures =
    block::kFeatureSizeMax | block::kFeatureSegMax | block::kFeatureReadOnly |
    block::kFeatureBlkSize | block::kFeatureFlush | block::kFeatureTopology |
    block::kFeatureConfigWce | block::kFeatureDiscard | block::kFeatureWriteZeroes;
constexpr uint64_t kNetFeatures = net::kHostOffloads | net::kFeatureGuestCsum |
                                  net::kFeatureGuestTso4 | net::kFeatureGuestTso6 |
                                  net::kFeatureGuestEcn | net::kFeatureMergeableBuffers;

constexpr uint16_t kBlockQueueSize = 256;
constexpr uint16_t kFsQueueSize = ShadowQueue::kSize;
constexpr uint16_t kNetQueueSize = 256;

Result<void> check(const VhostUserInfo& info, size_t queues) {
  if ((info.features & kFeatureVersion1) == 0) {
    return fail("the back end is too old: it does not offer VIRTIO_F_VERSION_1");
  }
  if (info.queues < queues) {
    return fail("the back end has {} queues, and {} are needed", info.queues, queues);
  }
  return {};
}

block::Config block_config(const VhostUserInfo& info, uint16_t queues) {
  block::Config config;
  std::memcpy(static_cast<void*>(&config), info.config.data(),
              std::min<size_t>(info.config.size(), block::kConfigBytes));
  config.num_queues = queues;
  return config;
}

std::vector<std::byte> bytes_of(const void* data, size_t size) {
  const auto* from = static_cast<const std::byte*>(data);
  return {from, from + size};
}

}  // namespace

Result<VhostUserModel> vhost_user_block_model(const VhostUserInfo& info,
                                              const VhostUserBlockSettings& settings) {
  TRY(check(info, settings.queues));
  if (info.config.size() != block::kConfigBytes) {
    return fail("the back end told {} bytes of its configuration, not {}", info.config.size(),
                block::kConfigBytes);
  }
  VhostUserModel model;
  model.type = VirtioType::Block;
  model.features = info.features & kBlockFeatures;
  if (settings.queues > 1) model.features |= block::kFeatureMultiQueue;
  model.queues.assign(settings.queues, {.max_size = kBlockQueueSize,
                                        .min_readable_bytes = sizeof(block::RequestHeader),
                                        .min_writable_bytes = 1,
                                        .outage = OutageRule::Fail});
  model.is_config_remote = true;
  const block::Config config = block_config(info, settings.queues);
  model.config = bytes_of(&config, block::kConfigBytes);
  if ((model.features & block::kFeatureConfigWce) != 0) {
    model.writable_config_offset = offsetof(block::Config, writeback);
  }
  model.give_up_after = settings.give_up_after;
  return model;
}

Result<VhostUserModel> vhost_user_fs_model(const VhostUserInfo& info, const std::string& tag) {
  VhostUserModel model;
  model.type = VirtioType::FileSystem;
  const VhostUserQueueModel queue{.max_size = kFsQueueSize,
                                  .min_readable_bytes = fs::kRequestHeaderBytes};
  model.queues.assign(fs::kFirstRequestQueue + 1, queue);
  TRY(check(info, model.queues.size()));
  fs::Config config;
  std::memcpy(config.tag, tag.data(), std::min(tag.size(), fs::kTagBytes));
  config.num_request_queues = 1;
  model.config = bytes_of(&config, sizeof(config));
  return model;
}

Result<VhostUserModel> vhost_user_net_model(const VhostUserInfo& info,
                                            const std::array<uint8_t, 6>& mac) {
  VhostUserModel model;
  model.type = VirtioType::Net;
  model.features = (info.features & kNetFeatures) | net::kFeatureMac;
  constexpr uint32_t kHeaderBytes = 12;  // virtio 1.2 §5.1.6
  model.queues = {
      {.max_size = kNetQueueSize, .min_writable_bytes = kHeaderBytes},
      {.max_size = kNetQueueSize, .min_readable_bytes = kHeaderBytes, .outage = OutageRule::Drop}};
  // A back end without several queues does not count the two of a pair.
  VhostUserInfo pair = info;
  pair.queues = std::max<uint16_t>(info.queues, 2);
  TRY(check(pair, model.queues.size()));
  net::Config config;
  config.mac = mac;
  model.config = bytes_of(&config, sizeof(config));
  return model;
}

std::vector<std::byte> vhost_user_config(const VhostUserModel& model, const VhostUserInfo& info) {
  if (!model.is_config_remote) return model.config;
  const block::Config config = block_config(info, static_cast<uint16_t>(model.queues.size()));
  return bytes_of(&config, block::kConfigBytes);
}

}  // namespace trapeze
