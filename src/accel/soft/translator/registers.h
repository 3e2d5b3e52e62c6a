// Where guest registers live while translated code runs.
//
// Eleven keep their own number, so that most instructions are re-encoded byte for byte. RCX and R11
// are scratch, RSP is the host's stack. Three are in memory: R9 to R11, which compilers use last.
#pragma once

#include <cstdint>

namespace trapeze::soft {

inline constexpr uint8_t kInMemory = 0xff;
// By guest register number.
inline constexpr uint8_t kHostRegister[16] = {
    0, 10, 2, 3, 9, 5, 6, 7, 8, kInMemory, kInMemory, kInMemory, 12, 13, 14, 15,
};
inline constexpr uint8_t kRspNumber = 4, kRcxNumber = 1;
inline constexpr uint8_t kHostRsp = kHostRegister[4], kHostRcx = kHostRegister[1];

}  // namespace trapeze::soft
