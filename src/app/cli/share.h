// --share, and folders as --rootfs: as people write them.
#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "vm/config.h"

namespace trapeze::cli {

inline constexpr const char* kShareHelp =
    "Share a folder of the host: HOST:GUEST[:ro], any number of times; the guest has it at the "
    "absolute path GUEST, and reaches nothing outside HOST. ro: the guest cannot change it. "
    "Without root on the host its files are the guest root's. A kernel without a command mounts "
    "them itself, as virtiofs with the tags share0, share1, ...";

// `index` gives the tag. Checks the text, not the host.
Result<ShareConfig> parse_share_option(const std::string& text, size_t index);

struct RootFolder {
  ShareConfig share;
  std::string mode;  // "layer", "rw" or "ro", for the kit's init
};
// PATH, and rw or ro after a comma or colon. Empty when there is no such folder: then it is
// something else.
Result<std::optional<RootFolder>> parse_root_folder(const std::string& text);

}  // namespace trapeze::cli
