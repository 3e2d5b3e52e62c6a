// The classes that bind_vector() asks in turn. Each sets up decoded.insn (register slots, aux) for
// its handlers and returns the handler, or nullptr when the mnemonic is not one of its own.
#pragma once

#include "accel/soft/exec/dispatch.h"

namespace trapeze::soft::exec {

Handler bind_sse_move(Decoded& decoded);       // sse_move.cpp: MOV*, masks, insert and extract
Handler bind_sse_integer(Decoded& decoded);    // sse_integer.cpp: two operands, no MXCSR
Handler bind_sse_immediate(Decoded& decoded);  // sse_immediate.cpp: with an 8-bit immediate
Handler bind_sse_float(Decoded& decoded);      // sse_float.cpp: arithmetic under MXCSR
Handler bind_sse_convert(Decoded& decoded);    // sse_convert.cpp: general registers, MMX, flags
Handler bind_sse_string(Decoded& decoded);     // sse_string.cpp: PCMPxSTRx, PTEST
Handler bind_mmx(Decoded& decoded);            // mmx.cpp
Handler bind_sse_mmx(Decoded& decoded);        // sse_mmx.cpp: conversions with MMX, masked stores
Handler bind_fxsave(Decoded& decoded);         // fxsave.cpp: FXSAVE, FXRSTOR, LDMXCSR, STMXCSR
Handler bind_xsave(Decoded& decoded);          // xsave.cpp: XSAVE*, XRSTOR
Handler bind_x87(Decoded& decoded);            // x87.cpp: all but the next
Handler bind_x87_control(Decoded& decoded);    // x87_control.cpp

}  // namespace trapeze::soft::exec
