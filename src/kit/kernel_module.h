// Kernel modules as the kit treats them: what a module says of itself, and how it gets cheaper to
// load. Input comes from a distribution package; still, every offset is checked.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace trapeze::kit {

struct ModuleInfo {
  std::string name;                  // with underscores, as the kernel has it
  std::vector<std::string> depends;  // names
  std::vector<std::string> aliases;
};

// Reads the .modinfo section (Linux include/linux/moduleparam.h). `what` names the file in errors.
Result<ModuleInfo> read_module_info(std::span<const std::byte> image, const std::string& what);

// Drops what makes loading slow and serves no guest of ours: the signature at the end (its check is
// RSA on the guest's CPU; the kernel notes an unsigned module and goes on) and the BTF section
// (parsed at load time for BPF tracing).
Result<void> slim_module(std::vector<std::byte>& image, const std::string& what);

}  // namespace trapeze::kit
