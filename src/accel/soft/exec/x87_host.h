// Single operations of the host's x87 unit on operands in memory, all exceptions masked. x, y and
// results are extended doubles of 10 bytes. Each returns the status word with the operation's
// C0..C3 and flags and leaves the unit as the ABI wants it: empty, no flags.
#pragma once

#include <cstdint>

#include "accel/soft/exec/fpu.h"

namespace trapeze::soft::exec {

// The guest's rounding and precision, for as long as this lives.
class HostControl {
 public:
  explicit HostControl(uint16_t fcw) : changed_(fcw != kFcwReset) {
    if (changed_) asm volatile("fldcw %0" : : "m"(fcw));
  }
  ~HostControl() {
    constexpr uint16_t kDefault = kFcwReset;
    if (changed_) asm volatile("fldcw %0" : : "m"(kDefault));
  }
  HostControl(const HostControl&) = delete;
  HostControl& operator=(const HostControl&) = delete;

 private:
  bool changed_;
};

inline uint16_t without_flags(uint16_t status) {
  if ((status & kFswFlags) != 0) asm volatile("fnclex");
  return status;
}

// result = x op y, by the popping form DE with ModRM.reg = Reg: ST(1) = ST(1) op ST(0).
template <unsigned Reg>
uint16_t host_binary(const void* x, const void* y, void* result) {
  uint16_t status;
  asm volatile("fldt (%1)\n\tfldt (%2)\n\t.byte 0xde, %c4\n\tfnstsw %0\n\tfstpt (%3)"
               : "=&a"(status)
               : "r"(x), "r"(y), "r"(result), "n"(0xc1U | Reg << 3)
               : "memory", "st", "st(1)");
  return without_flags(status);
}
// x = x op memory, or x = op x: an instruction that works on ST(0) and the operand at rdi.
template <unsigned Opcode, unsigned Modrm>
uint16_t host_update(void* x, const void* operand) {
  uint16_t status;
  asm volatile("fldt (%1)\n\t.byte %c3, %c4\n\tfnstsw %0\n\tfstpt (%1)"
               : "=&a"(status)
               : "r"(x), "D"(operand), "n"(Opcode), "n"(Modrm)
               : "memory", "st", "st(1)");
  return without_flags(status);
}
// An instruction that pushes the operand at rdi.
template <unsigned Opcode, unsigned Modrm>
uint16_t host_load(void* result, const void* operand) {
  uint16_t status;
  asm volatile(".byte %c3, %c4\n\tfnstsw %0\n\tfstpt (%1)"
               : "=&a"(status)
               : "r"(result), "D"(operand), "n"(Opcode), "n"(Modrm)
               : "memory", "st");
  return without_flags(status);
}
// An instruction that stores ST(0) = x at rdi and pops.
template <unsigned Opcode, unsigned Modrm>
uint16_t host_store(const void* x, void* operand) {
  uint16_t status;
  asm volatile("fldt (%1)\n\t.byte %c3, %c4\n\tfnstsw %0"
               : "=&a"(status)
               : "r"(x), "D"(operand), "n"(Opcode), "n"(Modrm)
               : "memory", "st");
  return without_flags(status);
}
// An instruction that compares ST(0) = x with ST(1) = y and pops nothing.
template <unsigned Opcode, unsigned Modrm>
uint16_t host_compare(const void* x, const void* y, ArithmeticFlags& flags) {
  uint16_t status;
  asm volatile(
      "fldt (%3)\n\tfldt (%2)\n\t.byte %c4, %c5\n\tfnstsw %%ax\n\tmov %%ax, %1\n\t"
      "lahf\n\tseto %%al\n\tfstp %%st(0)\n\tfstp %%st(0)"
      : "=&a"(flags), "=&r"(status)
      : "r"(x), "r"(y), "n"(Opcode), "n"(Modrm)
      : "memory", "st", "st(1)", "cc");
  return without_flags(status);
}

}  // namespace trapeze::soft::exec
