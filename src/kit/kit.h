// The guest kit: a kernel and an initramfs with our init in it, made from the distribution's
// packages (kit/build.h), so that nobody has to make their own to run a command.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace trapeze::kit {

// What kit.json says, and where the files are.
struct Kit {
  std::filesystem::path directory;
  std::filesystem::path kernel;   // what to boot: the unpacked image when there is one
  std::filesystem::path bzimage;  // the same kernel as the distribution ships it
  std::filesystem::path initrd;
  std::string kernel_release;
  std::string kernel_package;
  std::string busybox_package;
  std::string built_at;  // UTC, ISO 8601
  // The kernel is PVM-enlightened; kits of older builds do not say.
  std::optional<bool> is_pvm_kernel;
  int modules_version = 1;  // of the list of kernel modules inside
  std::string init_hash;    // of the init inside; see is_current()

  // False when another build of trapeze made it: its init may not speak our protocol, see
  // init_archive().
  bool is_current() const;
};

inline constexpr int kFormatVersion = 1;
// Grows with the list of modules (kit/modules.cpp). 2: virtio_pmem and nd_pmem.
inline constexpr int kModulesVersion = 2;
inline constexpr const char* kManifestName = "kit.json";

// `chosen` (--kit) if not empty, else $TRAPEZE_KIT, else the default place for kit `name`:
// ${XDG_DATA_HOME:-~/.local/share}/trapeze/kit/<name>.
Result<std::filesystem::path> kit_directory(const std::string& chosen,
                                            const std::string& name = "default");
// ${XDG_CACHE_HOME:-~/.cache}/trapeze: downloads.
Result<std::filesystem::path> cache_directory();

// Reads kit.json and checks that the files are there.
Result<Kit> open_kit(const std::filesystem::path& directory);
bool kit_exists(const std::filesystem::path& directory);
Result<void> write_manifest(const Kit& kit);

// The init that is compiled into this program, and a short hash of it.
std::span<const std::byte> init_image();
std::string init_hash();
// An archive with that init alone, to be put after the initrd of a kit that is not current.
std::vector<std::byte> init_archive();

}  // namespace trapeze::kit
