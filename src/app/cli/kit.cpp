// trapeze kit: makes and shows the guest kit.
#include "kit/kit.h"

#include <unistd.h>

#include <cstdio>

#include "app/cli/commands.h"
#include "kit/build.h"

namespace trapeze::cli {
void show_progress(std::string_view step) {
  if (::isatty(STDERR_FILENO) == 1) fmt::print(stderr, "trapeze: {} ...\n", step);
}

KitCommand::KitCommand(CLI::App& app) {
  app.require_subcommand(1);
  build_ = app.add_subcommand("build", "Make the kit from the distribution's packages (no root)");
  build_->footer(
      "Downloads a kernel (linux-image-cloud-amd64) and busybox-static with apt-get into a "
      "private\n"
      "cache, and packs them with trapeze's init. Needs a Debian system, about 100 MB of disk and\n"
      "some seconds. An older kit in the same place is replaced.");
  build_->add_option("--output", output_, "Folder for the kit (default: as `trapeze kit path`)");
  path_ = app.add_subcommand("path", "Print the kit's folder");
  info_ = app.add_subcommand("info", "Say what the kit is made of");
  for (CLI::App* command : {path_, info_}) {
    command->add_option("--kit", kit_, "Folder of the kit (default: $TRAPEZE_KIT)");
  }
}

int KitCommand::run() {
  if (build_->parsed()) return build();
  return path_->parsed() ? path() : info();
}

int KitCommand::build() {
  const auto output = kit::kit_directory(output_);
  if (!output) return own_error(output.error().message);
  const auto cache = kit::cache_directory();
  if (!cache) return own_error(cache.error().message);
  const auto built = kit::build_kit({.output = *output, .cache = *cache}, show_progress);
  if (!built) return own_error("cannot make the kit: " + built.error().message);
  fmt::print("{}\n", built->directory.string());
  return 0;
}

int KitCommand::path() {
  const auto directory = kit::kit_directory(kit_);
  if (!directory) return own_error(directory.error().message);
  fmt::print("{}\n", directory->string());
  return 0;
}

int KitCommand::info() {
  const auto directory = kit::kit_directory(kit_);
  if (!directory) return own_error(directory.error().message);
  if (!kit::kit_exists(*directory)) {
    return own_error("no guest kit in " + directory->string() +
                     "; make one with: trapeze kit build");
  }
  const auto kit = kit::open_kit(*directory);
  if (!kit) return own_error(kit.error().message);
  fmt::print("folder:  {}\n", kit->directory.string());
  fmt::print("kernel:  {} ({})\n", kit->kernel_release, kit->kernel_package);
  fmt::print("busybox: {}\n", kit->busybox_package);
  fmt::print("built:   {}\n", kit->built_at);
  fmt::print("init:    {}\n",
             kit->is_current() ? "of this trapeze" : "of another trapeze; this one uses its own");
  return 0;
}

}  // namespace trapeze::cli
