// VmInfo: what a running machine tells about itself, in a file of its entry (run_directory.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace trapeze::manage {

struct VmInfo {
  std::string name;
  int64_t pid = 0;
  std::string accelerator;
  uint32_t vcpus = 0;
  uint64_t memory_bytes = 0;
  int64_t started_at = 0;            // seconds since 1970
  std::vector<std::string> command;  // empty: the guest's shell, or a kernel of the user's
  bool has_agent = false;
  bool is_detached = false;

  bool operator==(const VmInfo&) const = default;
};

std::string to_json(const VmInfo& info);
// Nothing when it is not such a text.
std::optional<VmInfo> parse_info(std::string_view json);

}  // namespace trapeze::manage
