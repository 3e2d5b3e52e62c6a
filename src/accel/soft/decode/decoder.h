// Decoder: instruction bytes to Decoded, with Zydis. Stateless once made; any thread.
#pragma once

#include <cstdint>
#include <span>

#include "accel/soft/decode/insn.h"
#include "arch/x86/cpuid/cpu_model.h"

namespace trapeze::soft {

enum class DecodeStatus : uint8_t {
  Ok,
  NeedMore,  // the bytes end inside the instruction
  Invalid,   // #UD
  TooLong,   // more than 15 bytes: #GP
};

class Decoder {
 public:
  // The model decides how the encodings are read that older CPUs take for another instruction
  // (TZCNT for BSF, LZCNT for BSR).
  explicit Decoder(const CpuModel& model);

  // Decodes one instruction at the start of `bytes`. `start`: its offset from the block's start.
  DecodeStatus decode(CodeSize code_size, std::span<const uint8_t> bytes, uint16_t start,
                      Decoded& out) const;

 private:
  ZydisDecoder decoders_[3];
};

// Offset in Cpu::gpr of a general register's first byte; AH..BH are the odd ones.
uint8_t gpr_slot(ZydisRegister reg);

}  // namespace trapeze::soft
