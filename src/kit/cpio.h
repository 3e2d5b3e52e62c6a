// CpioWriter: an initramfs archive, format "newc" (Linux Documentation/driver-api/early-userspace/
// buffer-format.rst). Everything belongs to root and has time 0, so that equal input gives equal
// bytes. Parents are to be added before what lies in them: the kernel makes none.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace trapeze::kit {

class CpioWriter {
 public:
  void add_directory(std::string_view path, uint32_t permissions = 0755);
  void add_file(std::string_view path, uint32_t permissions, std::span<const std::byte> content);
  void add_symlink(std::string_view path, std::string_view target);
  void add_character_device(std::string_view path, uint32_t permissions, uint32_t major,
                            uint32_t minor);
  // Ends the archive and hands it out.
  std::vector<std::byte> finish() &&;

 private:
  struct Entry {
    std::string_view path;  // without a leading slash
    uint32_t mode = 0;
    uint32_t device_major = 0;
    uint32_t device_minor = 0;
    std::span<const std::byte> content;
  };
  void add(const Entry& entry);
  void append(std::span<const std::byte> bytes);
  void pad();

  std::vector<std::byte> archive_;
  uint32_t next_inode_ = 1;
};

}  // namespace trapeze::kit
