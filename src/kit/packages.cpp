#include "kit/packages.h"

#include <sstream>

#include "kit/process.h"

namespace trapeze::kit {
namespace {

namespace fs = std::filesystem;

Result<void> make_directories(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) return fail("cannot create {}: {}", path.string(), error.message());
  return {};
}

}  // namespace

Result<PackageSource> PackageSource::create(fs::path cache, Progress progress) {
  for (const char* program : {"apt-get", "apt-cache", "dpkg-deb"}) {
    if (!program_exists(program)) {
      return fail(
          "no {} here: a kit is made on Debian or a system derived from it. Make it there with "
          "`trapeze kit build --output DIR`, copy DIR here and name it with --kit DIR or "
          "TRAPEZE_KIT",
          program);
    }
  }
  TRY(make_directories(cache / "debs"));
  TRY(make_directories(cache / "apt/lists/partial"));
  TRY(make_directories(cache / "apt/archives/partial"));
  return PackageSource(std::move(cache), std::move(progress));
}

Result<std::string> PackageSource::apt(const std::string& program,
                                       std::vector<std::string> arguments) {
  // A package cache of our own: where the system keeps none (containers), or we may not write it,
  // every call would read all lists again.
  const std::string apt_cache = (cache_ / "apt").string();
  std::vector<std::string> options = {"APT::Sandbox::User=root", "Dir::Cache=" + apt_cache,
                                      "Dir::Cache::pkgcache=pkgcache.bin",
                                      "Dir::Cache::srcpkgcache=srcpkgcache.bin"};
  if (private_lists_) {
    options.push_back("Dir::State::Lists=" + apt_cache + "/lists");
    options.push_back("Debug::NoLocking=1");
  }
  std::vector<std::string> command = {program, "-q"};
  for (auto& option : options) command.insert(command.end(), {"-o", std::move(option)});
  const std::string verb = arguments.front();
  command.insert(command.end(), arguments.begin(), arguments.end());
  auto output = TRY(run_process(command, cache_ / "debs"));
  if (output.exit_status != 0) {
    return fail("{} {} failed (status {}):\n{}", program, verb, output.exit_status,
                last_lines(output.err.empty() ? output.out : output.err, 6));
  }
  return std::move(output.out);
}

bool PackageSource::knows(const std::string& package) {
  const auto answer = apt("apt-cache", {"show", "--no-all-versions", package});
  return answer && answer->find("Filename:") != std::string::npos;
}

Result<void> PackageSource::ensure_lists(const std::string& package) {
  if (knows(package)) return {};
  if (!private_lists_) {
    private_lists_ = true;
    if (knows(package)) return {};  // from an earlier run
    progress_("reading the package lists (apt-get update, into a private folder)");
    TRY(apt("apt-get", {"update"}));
    if (knows(package)) return {};
  }
  return fail(
      "package {} is not in this system's package sources (/etc/apt/sources.list): the kit is made "
      "from Debian's packages; add a Debian source, or copy a kit made elsewhere and use --kit DIR",
      package);
}

Result<std::string> PackageSource::dependency(const std::string& package,
                                              const std::string& prefix) {
  TRY(ensure_lists(package));
  std::istringstream lines(TRY(apt("apt-cache", {"depends", "--important", package})));
  std::string newest;
  for (std::string line; std::getline(lines, line);) {
    constexpr std::string_view kField = "Depends: ";
    const size_t field = line.find(kField);
    if (field == std::string::npos) continue;
    const std::string name = line.substr(field + kField.size());
    if (name.starts_with(prefix)) newest = std::max(newest, name);
  }
  if (newest.empty())
    return fail("package {} depends on no package whose name begins with {}", package, prefix);
  return newest;
}

Result<std::string> PackageSource::unpack(const std::string& package, const fs::path& directory) {
  TRY(ensure_lists(package));
  progress_("downloading " + package);
  auto downloaded = apt("apt-get", {"download", package});
  if (!downloaded && !private_lists_) {
    // Lists that are older than the archive name files that are gone by now.
    private_lists_ = true;
    progress_("the package lists are out of date: reading them anew");
    TRY(apt("apt-get", {"update"}));
    progress_("downloading " + package);
    downloaded = apt("apt-get", {"download", package});
  }
  if (!downloaded) return Unexpected(downloaded.error());

  // "<name>_<version>_<architecture>.deb"; take the newest when older ones lie about.
  fs::path archive;
  fs::file_time_type newest;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(cache_ / "debs", error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(package + "_") || !name.ends_with(".deb")) continue;
    const auto time = entry.last_write_time(error);
    if (archive.empty() || time > newest) {
      archive = entry.path();
      newest = time;
    }
  }
  if (archive.empty()) return fail("apt-get download {}: no file came", package);

  progress_("unpacking " + package);
  TRY(make_directories(directory));
  const auto output = TRY(run_process({"dpkg-deb", "-x", archive.string(), directory.string()}));
  if (output.exit_status != 0) {
    return fail("cannot unpack {}: {}", archive.string(), last_lines(output.err, 3));
  }
  const auto version = TRY(run_process({"dpkg-deb", "-f", archive.string(), "Version"}));
  return package + " " + last_lines(version.out, 1);
}

}  // namespace trapeze::kit
