#include "vm/shares.h"

#include <sys/resource.h>

#include <algorithm>
#include <filesystem>

#include "base/units.h"

namespace trapeze {
namespace {

namespace files = std::filesystem;

// Descriptors for everything else in the process.
constexpr uint64_t kOtherDescriptors = 256;
constexpr uint64_t kMinDescriptors = 64;  // for each share
constexpr uint64_t kMaxDescriptors = 256 * 1024;

// As many as the administrator lets us have; how many that are.
uint64_t raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  const rlim_t wanted = std::min<rlim_t>(limit.rlim_max, kMaxDescriptors);
  if (limit.rlim_cur < wanted) {
    const rlimit raised{.rlim_cur = wanted, .rlim_max = limit.rlim_max};
    if (::setrlimit(RLIMIT_NOFILE, &raised) == 0) limit.rlim_cur = wanted;
  }
  return std::min<uint64_t>(limit.rlim_cur, kMaxDescriptors);
}

// A guest's kernel needs more than 1 KiB for a file that it remembers, so an honest one meets no
// limit, and a dishonest one costs the host less than its own memory.
uint32_t inode_limit(uint64_t memory_bytes) {
  return static_cast<uint32_t>(std::clamp<uint64_t>(memory_bytes / KiB, 64 * KiB, 16 * MiB));
}

Result<FolderLimits> limits_of(uint64_t memory_bytes, size_t shares) {
  const uint64_t all = raise_descriptor_limit();
  const uint64_t each = all > kOtherDescriptors ? (all - kOtherDescriptors) / shares : 0;
  if (each < kMinDescriptors) {
    return fail("{} shared folders need {} open files, and the limit is {}: raise it (ulimit -n)",
                shares, kOtherDescriptors + shares * kMinDescriptors, all);
  }
  FolderLimits limits;
  limits.inodes.inodes = inode_limit(memory_bytes);
  // An open file takes two. A quarter each for files that are open, files that were removed while
  // the guest knew them, and those kept open to be quick.
  limits.handles = static_cast<uint32_t>(each / 4);
  limits.inodes.nameless = limits.inodes.descriptors = static_cast<uint32_t>(each / 4 - 8);
  return limits;
}

// Whether `inner` is `outer` or lies in it.
bool is_within(const files::path& inner, const files::path& outer) {
  const auto [end, unused] = std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end());
  return end == outer.end();
}

Result<void> check_pair(const std::string& option, const files::path& first,
                        const files::path& second, const char* where) {
  if (first == second) return fail("{} {}: is shared twice ({})", option, first.string(), where);
  if (is_within(first, second)) {
    return fail("{} {}: lies inside {}, which is shared too ({})", option, first.string(),
                second.string(), where);
  }
  if (is_within(second, first)) {
    return fail("{} {}: lies inside {}, which is shared too ({})", option, second.string(),
                first.string(), where);
  }
  return {};
}

}  // namespace

Result<void> check_nesting(const std::vector<ShareConfig>& configs) {
  std::vector<files::path> on_host;
  for (const auto& config : configs) {
    std::error_code error;
    on_host.push_back(files::canonical(config.host_path, error));
    if (error) return fail("{} {}: {}", config.option, config.host_path, error.message());
  }
  for (size_t i = 0; i < configs.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      // A root that stays as it is may have a folder of its own shared to be written.
      if (configs[i].guest_path.empty() || configs[j].guest_path.empty()) continue;
      TRY(check_pair(configs[i].option, files::path(configs[i].guest_path).lexically_normal(),
                     files::path(configs[j].guest_path).lexically_normal(), "in the guest"));
      TRY(check_pair(configs[i].option, on_host[i], on_host[j], "on the host"));
    }
  }
  return {};
}

Result<void> Shares::open(const std::vector<ShareConfig>& configs, PciRoot& pci) {
  if (configs.size() > kMaxShares) {
    return fail("--share: {} shared folders, and a machine has at most {}", configs.size(),
                kMaxShares);
  }
  TRY(check_nesting(configs));
  const FolderLimits limits = TRY(limits_of(memory_.size_bytes(), configs.size()));
  units_.reserve(configs.size());
  for (const auto& config : configs) TRY(add(config, limits, pci));
  return {};
}

Result<void> Shares::add(const ShareConfig& config, const FolderLimits& limits, PciRoot& pci) {
  const size_t index = units_.size();
  Unit& unit = units_.emplace_back();
  auto server = FuseServer::create({.path = config.host_path,
                                    .is_read_only = config.is_read_only,
                                    .is_static = config.is_static,
                                    .limits = limits});
  if (!server) return fail("{} {}", config.option, server.error().message);
  unit.server = std::move(*server);
  unit.thread = TRY(EventLoopThread::create(fmt::format("fs{}", index)));
  unit.device =
      std::make_unique<FsDevice>(FsConfig{.tag = config.tag}, *unit.server, unit.thread->loop());
  unit.transport = TRY(VirtioPci::create_in(pci, fmt::format("virtio-fs{}", index), *unit.device,
                                            memory_, unit.thread->loop()));
  return {};
}

Shares::~Shares() {
  for (Unit& unit : units_) {
    unit.transport.reset();
    if (unit.thread) unit.thread->loop().call([&] { unit.device.reset(); });
  }
}

}  // namespace trapeze
