#include "backend/disk/zeroes.h"

#include <algorithm>
#include <array>
#include <cstddef>

namespace trapeze {
namespace {

constexpr size_t kPieceBytes = size_t{256} << 10;
constinit std::array<std::byte, kPieceBytes> zeroes{};  // never written to

}  // namespace

int run_zeroes(IoEngine& engine, int fd, uint64_t offset, uint64_t bytes) {
  while (bytes > 0) {
    IoOp op;
    op.kind = IoOp::Kind::Write;
    op.fd = fd;
    op.offset = offset;
    op.bytes = std::min<uint64_t>(bytes, kPieceBytes);
    op.parts.push_back({zeroes.data(), op.bytes});
    const uint64_t piece = op.bytes;
    if (const int os_error = engine.run(op); os_error != 0) return os_error;
    offset += piece;
    bytes -= piece;
  }
  return 0;
}

}  // namespace trapeze
