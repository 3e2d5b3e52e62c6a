// --vhost-user: devices of other processes, as people write them.
#pragma once

#include <string>

#include "base/result.h"
#include "vm/config.h"

namespace trapeze::cli {

inline constexpr const char* kVhostUserHelp =
    "A device that another process serves over a vhost-user socket, any number of times: "
    "blk:SOCKET[,queues=N][,reconnect=S] (a disk, for example of qemu-storage-daemon; without its "
    "process requests wait S seconds, 10 by default, and then fail), fs:SOCKET,tag=NAME (a folder, "
    "for example of virtiofsd; mount it in the guest as virtiofs NAME), net:SOCKET[,mac=...]. The "
    "process can read and write all of the guest's memory";

// Checks the text, not the host.
Result<VhostUserConfig> parse_vhost_user_option(const std::string& text);

}  // namespace trapeze::cli
