// What IRET and far RET share: the checks of the code and stack segment that they go back to.
#pragma once

#include <cstdint>

#include "accel/soft/core/cpu.h"
#include "accel/soft/system/descriptor.h"

namespace trapeze::soft {

// Where a return goes.
struct ReturnFrame {
  uint64_t rip = 0;
  uint16_t cs = 0;
  uint64_t rsp = 0;
  uint16_t ss = 0;
};

// Checks frame.cs and frame.rip for a return from the current CPL (SDM 2A "IRET", 2B "RET").
bool check_return_code(Cpu& cpu, const ReturnFrame& frame, Descriptor& code);
// Checks frame.ss for a stack at the returned-to level; `code` is the segment returned to.
bool check_return_stack(Cpu& cpu, const ReturnFrame& frame, const Descriptor& code,
                        Segment& segment);
// Loads CS, SS and RSP of an outer level (or the same level in 64-bit mode), and drops data
// segments that the outer level may not use.
void enter_return_code(Cpu& cpu, const ReturnFrame& frame, const Descriptor& code);
void enter_return_stack(Cpu& cpu, const Segment& ss, uint64_t rsp);

}  // namespace trapeze::soft
