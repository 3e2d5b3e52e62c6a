// CodeBuffer: memory for translated code, never writable and executable at once: one memfd, mapped
// twice. Emit through write_base(), run at exec_base(); both have the same layout.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/mapping.h"
#include "base/result.h"

namespace trapeze::soft {

class CodeBuffer {
 public:
  // `size_bytes` is reserved; memory is used as it is written.
  static Result<CodeBuffer> create(size_t size_bytes);

  std::byte* write_base() const { return write_.data(); }
  const std::byte* exec_base() const { return exec_.data(); }
  size_t size() const { return write_.size(); }

 private:
  CodeBuffer(Mapping write, Mapping exec) : write_(std::move(write)), exec_(std::move(exec)) {}

  Mapping write_;
  Mapping exec_;
};

}  // namespace trapeze::soft
