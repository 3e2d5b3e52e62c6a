#include "kit/build.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>
#include <sstream>

#include "arch/x86/boot/boot.h"
#include "arch/x86/boot/pvm_kernel.h"
#include "base/units.h"
#include "kit/files.h"
#include "kit/initramfs.h"
#include "kit/kernel_image.h"
#include "kit/modules.h"
#include "kit/process.h"

namespace trapeze::kit {
namespace {

namespace fs = std::filesystem;

constexpr const char* kKernelMetaPackage = "linux-image-cloud-amd64";
constexpr const char* kKernelPackagePrefix = "linux-image-";
constexpr const char* kBusyboxPackage = "busybox-static";
constexpr uint64_t kVmlinuxLimitBytes = 512 * MiB;

// A folder beside the output, so that it can be renamed into place; gone when not kept.
class Workspace {
 public:
  static Result<Workspace> create(const fs::path& output) {
    std::error_code error;
    const fs::path parent = fs::absolute(output, error).parent_path();
    fs::create_directories(parent, error);
    if (error) return fail("cannot create {}: {}", parent.string(), error.message());
    std::string path = (parent / ("." + output.filename().string() + ".XXXXXX")).string();
    if (::mkdtemp(path.data()) == nullptr) return fail_errno("cannot create a folder {}", path);
    return Workspace(path);
  }
  Workspace(Workspace&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  Workspace& operator=(Workspace&&) = delete;
  ~Workspace() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }

 private:
  explicit Workspace(fs::path path) : path_(std::move(path)) {}
  fs::path path_;
};

Result<std::string> kernel_release_in(const fs::path& tree) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(tree / "lib/modules", error)) {
    return entry.path().filename().string();
  }
  return fail("the kernel package has nothing under lib/modules");
}

Result<std::vector<std::string>> applets_of(const fs::path& busybox) {
  const auto output = TRY(run_process({busybox.string(), "--list-full"}));
  std::istringstream lines(output.out);
  std::vector<std::string> applets;
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty() && line.front() != '/') applets.push_back(line);
  }
  if (output.exit_status != 0 || applets.empty()) {
    return fail("{} --list-full failed: {}", busybox.string(), last_lines(output.err, 2));
  }
  return applets;
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

Result<void> write_kernel(Kit& kit, const fs::path& tree) {
  const auto image = TRY(read_file(tree / "boot" / ("vmlinuz-" + kit.kernel_release)));
  kit.bzimage = kit.directory / "vmlinuz";
  TRY(write_file(kit.bzimage, image));
  // Unpacked once here instead of at every start.
  auto vmlinux = TRY(boot::extract_vmlinux(image, kit.bzimage.string(), kVmlinuxLimitBytes));
  trim_trailing_zeros(vmlinux);
  kit.is_pvm_kernel = boot::has_pvm_cpuid(vmlinux);
  kit.kernel = kit.directory / "vmlinux";
  return write_file(kit.kernel, vmlinux);
}

Result<void> write_initrd(Kit& kit, const fs::path& tree) {
  fs::path busybox_path = tree / "bin/busybox";
  std::error_code ignored;
  if (!fs::exists(busybox_path, ignored)) busybox_path = tree / "usr/bin/busybox";
  const auto busybox = TRY(read_file(busybox_path));
  // Debian 12 and older have /lib as a folder of its own in packages.
  const auto modules = TRY(collect_modules(tree / "lib/modules" / kit.kernel_release));
  InitramfsParts parts;
  parts.init = init_image();
  parts.busybox = busybox;
  parts.applets = TRY(applets_of(busybox_path));
  parts.kernel_release = kit.kernel_release;
  parts.modules = &modules;
  kit.initrd = kit.directory / "initrd";
  return write_file(kit.initrd, make_initramfs(parts));
}

// Swaps in one step when there is a kit already; the old one goes away with the workspace.
Result<void> move_into_place(const fs::path& built, const fs::path& output) {
  constexpr unsigned kExchange = 2;  // RENAME_EXCHANGE
  if (::renameat2(AT_FDCWD, built.c_str(), AT_FDCWD, output.c_str(), kExchange) == 0) return {};
  if (errno != ENOENT) {
    const int exchange_error = errno;
    std::error_code error;
    if (fs::exists(output, error) && !kit_exists(output)) {
      return fail("{} exists and is no guest kit; choose another --output", output.string());
    }
    // A file system that cannot swap: a moment without a kit is the best there is.
    if (exchange_error == EINVAL || exchange_error == ENOSYS) fs::remove_all(output, error);
  }
  if (::rename(built.c_str(), output.c_str()) != 0) {
    return fail_errno("cannot move the kit to {}", output.string());
  }
  return {};
}

}  // namespace

Result<Kit> build_kit(const BuildConfig& config, const Progress& progress) {
  std::error_code ignored;
  if (fs::exists(config.output, ignored) && !fs::is_empty(config.output, ignored) &&
      !kit_exists(config.output)) {
    return fail("{} exists and is no guest kit; choose another --output", config.output.string());
  }
  const auto workspace = TRY(Workspace::create(config.output));
  auto packages = TRY(PackageSource::create(config.cache, progress));
  const fs::path tree = workspace.path() / "tree";

  Kit kit;
  kit.directory = workspace.path() / "kit";
  fs::create_directory(kit.directory, ignored);
  const auto kernel_package = TRY(packages.dependency(kKernelMetaPackage, kKernelPackagePrefix));
  kit.kernel_package = TRY(packages.unpack(kernel_package, tree));
  kit.busybox_package = TRY(packages.unpack(kBusyboxPackage, tree));
  kit.kernel_release = TRY(kernel_release_in(tree));
  kit.built_at = utc_now();
  kit.init_hash = init_hash();
  kit.modules_version = kModulesVersion;
  progress("packing kernel " + kit.kernel_release);
  TRY(write_kernel(kit, tree));
  TRY(write_initrd(kit, tree));
  TRY(write_manifest(kit));
  TRY(move_into_place(kit.directory, config.output));
  return open_kit(config.output);
}

}  // namespace trapeze::kit
