#include "kit/kit.h"

#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "kit/cpio.h"

extern "C" const std::byte trapeze_init_image[];
extern "C" const std::byte trapeze_init_image_end[];

namespace trapeze::kit {
namespace {

namespace fs = std::filesystem;

// $variable/trapeze or ~/fallback/trapeze (XDG Base Directory Specification: relative values are to
// be ignored).
Result<fs::path> user_directory(const char* variable, const char* fallback) {
  const char* chosen = std::getenv(variable);
  if (chosen != nullptr && chosen[0] == '/') return fs::path(chosen) / "trapeze";
  const char* home = std::getenv("HOME");
  if (home == nullptr || home[0] != '/') {
    const passwd* user = ::getpwuid(::getuid());
    home = user == nullptr ? nullptr : user->pw_dir;
  }
  if (home == nullptr || home[0] != '/') {
    return fail("no home directory: set HOME, {} or TRAPEZE_KIT to an absolute path", variable);
  }
  return fs::path(home) / fallback / "trapeze";
}

std::string text_of(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

Result<fs::path> file_of(const nlohmann::json& object, const char* key, const fs::path& directory) {
  const std::string name = text_of(object, key);
  const fs::path path = directory / name;
  if (name.empty() || name.find('/') != std::string::npos) {
    return fail("{}: no usable \"{}\"; make the kit again with: trapeze kit build",
                (directory / kManifestName).string(), key);
  }
  if (::access(path.c_str(), R_OK) != 0) return fail_errno("{}", path.string());
  return path;
}

}  // namespace

bool Kit::is_current() const { return init_hash == kit::init_hash(); }

Result<fs::path> kit_directory(const std::string& chosen, const std::string& name) {
  if (!chosen.empty()) return fs::path(chosen);
  const char* from_environment = std::getenv("TRAPEZE_KIT");
  if (from_environment != nullptr && from_environment[0] != '\0') return fs::path(from_environment);
  return TRY(user_directory("XDG_DATA_HOME", ".local/share")) / "kit" / name;
}

Result<fs::path> cache_directory() { return user_directory("XDG_CACHE_HOME", ".cache"); }

bool kit_exists(const fs::path& directory) {
  std::error_code ignored;
  return fs::exists(directory / kManifestName, ignored);
}

Result<Kit> open_kit(const fs::path& directory) {
  const fs::path manifest = directory / kManifestName;
  std::ifstream file(manifest, std::ios::binary);
  if (!file) return fail_errno("{}: no guest kit here", directory.string());
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return fail("{}: not a kit description; make the kit again with: trapeze kit build",
                manifest.string());
  }
  const auto format = json.find("format");
  if (format == json.end() || !format->is_number_integer() ||
      format->get<int64_t>() != kFormatVersion) {
    return fail(
        "{}: made by another version of trapeze; make the kit again with: trapeze kit build",
        manifest.string());
  }
  Kit kit;
  kit.directory = directory;
  kit.kernel = TRY(file_of(json, "kernel", directory));
  kit.bzimage = TRY(file_of(json, "bzimage", directory));
  kit.initrd = TRY(file_of(json, "initrd", directory));
  kit.kernel_release = text_of(json, "kernel_release");
  kit.kernel_package = text_of(json, "kernel_package");
  kit.busybox_package = text_of(json, "busybox_package");
  kit.built_at = text_of(json, "built_at");
  kit.init_hash = text_of(json, "init_hash");
  const auto modules = json.find("modules_version");
  if (modules != json.end() && modules->is_number_integer()) {
    kit.modules_version = modules->get<int>();
  }
  const auto pvm = json.find("pvm_kernel");
  if (pvm != json.end() && pvm->is_boolean()) kit.is_pvm_kernel = pvm->get<bool>();
  return kit;
}

Result<void> write_manifest(const Kit& kit) {
  nlohmann::ordered_json json = {
      {"format", kFormatVersion},
      {"kernel", kit.kernel.filename().string()},
      {"bzimage", kit.bzimage.filename().string()},
      {"initrd", kit.initrd.filename().string()},
      {"kernel_release", kit.kernel_release},
      {"kernel_package", kit.kernel_package},
      {"busybox_package", kit.busybox_package},
      {"built_at", kit.built_at},
      {"init_hash", kit.init_hash},
      {"modules_version", kit.modules_version},
  };
  if (kit.is_pvm_kernel) json["pvm_kernel"] = *kit.is_pvm_kernel;
  const fs::path path = kit.directory / kManifestName;
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << json.dump(2) << '\n';
  file.close();
  if (!file) return fail_errno("cannot write {}", path.string());
  return {};
}

std::span<const std::byte> init_image() {
  return {trapeze_init_image, static_cast<size_t>(trapeze_init_image_end - trapeze_init_image)};
}

std::string init_hash() {
  // As FNV-1a, but by words and mixed: tells builds apart, guards against nothing. Every start of a
  // VM computes it over almost a megabyte, which by bytes took a millisecond.
  uint64_t hash = 0xcbf2'9ce4'8422'2325;
  const std::span<const std::byte> image = init_image();
  for (size_t at = 0; at < image.size(); at += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, image.data() + at, std::min(sizeof(word), image.size() - at));
    hash = (hash ^ word) * 0x100'0000'01b3;
    hash ^= hash >> 32;
  }
  return fmt::format("{:016x}", hash);
}

std::vector<std::byte> init_archive() {
  CpioWriter writer;
  writer.add_file("init", 0755, init_image());
  return std::move(writer).finish();
}

}  // namespace trapeze::kit
