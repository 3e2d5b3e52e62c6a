#include "vm/manage/vm_info.h"

#include <nlohmann/json.hpp>

namespace trapeze::manage {
namespace {

using Json = nlohmann::json;

template <typename T>
bool take_number(const Json& object, const char* key, T& value) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number_integer()) return false;
  value = found->get<T>();
  return true;
}

bool take_text(const Json& object, const char* key, std::string& value) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_string()) return false;
  value = found->get<std::string>();
  return true;
}

bool take_flag(const Json& object, const char* key, bool& value) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_boolean()) return false;
  value = found->get<bool>();
  return true;
}

}  // namespace

std::string to_json(const VmInfo& info) {
  Json json;
  json["name"] = info.name;
  json["pid"] = info.pid;
  json["accelerator"] = info.accelerator;
  json["cpus"] = info.vcpus;
  json["memory_bytes"] = info.memory_bytes;
  json["started_at"] = info.started_at;
  json["command"] = info.command;
  json["agent"] = info.has_agent;
  json["detached"] = info.is_detached;
  // Arguments need not be UTF-8.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::optional<VmInfo> parse_info(std::string_view text) {
  const Json json = Json::parse(text, nullptr, false);
  VmInfo info;
  if (!json.is_object() || !take_text(json, "name", info.name) ||
      !take_number(json, "pid", info.pid) || !take_text(json, "accelerator", info.accelerator) ||
      !take_number(json, "cpus", info.vcpus) ||
      !take_number(json, "memory_bytes", info.memory_bytes) ||
      !take_number(json, "started_at", info.started_at) ||
      !take_flag(json, "agent", info.has_agent) || !take_flag(json, "detached", info.is_detached)) {
    return std::nullopt;
  }
  const auto command = json.find("command");
  if (command == json.end() || !command->is_array()) return std::nullopt;
  for (const Json& word : *command) {
    if (!word.is_string()) return std::nullopt;
    info.command.push_back(word.get<std::string>());
  }
  return info;
}

}  // namespace trapeze::manage
