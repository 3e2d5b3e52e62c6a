// Any bytes in any code size: the decoder answers without touching bytes behind the end, and a
// length it gives lies within them.
#include <cstdlib>

#include "accel/soft/decode/decoder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trapeze::soft;
  static const trapeze::CpuModel model =
      trapeze::CpuModel::create(trapeze::CpuModel::names().front(), 1).value();
  static const Decoder decoder(model);
  if (size < 2) return 0;
  const auto code_size = static_cast<CodeSize>(data[0] % 3);
  const auto start = static_cast<uint16_t>(data[1] * 16);
  Decoded decoded;
  const DecodeStatus status = decoder.decode(code_size, {data + 2, size - 2}, start, decoded);
  if (status != DecodeStatus::Ok) return 0;
  const bool sane = decoded.insn.length >= 1 && decoded.insn.length <= 15 &&
                    decoded.insn.length <= size - 2 && decoded.insn.base < kGprSlots * 8 &&
                    decoded.insn.index < kGprSlots * 8 && decoded.insn.seg < 6;
  if (!sane) std::abort();
  return 0;
}
