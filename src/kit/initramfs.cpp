#include "kit/initramfs.h"

#include <algorithm>
#include <set>
#include <string_view>

#include "kit/cpio.h"

namespace trapeze::kit {
namespace {

struct TextFile {
  const char* path;
  std::string_view content;
};

constexpr const char* kDirectories[] = {
    "bin",     "dev",       "etc",           "lib",      "lib/modules", "mnt",     "opt",
    "proc",    "run",       "sbin",          "srv",      "sys",         "usr",     "usr/bin",
    "usr/lib", "usr/local", "usr/local/bin", "usr/sbin", "var",         "var/log", "var/tmp"};

constexpr TextFile kTextFiles[] = {
    {"etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"},
    {"etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"},
    {"etc/hosts", "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 trapeze\n"},
    {"etc/hostname", "trapeze\n"},
    {"etc/profile", "export PS1='\\h:\\w\\$ '\numask 022\n"},
};

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

class Builder {
 public:
  void add_directory(const std::string& path, uint32_t permissions = 0755) {
    if (known_.insert(path).second) cpio_.add_directory(path, permissions);
  }
  void add_parents(const std::string& path) {
    for (size_t slash = path.find('/'); slash != std::string::npos;
         slash = path.find('/', slash + 1)) {
      add_directory(path.substr(0, slash));
    }
  }
  void add_file(const std::string& path, uint32_t permissions, std::span<const std::byte> content) {
    add_parents(path);
    if (known_.insert(path).second) cpio_.add_file(path, permissions, content);
  }
  void add_symlink(const std::string& path, std::string_view target) {
    add_parents(path);
    if (known_.insert(path).second) cpio_.add_symlink(path, target);
  }
  CpioWriter& cpio() { return cpio_; }

 private:
  CpioWriter cpio_;
  std::set<std::string> known_;
};

void add_modules(Builder& builder, const InitramfsParts& parts) {
  const std::string directory = "lib/modules/" + parts.kernel_release;
  for (const auto& module : parts.modules->modules) {
    builder.add_file(directory + "/" + module.path, 0644, module.content);
  }
  builder.add_file(directory + "/modules.dep", 0644, bytes_of(dependency_file(*parts.modules)));
  builder.add_file(directory + "/modules.alias", 0644, bytes_of(alias_file(*parts.modules)));
  std::string boot_list;
  for (const auto& path : parts.modules->boot) boot_list += "/" + directory + "/" + path + "\n";
  builder.add_file(directory + "/trapeze.boot", 0644, bytes_of(boot_list));
}

}  // namespace

std::vector<std::byte> make_initramfs(const InitramfsParts& parts) {
  Builder builder;
  for (const char* path : kDirectories) builder.add_directory(path);
  builder.add_directory("root", 0700);
  builder.add_directory("tmp", 01777);
  // The kernel opens it for init's own messages before init has mounted anything.
  builder.cpio().add_character_device("dev/console", 0600, 5, 1);
  builder.add_file("init", 0755, parts.init);
  builder.add_file("bin/busybox", 0755, parts.busybox);
  for (const auto& applet : parts.applets) builder.add_symlink(applet, "/bin/busybox");
  for (const auto& file : kTextFiles) builder.add_file(file.path, 0644, bytes_of(file.content));
  add_modules(builder, parts);
  return std::move(builder.cpio()).finish();
}

}  // namespace trapeze::kit
