// Mapping: owns an mmap'ed range. Empty after a move.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "base/result.h"

namespace trapeze {

class Mapping {
 public:
  Mapping() = default;
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept {
    if (this != &other) {
      reset();
      data_ = std::exchange(other.data_, nullptr);
      size_ = std::exchange(other.size_, 0);
    }
    return *this;
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { reset(); }

  // mmap with the given arguments; `what` names the thing in the error.
  static Result<Mapping> create(size_t size_bytes, int protection, int flags, int fd,
                                uint64_t offset, const char* what) {
    void* data = ::mmap(nullptr, size_bytes, protection, flags, fd, static_cast<off_t>(offset));
    if (data == MAP_FAILED) return fail_errno("cannot map {} bytes for {}", size_bytes, what);
    return Mapping(static_cast<std::byte*>(data), size_bytes);
  }
  // Zeroed private memory; costs nothing until touched.
  static Result<Mapping> anonymous(size_t size_bytes, const char* what) {
    return create(size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                  -1, 0, what);
  }

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  std::span<std::byte> bytes() const { return {data_, size_}; }
  void reset() {
    if (data_ != nullptr) ::munmap(data_, size_);
    data_ = nullptr;
    size_ = 0;
  }

 private:
  Mapping(std::byte* data, size_t size) : data_(data), size_(size) {}
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace trapeze
