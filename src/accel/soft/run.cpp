#include "accel/soft/run.h"

#include <optional>

#include "accel/soft/cache/block_cache.h"
#include "accel/soft/core/env.h"
#include "accel/soft/exec/fpu.h"
#include "accel/soft/mmu/code_map.h"
#include "accel/soft/system/debug.h"
#include "accel/soft/system/events.h"
#include "accel/soft/system/mode.h"
#include "accel/soft/translator/translator.h"
#include "irq/chip/irq_chips.h"
#include "irq/chip/lapic.h"

namespace trapeze::soft {
namespace {

// While one of these lives, the vCPU counts as running guest code (mmu/code_map.h) and the host's
// MXCSR is the guest's (exec/fpu.h).
class GuestSession {
 public:
  GuestSession(Cpu& cpu, Translator* translator) : cpu_(cpu), translator_(translator) {
    cpu.env->code_map->enter_guest(cpu);
    fpu_enter(cpu);
    if (translator_ != nullptr) translator_->enter_thread();
  }
  ~GuestSession() {
    if (translator_ != nullptr) translator_->leave_thread();
    fpu_leave(cpu_);
    cpu_.env->code_map->leave_guest(cpu_);
  }
  GuestSession(const GuestSession&) = delete;
  GuestSession& operator=(const GuestSession&) = delete;

 private:
  Cpu& cpu_;
  Translator* const translator_;
};

void clear_attention(Cpu& cpu, uint32_t bits) {
  cpu.attention.fetch_and(~bits, std::memory_order_acq_rel);
}

// INIT and SIPI (SDM 3A 9.4). True when the CPU was reset or started.
bool take_init_or_sipi(Cpu& cpu) {
  Lapic& lapic = *cpu.env->lapic;
  bool changed = false;
  if (lapic.take_init()) {
    lapic.init_reset();
    init_cpu(cpu);
    changed = true;
  }
  if (const std::optional<uint8_t> vector = lapic.take_sipi()) {
    if (cpu.waiting_for_sipi) {
      start_at_sipi(cpu, *vector);
      changed = true;
    }
  }
  return changed;
}

// The vector of the next maskable interrupt, taken from its controller.
std::optional<uint8_t> take_interrupt(Cpu& cpu) {
  Lapic& lapic = *cpu.env->lapic;
  if (lapic.extint_pending() && cpu.env->chips != nullptr) {
    lapic.extint_taken();  // before the acknowledge, which may bring the next request
    return cpu.env->chips->acknowledge_pic();
  }
  if (lapic.pending_vector()) return lapic.accept();
  return std::nullopt;
}

void take_events(Cpu& cpu) {
  clear_attention(cpu, kAttnInterrupt);
  if (cpu.env->lapic == nullptr) return;
  Lapic& lapic = *cpu.env->lapic;
  take_init_or_sipi(cpu);
  if (cpu.waiting_for_sipi) return;
  if (cpu.shadow != 0) {
    cpu.attention.fetch_or(kAttnInterrupt | kAttnStep, std::memory_order_relaxed);
    return;
  }
  if (!cpu.nmi_blocked && lapic.take_nmi()) {
    cpu.halted = false;
    deliver_nmi(cpu);
    // Whatever else is pending is looked at before the handler's first instruction.
    cpu.attention.fetch_or(kAttnInterrupt, std::memory_order_relaxed);
    return;
  }
  if ((cpu.rflags_system & kIf) == 0) {
    cpu.irq_window_wanted = lapic.has_attention();
    return;
  }
  cpu.irq_window_wanted = false;
  if (const std::optional<uint8_t> vector = take_interrupt(cpu)) {
    cpu.halted = false;
    deliver_interrupt(cpu, *vector);
    cpu.attention.fetch_or(kAttnInterrupt, std::memory_order_relaxed);
  }
}

uint64_t code_linear(const Cpu& cpu) {
  const uint64_t linear = cpu.rip + cpu.linear_base[kCs];
  return is_code64(cpu) ? linear : linear & 0xffff'ffffU;
}

void run_block(Cpu& cpu, const Block* block) {
  cpu.gpr[kRipReg] = cpu.rip;
  cpu.instructions += block->count;
  block->insns->run(cpu, block->insns);
}

// One instruction with everything that the debug facilities and the shadows ask for.
void single_step(Cpu& cpu, BlockCache& blocks) {
  const uint8_t shadow_before = cpu.shadow;
  cpu.shadow = 0;
  cpu.stepping = (cpu.rflags_system & kTf) != 0;
  // A MOV SS holds back the debug exceptions of the instruction behind it (SDM 3A 6.8.3).
  if (shadow_before != 2 && check_execution_breakpoint(cpu, code_linear(cpu))) return;
  cpu.rflags_system &= ~kRf;
  const Block* block = blocks.find_single(cpu);
  if (block == nullptr) return;
  run_block(cpu, block);
  if (cpu.fault.pending) {
    cpu.single_step_dr6 = 0;
  } else if (cpu.shadow != 2) {
    take_debug_trap(cpu);
  }
}

class Runner {
 public:
  Runner(Cpu& cpu, BlockCache& blocks, Translator* translator, const RunLimits& limits)
      : cpu_(cpu), blocks_(blocks), translator_(translator), limits_(limits) {
    const uint64_t room = ~uint64_t{0} - cpu.instructions;
    end_ = cpu.instructions + (limits.instructions < room ? limits.instructions : room);
  }

  RunResult run() {
    if (translator_ != nullptr && !limits_.single_step) return run_translated();
    const bool bounded = limits_.single_step || limits_.instructions != ~uint64_t{0};
    return bounded ? run_loop<true>() : run_loop<false>();
  }

 private:
  template <bool kBounded>
  RunResult run_loop() {
    // Whatever state the CPU is in (halted, say) is looked at before the first block.
    if (const std::optional<RunResult> result = attend()) return *result;
    Block* previous = nullptr;
    for (;;) {
      // HOT
      const bool eventful = cpu_.attention.load(std::memory_order_relaxed) != 0 ||
                            (kBounded && (limits_.single_step || cpu_.instructions >= end_));
      if (eventful) [[unlikely]] {
        if (const std::optional<RunResult> result = attend()) return *result;
        previous = nullptr;
        continue;
      }
      Block* block = blocks_.find(cpu_, previous);
      previous = block;
      if (block == nullptr) [[unlikely]] {
        cpu_.attention.fetch_or(kAttnEvent, std::memory_order_relaxed);
        continue;
      }
      run_block(cpu_, block);
    }
  }

  // As run_loop(), with translated code where there is some.
  RunResult run_translated() {
    translator_->set_instruction_limit(end_);
    if (const std::optional<RunResult> result = attend()) return *result;
    Block* previous = nullptr;
    for (;;) {
      if (cpu_.attention.load(std::memory_order_relaxed) != 0 || cpu_.instructions >= end_) {
        if (const std::optional<RunResult> result = attend()) return *result;
        previous = nullptr;
        continue;
      }
      const void* code = previous == nullptr ? translator_->find(cpu_) : nullptr;
      if (code == nullptr) {
        Block* block = blocks_.find(cpu_, previous);
        previous = block;
        if (block == nullptr) {
          cpu_.attention.fetch_or(kAttnEvent, std::memory_order_relaxed);
          continue;
        }
        if (translator_->is_hot(*block)) code = translator_->enter_point(cpu_, *block);
        if (code == nullptr) {
          run_block(cpu_, block);
          continue;
        }
      }
      const bool interpret = translator_->run(cpu_, code);
      previous = nullptr;
      if (cpu_.fault.pending) cpu_.attention.fetch_or(kAttnEvent, std::memory_order_relaxed);
      if (interpret && cpu_.attention.load(std::memory_order_relaxed) == 0) {
        run_or_fault(blocks_.find(cpu_, nullptr));
      }
    }
  }

  // Everything that is not the next block. Always makes progress: either an event is taken, or one
  // instruction or block is run.
  std::optional<RunResult> attend() {
    clear_attention(cpu_, kAttnEvent);
    if (cpu_.fault.pending) {
      if (limits_.stop_on_fault) return RunResult::Fault;
      deliver_fault(cpu_);
      if (cpu_.shut_down) return RunResult::ShutDown;
      return std::nullopt;
    }
    if (cpu_.shut_down) return RunResult::ShutDown;
    if (cpu_.instructions >= end_) return RunResult::Limit;
    const uint32_t bits = cpu_.attention.load(std::memory_order_acquire);
    if ((bits & kAttnKick) != 0) {
      clear_attention(cpu_, kAttnKick);
      return RunResult::Kicked;
    }
    if ((bits & kAttnCode) != 0) blocks_.drop_stale_code(cpu_);
    if ((bits & kAttnTimer) != 0) {
      clear_attention(cpu_, kAttnTimer);
      if (cpu_.env->lapic != nullptr) {
        cpu_.env->lapic->timer_expired(cpu_.env->clock->monotonic_ns());
      }
      return std::nullopt;
    }
    if ((bits & kAttnInterrupt) != 0) {
      take_events(cpu_);
      if (cpu_.shut_down) return RunResult::ShutDown;
    }
    if (cpu_.fault.pending) {
      cpu_.attention.fetch_or(kAttnEvent, std::memory_order_relaxed);
      return std::nullopt;
    }
    if (cpu_.halted || cpu_.waiting_for_sipi) return RunResult::Halted;
    const bool plain = cpu_.attention.load(std::memory_order_relaxed) == 0 && cpu_.shadow == 0 &&
                       !needs_stepping(cpu_);
    if (translator_ != nullptr && plain) return std::nullopt;  // the loop goes on
    run_one();
    return std::nullopt;
  }

  void run_one() {
    const bool stepping = limits_.single_step || needs_stepping(cpu_);
    const bool waiting = (cpu_.attention.load(std::memory_order_relaxed) & kAttnInterrupt) != 0;
    if (stepping || (cpu_.shadow != 0 && waiting)) {
      single_step(cpu_, blocks_);
      if (cpu_.fault.pending) cpu_.attention.fetch_or(kAttnEvent, std::memory_order_relaxed);
      return;
    }
    // Nobody waits for the end of the shadow: interrupts are only looked at behind the next block,
    // which is at least one instruction.
    cpu_.shadow = 0;
    clear_attention(cpu_, kAttnStep);
    run_or_fault(blocks_.find(cpu_, nullptr));
  }

  void run_or_fault(const Block* block) {
    if (block != nullptr) {
      run_block(cpu_, block);
    } else {
      cpu_.attention.fetch_or(kAttnEvent, std::memory_order_relaxed);
    }
  }

  Cpu& cpu_;
  BlockCache& blocks_;
  Translator* const translator_;
  const RunLimits limits_;
  uint64_t end_ = 0;
};

}  // namespace

RunResult run_interpreter(Cpu& cpu, const RunLimits& limits) {
  const GuestSession session(cpu, nullptr);
  // The engine's own code owner is a BlockCache; the interface is what the MMU knows of it.
  auto& blocks = static_cast<BlockCache&>(*cpu.env->code_owner);
  return Runner(cpu, blocks, nullptr, limits).run();
}

RunResult run_translator(Cpu& cpu, Translator& translator, const RunLimits& limits) {
  const GuestSession session(cpu, &translator);
  auto& blocks = static_cast<BlockCache&>(*cpu.env->code_owner);
  return Runner(cpu, blocks, &translator, limits).run();
}

}  // namespace trapeze::soft
