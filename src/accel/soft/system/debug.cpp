#include "accel/soft/system/debug.h"

#include "accel/soft/mmu/watch.h"

namespace trapeze::soft {
namespace {

enum Kind : unsigned { kExecution = 0, kPort = 2 };

}  // namespace

bool needs_stepping(const Cpu& cpu) {
  return (cpu.rflags_system & kTf) != 0 || (cpu.dr7 & 0xffU) != 0;
}

bool check_execution_breakpoint(Cpu& cpu, uint64_t linear) {
  if ((cpu.rflags_system & kRf) != 0) return false;
  uint64_t hits = 0;
  bool enabled_hit = false;
  for (unsigned i = 0; i < 4; ++i) {
    if (breakpoint_kind(cpu, i) != kExecution || cpu.dr[i] != linear) continue;
    // Matches of breakpoints that are not enabled show in DR6 as well (SDM 3B 17.2.3).
    hits |= uint64_t{1} << i;
    enabled_hit = enabled_hit || breakpoint_enabled(cpu, i);
  }
  if (!enabled_hit) return false;
  raise(cpu, kDB);
  cpu.fault.dr6 = hits;
  return true;
}

void check_io_breakpoint(Cpu& cpu, uint16_t port, unsigned size) {
  if ((cpu.cr4 & (1U << 3)) == 0) return;  // CR4.DE
  for (unsigned i = 0; i < 4; ++i) {
    if (!breakpoint_enabled(cpu, i) || breakpoint_kind(cpu, i) != kPort) continue;
    const unsigned length = breakpoint_length(cpu, i);
    // Addresses are aligned to their length: low bits of DRn are ignored (SDM 3B 17.2.5).
    const uint64_t start = align_down(cpu.dr[i], length);
    if (port < start + length && start < port + uint64_t{size})
      cpu.single_step_dr6 |= uint64_t{1} << i;
  }
}

bool take_debug_trap(Cpu& cpu) {
  uint64_t dr6 = cpu.single_step_dr6;
  if (cpu.stepping) dr6 |= kDr6Bs;
  cpu.single_step_dr6 = 0;
  if (dr6 == 0) return false;
  raise(cpu, kDB);
  cpu.fault.dr6 = dr6;
  return true;
}

}  // namespace trapeze::soft
