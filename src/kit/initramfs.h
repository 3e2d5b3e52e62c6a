// The kit's initramfs: our init, busybox with a link for each of its programs, and kernel modules.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "kit/modules.h"

namespace trapeze::kit {

struct InitramfsParts {
  std::span<const std::byte> init;
  std::span<const std::byte> busybox;
  std::vector<std::string> applets;  // paths without a leading slash: "bin/sh", "usr/bin/awk"
  std::string kernel_release;
  const ModuleSet* modules = nullptr;
};

// An uncompressed archive: guest time is dearer than disk space.
std::vector<std::byte> make_initramfs(const InitramfsParts& parts);

}  // namespace trapeze::kit
