// Makes a guest kit from the distribution's packages, without root: `trapeze kit build`.
#pragma once

#include <filesystem>

#include "base/result.h"
#include "kit/kit.h"
#include "kit/packages.h"

namespace trapeze::kit {

struct BuildConfig {
  std::filesystem::path output;  // the kit's folder; an older kit there is replaced
  std::filesystem::path cache;   // downloads
};

// Whoever reads `output` at any moment finds the old kit or the new one, never a half of one.
Result<Kit> build_kit(const BuildConfig& config, const Progress& progress);

}  // namespace trapeze::kit
