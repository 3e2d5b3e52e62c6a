// Loading of segment registers, LDTR and TR with all checks.
// Everything returns false with the exception pending; then no register has changed.
#pragma once

#include <cstdint>

#include "accel/soft/core/cpu.h"
#include "accel/soft/system/descriptor.h"

namespace trapeze::soft {

// Loads ES, SS, DS, FS or GS as MOV, POP and LxS do, by the current mode; then update_mode().
bool load_data_segment(Cpu& cpu, unsigned seg, uint16_t selector);

// The pieces of it, for far transfers and task switches. `vector` is what selector checks raise.
// Checks `selector` as a stack segment for privilege level `cpl`; not present is #SS.
bool check_stack_segment(Cpu& cpu, uint16_t selector, unsigned cpl, uint8_t vector,
                         Segment& segment);
// Checks for DS, ES, FS, GS at `cpl`; null gives an unusable segment.
bool check_data_segment(Cpu& cpu, uint16_t selector, unsigned cpl, uint8_t vector,
                        Segment& segment);

Segment null_segment(uint16_t selector);
// SS after a change of privilege in 64-bit mode: null, with its DPL telling the CPL.
Segment null_stack_segment(unsigned cpl);
// The hidden part that real-address and virtual-8086 mode give.
Segment vm86_segment(uint16_t selector);
void load_real_segment(Cpu& cpu, unsigned seg, uint16_t selector);

// After a return to an outer level: data segments that it may not use become null.
void drop_inner_segments(Cpu& cpu, unsigned new_cpl);

bool load_ldtr(Cpu& cpu, uint16_t selector, uint8_t vector);
bool load_tr(Cpu& cpu, uint16_t selector);

}  // namespace trapeze::soft
