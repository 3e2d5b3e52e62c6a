// Tables of host code for instructions whose encoding holds an operand (an immediate, a register):
// one tiny function for each value, at a fixed stride, called like any C function.
#pragma once

#include <emmintrin.h>

#include <cstdint>

// Puts 256 functions `TEXT; ret` at SYMBOL, \h\l standing for the two hexadecimal digits of the
// value. Nested .irp because LLVM's assembler takes a counter's last value for all repetitions.
#define TRAPEZE_STUBS_256(SYMBOL, STRIDE, TEXT)       \
  asm(".pushsection .text." SYMBOL                    \
      ",\"ax\",@progbits\n"                           \
      ".balign 64\n"                                  \
      ".hidden " SYMBOL                               \
      "\n"                                            \
      ".globl " SYMBOL "\n" SYMBOL                    \
      ":\n"                                           \
      ".irp h,0,1,2,3,4,5,6,7,8,9,a,b,c,d,e,f\n"      \
      ".irp l,0,1,2,3,4,5,6,7,8,9,a,b,c,d,e,f\n" TEXT \
      "\n"                                            \
      "ret\n"                                         \
      ".balign " #STRIDE                              \
      "\n"                                            \
      ".endr\n"                                       \
      ".endr\n"                                       \
      ".popsection\n")

namespace trapeze::soft::exec {

// xmm0 = op(xmm0, xmm1, immediate).
using VectorStub = __m128i (*)(__m128i, __m128i);
inline constexpr unsigned kVectorStubStride = 8;

inline VectorStub vector_stub(const char* table, uint8_t immediate) {
  return reinterpret_cast<VectorStub>(reinterpret_cast<uintptr_t>(table) +
                                      immediate * kVectorStubStride);
}

}  // namespace trapeze::soft::exec
