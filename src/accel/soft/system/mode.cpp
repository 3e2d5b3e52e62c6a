#include "accel/soft/system/mode.h"

#include "accel/soft/mmu/mmu.h"
#include "accel/soft/mmu/segment_access.h"
#include "accel/soft/system/debug.h"

namespace trapeze::soft {

void update_mode(Cpu& cpu) {
  const uint32_t cs = cpu.seg[kCs].access;
  if (is_long_mode(cpu) && (cs & kSegL) != 0) {
    cpu.code_size = CodeSize::Code64;
  } else {
    // In real-address mode too: a processor that left protected mode keeps CS.D until a far jump.
    cpu.code_size = (cs & kSegDb) != 0 ? CodeSize::Code32 : CodeSize::Code16;
  }
  cpu.stack32 = (cpu.seg[kSs].access & kSegDb) != 0;
  const bool flat = cpu.code_size == CodeSize::Code64;
  for (unsigned i = 0; i < 6; ++i)
    cpu.linear_base[i] = flat && i != kFs && i != kGs ? 0 : cpu.seg[i].base;
  cpu.df = (cpu.rflags_system & kDf) != 0;
  select_tlb(cpu);
}

void set_rflags(Cpu& cpu, uint64_t value, uint64_t mask) {
  if ((mask & kArithmeticFlags) != 0) {
    const uint64_t arithmetic = (to_rflags(cpu.arith) & ~mask) | (value & mask & kArithmeticFlags);
    cpu.arith = to_arithmetic(arithmetic);
  }
  const uint64_t system_mask = mask & ~kArithmeticFlags;
  const uint64_t old = cpu.rflags_system;
  const uint64_t now = (old & ~system_mask) | (value & system_mask) | 2;
  cpu.rflags_system = now;
  cpu.df = (now & kDf) != 0;
  uint32_t attention = 0;
  if ((now & ~old & kIf) != 0 && cpu.irq_window_wanted) attention |= kAttnInterrupt;
  if ((now & kTf) != 0) attention |= kAttnStep;
  if (attention != 0) cpu.attention.fetch_or(attention, std::memory_order_relaxed);
  if (((now ^ old) & (kAc | kVm)) != 0) select_tlb(cpu);
}

}  // namespace trapeze::soft
