// Running translated code, and what it asks of C++.
#include <x86intrin.h>

#include <atomic>

#include "accel/soft/cache/bind.h"
#include "accel/soft/exec/fpu.h"
#include "accel/soft/exec/vex.h"
#include "accel/soft/exec/x87.h"
#include "accel/soft/exec/xsave.h"
#include "accel/soft/mmu/access.h"
#include "accel/soft/mmu/fast_tlb.h"
#include "accel/soft/translator/translator.h"

namespace trapeze::soft {
namespace {

// Ends what the interpreter is given to run.
void resume_handler(Cpu& cpu, const Insn*) { cpu.translator.resumed = 1; }

constexpr unsigned kXstateBvAt = 512;  // XSAVE's header (SDM 1 13.4.2)

FxImage& x87_image(Cpu& cpu) { return *reinterpret_cast<FxImage*>(cpu.translator.x87_area); }

// What the stubs have saved becomes the guest's state.
void take_saved_x87(Cpu& cpu) {
  if (cpu.translator.x87_saved == 0) return;
  cpu.translator.x87_saved = 0;
  exec::take_x87(cpu.fpu, x87_image(cpu));
}

bool sse_is_native(const Cpu& cpu) {
  return exec::sse_usable(cpu) && (cpu.fpu.mxcsr & kMxcsrMasks) == kMxcsrMasks;
}

// True when translated code may run what the site's translation has of SSE, AVX and x87.
bool is_native(const Cpu& cpu, const Site& site) {
  if (site.uses_sse && !sse_is_native(cpu)) return false;
  if (site.uses_avx && !exec::avx_usable(cpu)) return false;
  return !site.uses_x87 || exec::is_x87_quiet(cpu);
}

// Asks the slow stub to load the guest's registers that the site's translation uses.
void ask_for_state(Cpu& cpu, const Site& site) {
  Reload reload = Reload::None;
  if (site.uses_sse) {
    cpu.translator.avx_absent = exec::avx_usable(cpu) ? 0 : 1;
    reload = exec::has_upper_halves(cpu) ? Reload::All : Reload::Low;
  }
  cpu.translator.reload_sse = static_cast<uint64_t>(reload);
  cpu.translator.reload_x87 = site.uses_x87 ? 1 : 0;
  if (!site.uses_x87) return;
  exec::put_x87(cpu.fpu, x87_image(cpu));
  constexpr uint64_t kX87Component = 1;
  std::memcpy(cpu.translator.x87_area + kXstateBvAt, &kX87Component, sizeof(kX87Component));
}

}  // namespace

bool Translator::run(Cpu& cpu, const void* code) {
  for (;;) {
    ++stats_.enters;
    const uint64_t number = stubs_.enter(&cpu, code);
    take_saved_x87(cpu);
    if (number == kLeftByStub) {
      const bool interpret = interpret_block_;
      interpret_block_ = false;
      return interpret;
    }
    ++stats_.exits_unlinked;
    Exit& exit = exits_[number];
    cpu.rip = exit.target;
    if (cpu.attention.load(std::memory_order_relaxed) != 0) return false;
    code = find(cpu);
    if (code == nullptr) {
      Block* block = blocks_.find(cpu, nullptr);
      if (block == nullptr || !is_hot(*block)) return false;
      // A flush makes all numbers void.
      const uint64_t flushes = stats_.flushes;
      code = enter_point(cpu, *block);
      if (code == nullptr) return true;
      if (flushes != stats_.flushes) continue;
    }
    const auto* entry = static_cast<const std::byte*>(code);
    const auto offset = static_cast<uint32_t>(entry - buffer_.exec_base());
    const auto found = by_entry_.find(offset);
    if (found != by_entry_.end()) {
      Exit& from = exits_[number];
      if (!translations_[found->second].dead)
        link(from, static_cast<uint32_t>(number), found->second);
    }
  }
}

const void* Translator::slow_entry(void* cpu_pointer, uint64_t number) {
  Cpu& cpu = *static_cast<Cpu*>(cpu_pointer);
  auto& self = *static_cast<Translator*>(cpu.translator.translator);
  cpu.translator.site = kLeftByStub;
  return self.slow(cpu, self.sites_[number]);
}

const void* Translator::slow(Cpu& cpu, const Site& site) {
  const uint64_t linear = site.linear;
  cpu.translator.reload_sse = cpu.translator.reload_x87 = 0;
  take_saved_x87(cpu);
  if (site.x87_before != kNoX87) cpu.fpu.fip = linear + site.x87_before;
  switch (site.kind) {
    case SiteKind::Attention:
      ++stats_.exits_attention;
      if (cpu.attention.load(std::memory_order_relaxed) == 0) cpu.attention.refresh();
      cpu.rip = linear + site.insn.start;
      return nullptr;
    case SiteKind::ReturnStackFull:
      cpu.translator.return_stack = cpu.translator.return_top;
      cpu.rip = linear + site.insn.start;
      return nullptr;
    case SiteKind::Entry: {
      ++stats_.exits_tag;
      cpu.rip = linear;
      // Not by the jump table: it would lead here again.
      const unsigned slot = JumpTable::index(linear);
      cpu.translator.tables->jumps.minus_linear[slot] = JumpTable::no_address(slot);
      return nullptr;
    }
    case SiteKind::Sse:
    case SiteKind::X87:
      if (is_native(cpu, site)) return resume(cpu, site, site.next);
      cpu.rip = linear;
      interpret_block_ = true;
      return nullptr;
    case SiteKind::Memory:
      return memory_miss(cpu, site);
    case SiteKind::Interpret:
      break;
  }
  return interpret(cpu, site);
}

const void* Translator::resume(Cpu& cpu, const Site& site, uint32_t offset) {
  ask_for_state(cpu, site);
  return address(offset);
}

const void* Translator::memory_miss(Cpu& cpu, const Site& site) {
  ++stats_.tlb_misses;
  const uint64_t linear = cpu.translator.linear;
  const bool whole = linear % kPageSize + site.size <= kPageSize;
  const bool aligned =
      (!site.aligned || linear % 16 == 0) && (!site.aligned_32 || linear % 32 == 0);
  if (whole && aligned && !site.masked && fill_fast_tlb(cpu, linear, site.write)) {
    ++stats_.tlb_fills;
    // Whatever goes wrong with filling must not keep the vCPU from being stopped.
    if (cpu.attention.load(std::memory_order_relaxed) != 0) {
      cpu.rip = site.linear + site.insn.start;
      return nullptr;
    }
    return resume(cpu, site, site.retry);
  }
  if (site.keep) return leave_kept(cpu, site, whole);
  if (site.group) return resume(cpu, site, site.next);
  return interpret(cpu, site);
}

// The later accesses have nothing to go by: the interpreter does the rest of the block. Code for
// which that comes too often is translated anew, without keeps.
const void* Translator::leave_kept(Cpu& cpu, const Site& site, bool whole) {
  constexpr uint32_t kTooMany = 32;
  constexpr uint64_t kTooSoon = kTooMany * 150'000;  // cycles
  ++stats_.keep_misses;
  cpu.rip = site.linear + site.insn.start;
  interpret_block_ = true;
  if (whole) return nullptr;  // a page fault, or a device
  Translation& translation = translations_[site.translation];
  if (translation.keep_misses++ == 0) translation.keep_misses_since = __rdtsc();
  if (translation.keep_misses < kTooMany) return nullptr;
  translation.keep_misses = 0;
  if (__rdtsc() - translation.keep_misses_since > kTooSoon) return nullptr;
  without_keeps_.insert(translation.gpa);
  kill(translation);
  return nullptr;
}

// Behind a branch that the interpreter did: the run loop is left out where it would do nothing but
// find the same code.
const void* Translator::go_on(Cpu& cpu) {
  const bool eventful = cpu.attention.load(std::memory_order_relaxed) != 0 || cpu.fault.pending;
  if (!eventful && !flush_wanted_ && cpu.instructions < instruction_limit_) {
    if (const void* code = find(cpu)) return code;
  }
  ++stats_.exits_interpreter;
  return nullptr;
}

const void* Translator::interpret(Cpu& cpu, const Site& site) {
  ++stats_.interpreted;
  Insn code[2] = {site.insn, Insn{}};
  code[1].run = &resume_handler;
  const uint64_t linear = site.linear;
  const uint32_t translation = site.translation;
  const uint32_t next = site.next;
  const uint8_t cached = site.cached;
  Site used;
  used.uses_sse = site.uses_sse;
  used.uses_avx = site.uses_avx;
  used.uses_x87 = site.uses_x87;
  cpu.gpr[kRipReg] = linear;
  cpu.translator.resumed = 0;
  const uint64_t tag = cpu.translator.tag;
  ++cpu.instructions;
  code[0].run(cpu, code);
  if (cpu.translator.resumed == 0) return go_on(cpu);  // it has set RIP
  // Another tag: rights or translations have changed, and this code may be for the old ones.
  const bool stale = flush_wanted_ || translations_[translation].dead || cpu.translator.tag != tag;
  if (stale || next == kNone || !is_native(cpu, used)) {
    cpu.rip = linear + code[0].start + code[0].length;
    return nullptr;
  }
  ask_for_state(cpu, used);
  if (cached != kInMemory) cpu.translator.cached = cpu.gpr[cached];
  return address(next);
}

}  // namespace trapeze::soft
