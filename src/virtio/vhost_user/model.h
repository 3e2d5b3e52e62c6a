// VhostUserModel: what the guest sees of a vhost-user device, made from what the back end says, and
// what happens to requests while the back end is away. A plain value.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "virtio/features.h"
#include "virtio/vhost_user/backend.h"

namespace trapeze {

// A chain while there is no back end.
enum class OutageRule : uint8_t {
  Hold,  // it waits
  Fail,  // it waits for `give_up_after`, then it and later ones get a virtio-blk I/O error
  Drop,  // it is given back as if it had been done
};

struct VhostUserQueueModel {
  uint16_t max_size = 0;
  // Shorter chains never reach the back end: none of them is of any use, some stop back ends.
  uint32_t min_readable_bytes = 0;
  uint32_t min_writable_bytes = 0;
  OutageRule outage = OutageRule::Hold;
};

struct VhostUserModel {
  VirtioType type = VirtioType::Block;
  uint64_t features = 0;  // offered to the guest
  std::vector<VhostUserQueueModel> queues;
  std::vector<std::byte> config;
  // The configuration is the back end's: it may change when it comes back.
  bool is_config_remote = false;
  // The one byte of it that the guest may write, as far as the feature is offered.
  std::optional<uint32_t> writable_config_offset;
  std::chrono::nanoseconds give_up_after{0};
};

struct VhostUserBlockSettings {
  static constexpr uint16_t kMaxQueues = 32;
  uint16_t queues = 1;
  std::chrono::nanoseconds give_up_after{std::chrono::seconds(10)};
};

// Each fails, with words for the administrator, when the back end cannot be used.
Result<VhostUserModel> vhost_user_block_model(const VhostUserInfo& info,
                                              const VhostUserBlockSettings& settings);
Result<VhostUserModel> vhost_user_fs_model(const VhostUserInfo& info, const std::string& tag);
Result<VhostUserModel> vhost_user_net_model(const VhostUserInfo& info,
                                            const std::array<uint8_t, 6>& mac);
// The configuration of a back end that came back, in the model's words.
std::vector<std::byte> vhost_user_config(const VhostUserModel& model, const VhostUserInfo& info);

// How many bytes of configuration to ask the back end for.
inline constexpr uint32_t kVhostUserBlockConfigBytes = 60;
inline constexpr size_t kVhostUserMaxTagBytes = 36;

}  // namespace trapeze
