// --disk, --rootfs, --vsock and --pmem: devices as people write them.
#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "vm/config.h"

namespace trapeze::cli {

inline constexpr const char* kDiskHelp =
    "A disk: PATH[,KEY[=VALUE]...], any number of times; an image file (raw) or a block device. "
    "ro: read-only. overlay=tmp: PATH stays as it is, what the guest writes is forgotten at the "
    "end. overlay=FILE: it goes to FILE, which is made if need be and can be used again. "
    "serial=TEXT: /sys/block/vda/serial. queues=N: 1 to 32. bw=SIZE and iops=N: at most so much a "
    "second; as SIZE:MS:BURST a token bucket of that size that fills in MS milliseconds, with "
    "BURST "
    "more at the start. io=uring, io=threads: how the host reads and writes. format=raw: "
    "raw even if it looks like another format. A comma in PATH is written twice";
inline constexpr const char* kRootfsHelp =
    "Run the command in this folder of the host, or in this ext4, erofs or squashfs image: "
    "PATH[,KEY[=VALUE]...], for images as with --disk. It stays as it is, what the command writes "
    "is forgotten at the end; rw writes to the folder or image, ro mounts it read-only, and for "
    "images overlay=FILE keeps the changes there";

// Checks the text, not the host.
Result<DiskConfig> parse_disk_option(const std::string& text);

// --vsock PATH[,cid=N] or --vsock vhost[,cid=N]
Result<VsockConfig> parse_vsock_option(const std::string& text);

// One of the two.
// --pmem FILE[,ro]
Result<PmemConfig> parse_pmem_option(const std::string& text);

struct RootFileSystem {
  std::optional<DiskConfig> disk;
  std::optional<ShareConfig> share;
  std::string init_arguments;    // kernel command line, for the kit's init
  std::string kernel_arguments;  // the same for a kernel that mounts its root itself
};
// Looks at the file to find out which file system it is.
Result<RootFileSystem> parse_rootfs_option(const std::string& text);

}  // namespace trapeze::cli
