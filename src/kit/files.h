// Whole files, read and written in one piece.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <vector>

#include "base/result.h"

namespace trapeze::kit {

Result<std::vector<std::byte>> read_file(const std::filesystem::path& path);
// Says so when the disk is full: nothing half-written counts as success.
Result<void> write_file(const std::filesystem::path& path, std::span<const std::byte> content);

}  // namespace trapeze::kit
