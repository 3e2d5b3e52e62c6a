// VectorBench: one instruction on the same state twice, by its handler and by the host CPU itself.
// For tests only.
//
// Guest addresses are host addresses here (a TLB that maps the bench's own pages), so both runs use
// the same bytes and pointers. Instructions may use RAX, RCX, RDX, RSI and RDI; RSI and RDI point
// at kOperandBytes of memory.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <string>

#include "accel/soft/decode/decoder.h"
#include "accel/soft/exec/fpu.h"
#include "accel/soft/mmu/tlb.h"

namespace trapeze::soft::exec {

inline constexpr unsigned kOperandBytes = 128;

// What an instruction may read and change. Also read by the native trampoline: see the offsets.
struct alignas(16) BenchState {
  uint8_t fx[kFxImageSize];  // FXSAVE64 image
  uint64_t rax, rcx, rdx, rsi, rdi, rflags;
  uint8_t memory[kOperandBytes];
};

enum class Outcome : uint8_t { Done, SimdException, OtherFault, NotBound };

class VectorBench {
 public:
  VectorBench();
  ~VectorBench();
  VectorBench(const VectorBench&) = delete;
  VectorBench& operator=(const VectorBench&) = delete;

  // False when the bytes are no instruction, or not one the bench can run (registers).
  bool decode(std::span<const uint8_t> bytes, Decoded& decoded) const;

  // Both take the start state from `state` and leave the end state there.
  Outcome interpret(const Decoded& decoded, BenchState& state);
  Outcome run_natively(std::span<const uint8_t> bytes, BenchState& state);

  // A state of random registers and memory: ordinary and extreme integers, floats, doubles and
  // extended doubles. MXCSR and the x87 control word have all exceptions masked.
  BenchState random_state(std::mt19937_64& random) const;

  // Differences of two end states in words, empty when there are none. The x87 pointers (FIP, FDP,
  // FOP) are left out: processors differ in what they keep there.
  static std::string difference(const BenchState& native, const BenchState& interpreted);

  Cpu& cpu() { return *cpu_; }
  uint64_t operand_address() const;

 private:
  void load_cpu(const BenchState& state);
  void store_cpu(BenchState& state);

  Decoder decoder_;
  std::unique_ptr<Cpu> cpu_;
  std::unique_ptr<Tlb> tlb_;
  uint8_t* pages_;  // page 0: operands, page 1: code
};

}  // namespace trapeze::soft::exec
