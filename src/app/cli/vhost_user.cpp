#include "app/cli/vhost_user.h"

#include <string_view>

#include "app/cli/net.h"
#include "app/cli/words.h"

namespace trapeze::cli {
namespace {

constexpr uint64_t kMaxReconnectSeconds = 24 * 60 * 60;

std::optional<VhostUserConfig::Kind> parse_kind(std::string_view text) {
  if (text == "blk") return VhostUserConfig::Kind::Block;
  if (text == "fs") return VhostUserConfig::Kind::Fs;
  if (text == "net") return VhostUserConfig::Kind::Net;
  return std::nullopt;
}

Result<void> set_block_key(VhostUserConfig& config, std::string_view key,
                           const std::string& value) {
  const auto number = parse_number(value);
  if (key == "queues") {
    if (!number || *number == 0 || *number > VhostUserBlockSettings::kMaxQueues) {
      return fail("queues={}: must be 1 to {}", value, VhostUserBlockSettings::kMaxQueues);
    }
    config.block.queues = static_cast<uint16_t>(*number);
    return {};
  }
  if (!number || *number > kMaxReconnectSeconds) {
    return fail("reconnect={}: must be 0 to {} seconds", value, kMaxReconnectSeconds);
  }
  config.block.give_up_after = std::chrono::seconds(*number);
  return {};
}

Result<void> set_key(VhostUserConfig& config, std::string_view key, const std::string& value) {
  switch (config.kind) {
    case VhostUserConfig::Kind::Block:
      if (key == "queues" || key == "reconnect") return set_block_key(config, key, value);
      return fail("{}: only queues= and reconnect= are known for blk", key);
    case VhostUserConfig::Kind::Fs:
      if (key != "tag") return fail("{}: only tag= is known for fs", key);
      if (value.empty() || value.size() > kVhostUserMaxTagBytes) {
        return fail("tag={}: must have 1 to {} bytes", value, kVhostUserMaxTagBytes);
      }
      config.tag = value;
      return {};
    case VhostUserConfig::Kind::Net:
      if (key != "mac") return fail("{}: only mac= is known for net", key);
      config.mac = TRY(parse_card_address(value));
      return {};
  }
  return {};
}

}  // namespace

Result<VhostUserConfig> parse_vhost_user_option(const std::string& text) {
  const auto words = split_words(text);
  const size_t colon = words.front().find(':');
  const auto kind = parse_kind(std::string_view(words.front()).substr(0, colon));
  if (!kind || colon == std::string::npos) {
    return fail("--vhost-user {}: must be blk:SOCKET, fs:SOCKET,tag=NAME or net:SOCKET", text);
  }
  VhostUserConfig config;
  config.kind = *kind;
  config.path = words.front().substr(colon + 1);
  config.option = "--vhost-user " + words.front();
  if (config.path.empty()) return fail("--vhost-user {}: there is no socket's path", text);
  if (config.kind == VhostUserConfig::Kind::Net) config.mac = random_card_address();
  for (size_t i = 1; i < words.size(); ++i) {
    const size_t equals = words[i].find('=');
    const std::string value = equals == std::string::npos ? "" : words[i].substr(equals + 1);
    const auto set = set_key(config, std::string_view(words[i]).substr(0, equals), value);
    if (!set) return fail("--vhost-user {}: {}", text, set.error().message);
  }
  if (config.kind == VhostUserConfig::Kind::Fs && config.tag.empty()) {
    return fail("--vhost-user {}: needs tag=NAME, the name by which the guest mounts it", text);
  }
  return config;
}

}  // namespace trapeze::cli
