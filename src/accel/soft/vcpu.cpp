#include "accel/soft/vcpu.h"

#include <chrono>

#include "accel/soft/mmu/code_map.h"
#include "accel/soft/mmu/fast_tlb.h"
#include "accel/soft/system/kvm_clock.h"
#include "accel/soft/system/mode.h"
#include "arch/x86/layout.h"
#include "irq/chip/apic_bus.h"
#include "irq/chip/irq_chips.h"

namespace trapeze::soft {
namespace {

LapicConfig lapic_config(VcpuId id, const CpuModel& model) {
  LapicConfig config;
  config.id = id;
  config.is_bsp = id.raw() == 0;
  config.phys_bits = model.phys_bits();
  config.has_x2apic = model.has(Feature::X2apic);
  config.has_tsc_deadline = model.has(Feature::TscDeadline);
  return config;
}

}  // namespace

Result<std::unique_ptr<SoftVcpu>> SoftVcpu::create(VcpuId id, IoSink& io,
                                                   const VcpuWiring& wiring) {
  auto blocks = TRY(BlockCache::create(*wiring.model));
  std::unique_ptr<SoftVcpu> vcpu(new SoftVcpu(id, io, wiring, std::move(blocks)));
  if (wiring.translate) {
    vcpu->translator_ = TRY(Translator::create(vcpu->cpu_, *vcpu->blocks_, *wiring.model));
  }
  return vcpu;
}

SoftVcpu::SoftVcpu(VcpuId id, IoSink& io, const VcpuWiring& wiring,
                   std::unique_ptr<BlockCache> blocks)
    : wiring_(wiring),
      blocks_(std::move(blocks)),
      tlbs_(std::make_unique<TlbContexts>()),
      lapic_(lapic_config(id, *wiring.model), *wiring.clock, *this) {
  env_.id = id;
  env_.memory = wiring.memory;
  env_.io = &io;
  env_.local_io = this;
  env_.lapic = &lapic_;
  env_.chips = wiring.chips;
  env_.apic_bus = wiring.apic_bus;
  env_.model = wiring.model;
  env_.clock = wiring.clock;
  env_.code_map = wiring.code_map;
  env_.code_owner = blocks_.get();
  env_.tsc_zero_ns = wiring.tsc_zero_ns;
  cpu_.env = &env_;
  cpu_.tlbs = tlbs_.get();
  wiring_.code_map->add_cpu(cpu_);
  wiring_.apic_bus->add(lapic_);
  reset_cpu(cpu_);
  cpu_.waiting_for_sipi = id.raw() != 0;
}

SoftVcpu::~SoftVcpu() {
  wiring_.apic_bus->remove(lapic_);
  wiring_.host->vcpu_gone(env_.id);
}

RunResult SoftVcpu::run_guest() {
  return translator_ != nullptr ? run_translator(cpu_, *translator_) : run_interpreter(cpu_);
}

ExitReason SoftVcpu::run() {
  for (;;) {
    switch (run_guest()) {
      case RunResult::Kicked:
        return ExitReason::Kicked;
      case RunResult::ShutDown:
        return ExitReason::TripleFault;
      case RunResult::Halted:
        sleep();
        break;
      case RunResult::Limit:
      case RunResult::Fault:
        break;  // only with the limits that tests set
    }
  }
}

void SoftVcpu::sleep() {
  std::unique_lock lock(sleep_mutex_);
  sleeping_.store(true, std::memory_order_seq_cst);
  while (cpu_.attention.load(std::memory_order_seq_cst) == 0) {
    if (!deadline_ns_) {
      sleep_condition_.wait(lock);
      continue;
    }
    const uint64_t now = wiring_.clock->monotonic_ns();
    if (now >= *deadline_ns_) {
      cpu_.attention.fetch_or(kAttnTimer, std::memory_order_relaxed);
      break;
    }
    sleep_condition_.wait_for(lock, std::chrono::nanoseconds(*deadline_ns_ - now));
  }
  sleeping_.store(false, std::memory_order_relaxed);
}

void SoftVcpu::raise_attention(uint32_t bits) {
  cpu_.attention.fetch_or(bits, std::memory_order_seq_cst);
  if (!sleeping_.load(std::memory_order_seq_cst)) return;
  { const std::lock_guard lock(sleep_mutex_); }  // the sleeper is in wait() or has seen the bits
  sleep_condition_.notify_one();
}

void SoftVcpu::kick() { raise_attention(kAttnKick); }
void SoftVcpu::timer_passed() { raise_attention(kAttnTimer); }
void SoftVcpu::wake() { raise_attention(kAttnInterrupt); }

VcpuState SoftVcpu::save() const {
  VcpuState state = save_cpu(cpu_);
  state.lapic = lapic_.save().regs;
  state.apic_base = lapic_.apic_base();
  return state;
}

Result<void> SoftVcpu::restore(const VcpuState& state) {
  TRY(restore_cpu(cpu_, state));
  LapicState lapic = lapic_.save();
  lapic.apic_base = state.apic_base;
  const bool has_registers = state.lapic != std::array<uint32_t, 64>{};
  // A boot protocol says nothing about the local APIC: then it stays as after power-on.
  if (has_registers) lapic.regs = state.lapic;
  lapic_.restore(lapic);
  return {};
}

void SoftVcpu::set_kvm_clock_offset(uint64_t offset_ns) {
  env_.kvm_clock_offset_ns = offset_ns;
  update_kvm_clock(cpu_);
}

std::string SoftVcpu::error() const { return "the software engine has no errors of its own"; }

uint64_t SoftVcpu::instructions() const {
  // Read by other threads for statistics: any recent value will do.
  return __atomic_load_n(&cpu_.instructions, __ATOMIC_RELAXED);
}

std::vector<Stat> SoftVcpu::stats() const {
  const CacheStats& cache = blocks_->stats();
  std::vector<Stat> stats{{"soft.instructions", instructions()},
                          {"soft.blocks_decoded", cache.blocks_decoded},
                          {"soft.slow_lookups", cache.slow_lookups},
                          {"soft.pages_dropped", cache.pages_dropped},
                          {"soft.full_drops", cache.full_drops}};
  if (translator_ != nullptr) {
    const TranslatorStats& jit = translator_->stats();
    stats.push_back({"translator.blocks", jit.blocks});
    stats.push_back({"translator.code_bytes", jit.code_bytes});
    stats.push_back({"translator.chains", jit.links});
    stats.push_back({"translator.enters", jit.enters});
    stats.push_back({"translator.lookups", jit.lookups});
    stats.push_back({"translator.exits.unlinked", jit.exits_unlinked});
    stats.push_back({"translator.exits.attention", jit.exits_attention});
    stats.push_back({"translator.exits.tag", jit.exits_tag});
    stats.push_back({"translator.exits.interpreter", jit.exits_interpreter});
    stats.push_back({"translator.tlb_misses", jit.tlb_misses});
    stats.push_back({"translator.tlb_fills", jit.tlb_fills});
    stats.push_back({"translator.keep_misses", jit.keep_misses});
    stats.push_back({"translator.interpreted", jit.interpreted});
    stats.push_back({"translator.dropped", jit.dropped});
    stats.push_back({"translator.flushes", jit.flushes});
  }
  return stats;
}

void SoftVcpu::send_ipi(const ApicMessage& message) { wiring_.host->send_ipi(message); }
void SoftVcpu::broadcast_eoi(uint8_t vector) { wiring_.host->broadcast_eoi(vector); }

void SoftVcpu::timer_changed(std::optional<uint64_t> deadline_ns) {
  deadline_ns_ = deadline_ns;
  wiring_.host->arm_timer(env_.id, deadline_ns);
}

uint64_t SoftVcpu::tsc_to_ns(uint64_t tsc) {
  // guest TSC = monotonic - tsc_zero + offset, one tick a nanosecond.
  const uint64_t ns = tsc - cpu_.tsc_offset + env_.tsc_zero_ns;
  return static_cast<int64_t>(tsc - cpu_.tsc_offset) < 0 && ns > tsc ? 0 : ns;
}

bool SoftVcpu::mmio_read(uint64_t gpa, Width width, uint64_t& value) {
  if (lapic_.is_mmio_visible() && gpa - lapic_.mmio_base() < kPageSize) {
    const auto offset = static_cast<uint32_t>(gpa - lapic_.mmio_base());
    // Other widths are undefined (SDM 3A 11.4.1); what lies in the register is a sane answer.
    value = uint64_t{lapic_.mmio_read(offset & ~3U)} >> (8 * (offset & 3));
    return true;
  }
  if (!layout::kIoApic.contains(Gpa{gpa})) return false;
  value = wiring_.chips->ioapic_read(gpa - layout::kIoApic.start.raw(), width);
  return true;
}

bool SoftVcpu::mmio_write(uint64_t gpa, Width width, uint64_t value) {
  if (lapic_.is_mmio_visible() && gpa - lapic_.mmio_base() < kPageSize) {
    const auto offset = static_cast<uint32_t>(gpa - lapic_.mmio_base());
    if (offset % 4 == 0 && bytes_of(width) >= 4) {
      lapic_.mmio_write(offset, static_cast<uint32_t>(value));
    }
    return true;
  }
  if (!layout::kIoApic.contains(Gpa{gpa})) return false;
  wiring_.chips->ioapic_write(gpa - layout::kIoApic.start.raw(), width, value);
  return true;
}

bool SoftVcpu::pio_read(Port port, Width width, uint32_t& value) {
  if (!IrqChips::handles(port)) return false;
  value = wiring_.chips->pio_read(port, width);
  return true;
}

bool SoftVcpu::pio_write(Port port, Width width, uint32_t value) {
  if (!IrqChips::handles(port)) return false;
  wiring_.chips->pio_write(port, width, value);
  return true;
}

}  // namespace trapeze::soft
