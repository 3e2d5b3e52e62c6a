// The distribution's packages, fetched and unpacked as an ordinary user: apt-get and dpkg-deb write
// into our own folders only.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace trapeze::kit {

// Told of each step as it begins, for people: "downloading busybox-static".
using Progress = std::function<void(std::string_view step)>;

class PackageSource {
 public:
  // `cache` is created when needed; downloads stay there for the next time.
  static Result<PackageSource> create(std::filesystem::path cache, Progress progress);

  // The newest package that `package` depends on and whose name begins with `prefix`.
  Result<std::string> dependency(const std::string& package, const std::string& prefix);
  // Downloads (unless it is there already) and unpacks into `directory`. Gives name and version.
  Result<std::string> unpack(const std::string& package, const std::filesystem::path& directory);

 private:
  PackageSource(std::filesystem::path cache, Progress progress)
      : cache_(std::move(cache)), progress_(std::move(progress)) {}
  Result<std::string> apt(const std::string& program, std::vector<std::string> arguments);
  Result<void> ensure_lists(const std::string& package);
  bool knows(const std::string& package);

  std::filesystem::path cache_;
  Progress progress_;
  bool private_lists_ = false;  // the system's package lists are missing or too old
};

}  // namespace trapeze::kit
