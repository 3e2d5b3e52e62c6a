// Guest arithmetic by the same host instruction: result and all flags, undefined ones included.
//
// Each operation is a struct with run(a, b, flags) (or run(a, flags)). `flags` comes in as the
// guest's flags before and goes out as those after; operations that do not read flags ignore the
// former. LAHF and SETO behind the instruction make the flags word of core/flags.h in AX.
#pragma once

#include <cstdint>

#include "accel/soft/core/flags.h"

namespace trapeze::soft::exec {

#define TRAPEZE_TAKE_FLAGS "\n\tlahf\n\tseto %%al"
#define TRAPEZE_LOAD_CF "bt $8, %k[in]\n\t"  // host CF = guest CF; kArithCf is bit 8
// Host flags = guest flags, which are in AX: OF by 0x7f + OF, the others by SAHF, which leaves OF.
#define TRAPEZE_LOAD_FLAGS "add $0x7f, %%al\n\tsahf\n\t"

// Two operands, all flags written, none read.
#define TRAPEZE_BINARY(Name, mnemonic, writes)       \
  struct Name {                                      \
    static constexpr bool kWrites = writes;          \
    template <typename T>                            \
    static T run(T a, T b, ArithmeticFlags& flags) { \
      asm(mnemonic " %[b], %[a]" TRAPEZE_TAKE_FLAGS  \
          : [a] "+r"(a), "=a"(flags)                 \
          : [b] "r"(b)                               \
          : "cc");                                   \
      return a;                                      \
    }                                                \
  };
TRAPEZE_BINARY(Add, "add", true)
TRAPEZE_BINARY(Sub, "sub", true)
TRAPEZE_BINARY(And, "and", true)
TRAPEZE_BINARY(Or, "or", true)
TRAPEZE_BINARY(Xor, "xor", true)
TRAPEZE_BINARY(Cmp, "cmp", false)
TRAPEZE_BINARY(Test, "test", false)
TRAPEZE_BINARY(Imul, "imul", true)  // not for 8 bits
#undef TRAPEZE_BINARY

// Two operands and the carry.
#define TRAPEZE_BINARY_CARRY(Name, mnemonic)                        \
  struct Name {                                                     \
    static constexpr bool kWrites = true;                           \
    template <typename T>                                           \
    static T run(T a, T b, ArithmeticFlags& flags) {                \
      ArithmeticFlags after;                                        \
      asm(TRAPEZE_LOAD_CF mnemonic " %[b], %[a]" TRAPEZE_TAKE_FLAGS \
          : [a] "+r"(a), "=a"(after)                                \
          : [b] "r"(b), [in] "r"(static_cast<uint32_t>(flags))      \
          : "cc");                                                  \
      flags = after;                                                \
      return a;                                                     \
    }                                                               \
  };
TRAPEZE_BINARY_CARRY(Adc, "adc")
TRAPEZE_BINARY_CARRY(Sbb, "sbb")
#undef TRAPEZE_BINARY_CARRY

// One operand; INC and DEC keep the carry.
#define TRAPEZE_UNARY(Name, mnemonic)                         \
  struct Name {                                               \
    template <typename T>                                     \
    static T run(T a, ArithmeticFlags& flags) {               \
      ArithmeticFlags after;                                  \
      asm(TRAPEZE_LOAD_CF mnemonic " %[a]" TRAPEZE_TAKE_FLAGS \
          : [a] "+r"(a), "=a"(after)                          \
          : [in] "r"(static_cast<uint32_t>(flags))            \
          : "cc");                                            \
      flags = after;                                          \
      return a;                                               \
    }                                                         \
  };
TRAPEZE_UNARY(Inc, "inc")
TRAPEZE_UNARY(Dec, "dec")
TRAPEZE_UNARY(Neg, "neg")
#undef TRAPEZE_UNARY

// Shifts and rotates by a count in CL. All flags are loaded before, as a count of 0 changes none
// and rotates change only two; the host masks the count as the guest's CPU does.
#define TRAPEZE_SHIFT(Name, mnemonic)                                  \
  struct Name {                                                        \
    template <typename T>                                              \
    static T run(T a, uint8_t count, ArithmeticFlags& flags) {         \
      asm(TRAPEZE_LOAD_FLAGS mnemonic " %%cl, %[a]" TRAPEZE_TAKE_FLAGS \
          : [a] "+r"(a), "+a"(flags)                                   \
          : "c"(count)                                                 \
          : "cc");                                                     \
      return a;                                                        \
    }                                                                  \
  };
TRAPEZE_SHIFT(Shl, "shl")
TRAPEZE_SHIFT(Shr, "shr")
TRAPEZE_SHIFT(Sar, "sar")
TRAPEZE_SHIFT(Rol, "rol")
TRAPEZE_SHIFT(Ror, "ror")
TRAPEZE_SHIFT(Rcl, "rcl")
TRAPEZE_SHIFT(Rcr, "rcr")
#undef TRAPEZE_SHIFT

// The same by a count that is known not to be 0 after masking: SHL, SHR and SAR then write all
// flags, so none need loading.
#define TRAPEZE_SHIFT_NONZERO(Name, mnemonic)                  \
  struct Name {                                                \
    template <typename T>                                      \
    static T run(T a, uint8_t count, ArithmeticFlags& flags) { \
      asm(mnemonic " %%cl, %[a]" TRAPEZE_TAKE_FLAGS            \
          : [a] "+r"(a), "=a"(flags)                           \
          : "c"(count)                                         \
          : "cc");                                             \
      return a;                                                \
    }                                                          \
  };
TRAPEZE_SHIFT_NONZERO(ShlNonzero, "shl")
TRAPEZE_SHIFT_NONZERO(ShrNonzero, "shr")
TRAPEZE_SHIFT_NONZERO(SarNonzero, "sar")
#undef TRAPEZE_SHIFT_NONZERO

// Double shifts; not for 8 bits.
#define TRAPEZE_DOUBLE_SHIFT(Name, mnemonic)                                 \
  struct Name {                                                              \
    template <typename T>                                                    \
    static T run(T a, T b, uint8_t count, ArithmeticFlags& flags) {          \
      asm(TRAPEZE_LOAD_FLAGS mnemonic " %%cl, %[b], %[a]" TRAPEZE_TAKE_FLAGS \
          : [a] "+r"(a), "+a"(flags)                                         \
          : "c"(count), [b] "r"(b)                                           \
          : "cc");                                                           \
      return a;                                                              \
    }                                                                        \
  };
TRAPEZE_DOUBLE_SHIFT(Shld, "shld")
TRAPEZE_DOUBLE_SHIFT(Shrd, "shrd")
#undef TRAPEZE_DOUBLE_SHIFT

}  // namespace trapeze::soft::exec
