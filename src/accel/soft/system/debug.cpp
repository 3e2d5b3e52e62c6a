#include "accel/soft/system/debug.h"

namespace trapeze::soft {
namespace {

enum Condition : unsigned { kExecute = 0, kWrite = 1, kIo = 2, kReadWrite = 3 };

bool is_enabled(const Cpu& cpu, unsigned i) { return ((cpu.dr7 >> (2 * i)) & 3U) != 0; }
unsigned condition(const Cpu& cpu, unsigned i) {
  const unsigned rw = (cpu.dr7 >> (16 + 4 * i)) & 3U;
  // Without CR4.DE, R/W = 2 is undefined; treat it as never matching.
  return rw;
}
uint64_t length(const Cpu& cpu, unsigned i) {
  constexpr uint64_t kLengths[] = {1, 2, 8, 4};
  return kLengths[(cpu.dr7 >> (18 + 4 * i)) & 3U];
}

// Breakpoint addresses are aligned to their length: low bits of DRn are ignored (SDM 3B 17.2.5).
bool overlaps(const Cpu& cpu, unsigned i, uint64_t address, uint64_t size) {
  const uint64_t len = length(cpu, i);
  const uint64_t first = cpu.dr[i] & ~(len - 1);
  return address <= first + len - 1 && first <= address + size - 1;
}

}  // namespace

bool has_data_breakpoints(const Cpu& cpu) {
  for (unsigned i = 0; i < 4; ++i)
    if (is_enabled(cpu, i) && condition(cpu, i) != kExecute) return true;
  return false;
}

bool needs_stepping(const Cpu& cpu) {
  return (cpu.rflags_system & kTf) != 0 || (cpu.dr7 & 0xffU) != 0;
}

bool check_execution_breakpoint(Cpu& cpu, uint64_t linear) {
  if ((cpu.rflags_system & kRf) != 0) return false;
  uint64_t hits = 0;
  bool enabled_hit = false;
  for (unsigned i = 0; i < 4; ++i) {
    if (condition(cpu, i) != kExecute || cpu.dr[i] != linear) continue;
    hits |= uint64_t{1} << i;
    enabled_hit = enabled_hit || is_enabled(cpu, i);
  }
  if (!enabled_hit) return false;
  raise(cpu, kDB);
  cpu.fault.dr6 = hits;
  return true;
}

void check_data_breakpoint(Cpu& cpu, uint64_t linear, uint64_t size, bool is_write) {
  for (unsigned i = 0; i < 4; ++i) {
    if (!is_enabled(cpu, i)) continue;
    const unsigned rw = condition(cpu, i);
    if ((rw == kWrite && is_write) || rw == kReadWrite) {
      if (overlaps(cpu, i, linear, size)) cpu.single_step_dr6 |= uint64_t{1} << i;
    }
  }
}

void check_io_breakpoint(Cpu& cpu, uint16_t port, unsigned size) {
  if ((cpu.cr4 & (1U << 3)) == 0) return;  // CR4.DE
  for (unsigned i = 0; i < 4; ++i) {
    if (is_enabled(cpu, i) && condition(cpu, i) == kIo && overlaps(cpu, i, port, size))
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
