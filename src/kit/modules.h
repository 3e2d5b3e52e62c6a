// Which kernel modules go into the kit, and in which order init loads them.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"

namespace trapeze::kit {

struct PackedModule {
  std::string path;  // below /lib/modules/<release>, e.g. "kernel/drivers/virtio/virtio.ko"
  std::string name;
  std::vector<size_t> depends;  // indexes into the list, transitive, each before what it needs
  std::vector<std::string> aliases;
  std::vector<std::byte> content;  // slimmed (kit/kernel_module.h)
};

struct ModuleSet {
  std::vector<PackedModule> modules;  // what a module depends on comes before it
  std::vector<std::string> boot;      // paths, in loading order: what init loads at once
};

// Takes the kit's modules, as far as this kernel has them as modules, from an unpacked package.
// Fails when one that the boot needs is neither there nor built in.
Result<ModuleSet> collect_modules(const std::filesystem::path& modules_directory);

// The files that busybox modprobe reads: modules.dep and modules.alias.
std::string dependency_file(const ModuleSet& set);
std::string alias_file(const ModuleSet& set);

}  // namespace trapeze::kit
