#include "app/cli/disk.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <string_view>
#include <vector>

#include "app/cli/share.h"
#include "app/cli/words.h"
#include "base/fd.h"

namespace trapeze::cli {
namespace {

struct Parsed {
  DiskConfig disk;
  bool has_access = false;  // ro, rw or overlay= was given
};

Result<void> set_engine(DiskSettings& source, const std::string& value) {
  if (value == "auto") {
    source.engine = IoEngineKind::Auto;
  } else if (value == "uring") {
    source.engine = IoEngineKind::Uring;
  } else if (value == "threads") {
    source.engine = IoEngineKind::Threads;
  } else {
    return fail("io={}: must be auto, uring or threads", value);
  }
  return {};
}

Result<void> set_access(Parsed& parsed, const std::string& key, const std::string& value) {
  if (parsed.has_access) return fail("ro, rw and overlay= exclude each other");
  parsed.has_access = true;
  DiskSettings& source = parsed.disk.source;
  source.is_read_only = key == "ro";
  if (key != "overlay") return {};
  if (value.empty()) return fail("overlay=: write overlay=tmp or overlay=FILE");
  source.overlay = value == "tmp" ? OverlayKind::Temporary : OverlayKind::Kept;
  if (source.overlay == OverlayKind::Kept) source.overlay_path = value;
  return {};
}

Result<void> apply(Parsed& parsed, const std::string& word) {
  DiskConfig& disk = parsed.disk;
  const size_t sign = word.find('=');
  const std::string key = word.substr(0, sign);
  const bool has_value = sign != std::string::npos;
  const std::string value = has_value ? word.substr(sign + 1) : std::string();
  if (((key == "ro" || key == "rw") && !has_value) || (key == "overlay" && has_value)) {
    return set_access(parsed, key, value);
  }
  if (!has_value) return fail("{}: no such word; a value is written as KEY=VALUE", word);
  if (key == "serial") {
    if (value.empty() || value.size() > block::kIdBytes) {
      return fail("serial={}: must have 1 to {} bytes", value, block::kIdBytes);
    }
    disk.serial = value;
    return {};
  }
  if (key == "bw") return set_bucket(disk.limits.bandwidth, key, value, true);
  if (key == "iops") return set_bucket(disk.limits.operations, key, value, false);
  if (key == "io") return set_engine(disk.source, value);
  if (key == "queues") {
    const auto queues = parse_number(value);
    if (!queues || *queues < 1 || *queues > BlockConfig::kMaxQueues) {
      return fail("queues={}: must be 1 to {}", value, BlockConfig::kMaxQueues);
    }
    disk.queues = static_cast<uint16_t>(*queues);
    return {};
  }
  if (key == "format") {
    if (value != "raw") {
      return fail("format={}: only raw is known; convert with: qemu-img convert -O raw", value);
    }
    disk.source.accept_any_format = true;
    return {};
  }
  return fail("{}: no such key; there are ro, rw, overlay, serial, queues, bw, iops, io, format",
              word);
}

Result<Parsed> parse(const std::string& option, const std::string& text) {
  const auto words = split_words(text);
  Parsed parsed;
  parsed.disk.option = option;
  parsed.disk.source.path = words.front();
  if (words.front().empty()) return fail("{} {}: there is no path", option, text);
  for (size_t i = 1; i < words.size(); ++i) {
    const auto applied = apply(parsed, words[i]);
    if (!applied) return fail("{} {}: {}", option, text, applied.error().message);
  }
  return parsed;
}

struct FileSystem {
  const char* name;
  uint64_t magic_offset;
  std::string_view magic;
  bool is_writable;
};
constexpr std::array<FileSystem, 4> kFileSystems = {
    FileSystem{"squashfs", 0, "hsqs", false}, FileSystem{"xfs", 0, "XFSB", true},
    FileSystem{"erofs", 1024, "\xe2\xe1\xf5\xe0", false},
    FileSystem{"ext4", 1024 + 56, "\x53\xef", true}};

Result<FileSystem> detect(const std::string& path) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd.is_open()) return fail_errno("--rootfs {}", path);
  std::array<char, 2048> head{};
  const ssize_t got = ::pread(fd.get(), head.data(), head.size(), 0);
  if (got < 0) return fail_errno("--rootfs {}", path);
  const std::string_view bytes(head.data(), head.size());
  for (const FileSystem& system : kFileSystems) {
    if (bytes.substr(system.magic_offset).starts_with(system.magic)) return system;
  }
  const bool has_partitions = bytes.substr(510).starts_with("\x55\xaa");
  return fail("--rootfs {}: {}", path,
              has_partitions ? "is a disk with partitions; it must be the file system alone"
                             : "has no ext4, erofs, squashfs or xfs file system");
}

}  // namespace

Result<DiskConfig> parse_disk_option(const std::string& text) {
  return TRY(parse("--disk", text)).disk;
}

Result<VsockConfig> parse_vsock_option(const std::string& text) {
  const auto words = split_words(text);
  VsockConfig config;
  if (words.front() == "vhost") {
    config.kind = VsockConfig::Kind::Vhost;
  } else {
    config.path = words.front();
    if (config.path.empty()) return fail("--vsock {}: there is no path", text);
  }
  for (size_t i = 1; i < words.size(); ++i) {
    if (!words[i].starts_with("cid="))
      return fail("--vsock {}: {}: only cid=N is known", text, words[i]);
    const auto cid = parse_number(std::string_view(words[i]).substr(4));
    if (!cid || *cid < vsock::kFirstGuestCid || *cid > vsock::kMaxGuestCid) {
      return fail("--vsock {}: {}: must be {} to {}", text, words[i], vsock::kFirstGuestCid,
                  vsock::kMaxGuestCid);
    }
    config.guest_cid = *cid;
  }
  return config;
}

Result<PmemConfig> parse_pmem_option(const std::string& text) {
  const auto words = split_words(text);
  PmemConfig config;
  config.path = words.front();
  if (config.path.empty()) return fail("--pmem {}: there is no path", text);
  for (size_t i = 1; i < words.size(); ++i) {
    if (words[i] != "ro") return fail("--pmem {}: {}: only ro is known", text, words[i]);
    config.is_read_only = true;
  }
  return config;
}

Result<RootFileSystem> parse_rootfs_option(const std::string& text) {
  if (auto folder = TRY(parse_root_folder(text))) {
    RootFileSystem root;
    root.init_arguments =
        fmt::format("trapeze.root={}:virtiofs:{}", folder->share.tag, folder->mode);
    root.kernel_arguments = fmt::format("root={} rootfstype=virtiofs {}", folder->share.tag,
                                        folder->share.is_read_only ? "ro" : "rw");
    root.share = std::move(folder->share);
    return root;
  }
  auto parsed = TRY(parse("--rootfs", text));
  DiskSettings& source = parsed.disk.source;
  const FileSystem system = TRY(detect(source.path));
  // ro: nothing can be written. Else something can: to the image, to a layer of the disk, or, for
  // file systems that cannot be written to, to one in the guest's memory.
  const bool wants_read_only = source.is_read_only;
  if (!system.is_writable) {
    if (parsed.has_access && !wants_read_only) {
      return fail("--rootfs {}: {} cannot be written to; leave rw and overlay= out", text,
                  system.name);
    }
    source.is_read_only = true;
  } else if (!parsed.has_access) {
    source.overlay = OverlayKind::Temporary;
  }
  const bool is_layered = !system.is_writable && !wants_read_only;
  RootFileSystem root;
  root.init_arguments = fmt::format("trapeze.root=/dev/vda:{}:{}", system.name,
                                    is_layered ? "layer" : (wants_read_only ? "ro" : "rw"));
  root.kernel_arguments =
      fmt::format("root=/dev/vda rootfstype={} {}", system.name, source.is_read_only ? "ro" : "rw");
  root.disk = std::move(parsed.disk);
  return root;
}

}  // namespace trapeze::cli
