// Page table walks (SDM 3A ch. 4): 32-bit, PAE and 4-level paging, and none.
#pragma once

#include <cstdint>

#include "accel/soft/core/cpu.h"

namespace trapeze::soft {

// Who asks, and for what.
struct WalkRequest {
  bool write = false;
  bool fetch = false;
  bool user = false;         // a user-mode access: CPL 3 and not implicit
  bool ac_override = false;  // supervisor access to user pages allowed under SMAP (EFLAGS.AC)
};

struct PageTranslation {
  uint64_t gpa = 0;       // of the very byte
  bool writable = false;  // by this kind of access, and the dirty bit is already set
  bool global = false;
  bool large = false;
};

// Translates one canonical linear address, sets accessed and dirty bits. False with #PF pending.
bool walk(Cpu& cpu, uint64_t linear, WalkRequest request, PageTranslation& out);

}  // namespace trapeze::soft
