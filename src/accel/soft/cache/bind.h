// From a decoded instruction to its handler.
#pragma once

#include "accel/soft/decode/insn.h"
#include "arch/x86/cpuid/cpu_model.h"

namespace trapeze::soft {

// Sets decoded.insn.run. What the CPU model does not offer, or nobody implements, raises #UD when
// it is run.
void bind(Decoded& decoded, const CpuModel& model);

// True when nothing may be decoded behind this instruction: control goes elsewhere, or the
// instruction may change how the next bytes are fetched or read.
bool ends_block(const Decoded& decoded);

// Terminator of a block that was cut before its end: goes on at the next instruction.
Handler block_end_handler();
// Replaces the handlers of stale code: looks up again at this instruction.
Handler stale_handler();
// For bytes that are no instruction.
Handler invalid_handler();
Handler too_long_handler();

}  // namespace trapeze::soft
