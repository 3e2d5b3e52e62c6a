#include "kit/modules.h"

#include <algorithm>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <set>

#include "kit/files.h"
#include "kit/kernel_module.h"

namespace trapeze::kit {
namespace {

namespace fs = std::filesystem;

// Loading costs guest time at every boot, so only the way to the agent's ports is loaded at once.
constexpr const char* kBootModules[] = {"virtio_pci", "virtio_console"};
// For modprobe and for the kernel's own requests; there as far as the distribution has them.
constexpr const char* kOtherModules[] = {
    "virtio_rng",   "virtio_blk", "virtio_net", "virtio_balloon",
    "virtio_mmio",  "virtiofs",   "overlay",    "squashfs",
    "erofs",        "loop",       "vsock",      "vmw_vsock_virtio_transport",
    "virtio_pmem",  "nd_pmem",    "tun",        "af_packet",
    "pvpanic_mmio", "ext4",       "xfs"};

// File names have dashes where module names have underscores.
std::string name_of_file(const fs::path& path) {
  std::string name = path.stem().string();
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

class Collector {
 public:
  explicit Collector(fs::path directory) : directory_(std::move(directory)) {}

  Result<void> scan() {
    std::error_code error;
    for (fs::recursive_directory_iterator it(directory_ / "kernel", error), end; it != end;
         it.increment(error)) {
      if (error) break;
      if (it->path().extension() == ".ko") files_[name_of_file(it->path())] = it->path();
    }
    if (error) return fail("{}: {}", directory_.string(), error.message());
    std::ifstream built_in(directory_ / "modules.builtin");
    for (std::string line; std::getline(built_in, line);) built_in_.insert(name_of_file(line));
    if (files_.empty() && built_in_.empty()) {
      return fail("{}: no uncompressed kernel modules (*.ko) here", directory_.string());
    }
    return {};
  }

  bool has(const std::string& name) const { return files_.count(name) != 0; }
  bool is_built_in(const std::string& name) const { return built_in_.count(name) != 0; }

  // Adds a module and what it needs; gives its index.
  Result<size_t> add(const std::string& name) {
    if (const auto known = indexes_.find(name); known != indexes_.end()) {
      if (known->second == kInProgress) return fail("kernel module {} depends on itself", name);
      return known->second;
    }
    const auto file = files_.find(name);
    if (file == files_.end()) return fail("no kernel module {} in {}", name, directory_.string());
    indexes_[name] = kInProgress;
    PackedModule module;
    module.path = fs::relative(file->second, directory_).string();
    module.name = name;
    module.content = TRY(read_file(file->second));
    const auto info = TRY(read_module_info(module.content, file->second.string()));
    TRY(slim_module(module.content, file->second.string()));
    module.aliases = info.aliases;
    for (const auto& needed : info.depends) {
      if (is_built_in(needed)) continue;
      const size_t index = TRY(add(needed));
      append_once(module.depends, index);
      for (const size_t deeper : set_.modules[index].depends) append_once(module.depends, deeper);
    }
    // Whoever loads them goes from the last to the first. What a module needs was added before it.
    std::sort(module.depends.begin(), module.depends.end(), std::greater<>());
    set_.modules.push_back(std::move(module));
    return indexes_[name] = set_.modules.size() - 1;
  }

  ModuleSet take() && { return std::move(set_); }
  const ModuleSet& set() const { return set_; }

 private:
  static constexpr size_t kInProgress = ~size_t{0};
  static void append_once(std::vector<size_t>& list, size_t index) {
    if (std::find(list.begin(), list.end(), index) == list.end()) list.push_back(index);
  }

  fs::path directory_;
  std::map<std::string, fs::path> files_;
  std::set<std::string> built_in_;
  std::map<std::string, size_t> indexes_;
  ModuleSet set_;
};

}  // namespace

Result<ModuleSet> collect_modules(const fs::path& modules_directory) {
  Collector collector(modules_directory);
  TRY(collector.scan());
  for (const char* name : kBootModules) {
    if (!collector.is_built_in(name)) TRY(collector.add(name));
  }
  const size_t boot_count = collector.set().modules.size();
  for (const char* name : kOtherModules) {
    if (collector.has(name)) TRY(collector.add(name));
  }
  ModuleSet set = std::move(collector).take();
  for (size_t i = 0; i < boot_count; ++i) set.boot.push_back(set.modules[i].path);
  return set;
}

std::string dependency_file(const ModuleSet& set) {
  std::string text;
  for (const auto& module : set.modules) {
    text += module.path + ":";
    for (const size_t index : module.depends) text += " " + set.modules[index].path;
    text += "\n";
  }
  return text;
}

std::string alias_file(const ModuleSet& set) {
  std::string text;
  for (const auto& module : set.modules) {
    for (const auto& alias : module.aliases) text += "alias " + alias + " " + module.name + "\n";
  }
  return text;
}

}  // namespace trapeze::kit
