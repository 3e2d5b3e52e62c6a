// Lapic: the local APIC of one vCPU, xAPIC and x2APIC (SDM 3A chapter 11), version 0x14 with six
// LVT entries (no CMCI), without EOI-broadcast suppression and without SMM (an SMI is dropped).
//
// Threads: deliver(), set_lint0(), has_attention(), matches(), priority() and is_*() may be called
// by any thread at any time; everything else only by the vCPU's own thread (or while it does not
// run). There is no lock. The registers are relaxed atomics with the own thread as only writer,
// except IRR, TMR, the error accumulator and the attention word, which anyone changes by atomic
// read-modify-write; the attention word carries the release/acquire edge from deliver() to the
// vCPU.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>

#include "base/clock.h"
#include "base/strong.h"
#include "irq/chip/apic_message.h"
#include "irq/chip/lapic_timer.h"

namespace trapeze {

// What a local APIC needs from the VM. Callbacks must not call back into this Lapic.
class LapicHost {
 public:
  virtual ~LapicHost() = default;
  // An IPI for others, or for all; normally ApicBus::send. Own thread.
  virtual void send_ipi(const ApicMessage& message) = 0;
  // Something may have become deliverable: the vCPU must look, also out of HLT. Any thread, the
  // own one too.
  virtual void wake() = 0;
  // When timer_expired() wants to be called, in CLOCK_MONOTONIC ns (may be past). Own thread.
  virtual void timer_changed(std::optional<uint64_t> deadline_ns) = 0;
  // EOI of a level-triggered interrupt: to the I/O APIC. Own thread.
  virtual void broadcast_eoi(uint8_t vector) = 0;
  // CLOCK_MONOTONIC ns at which the guest TSC reads `tsc`; 0 when that is long past. Own thread.
  virtual uint64_t tsc_to_ns(uint64_t tsc) = 0;
};

struct LapicConfig {
  VcpuId id;  // also the APIC ID; at most 254
  bool is_bsp = false;
  unsigned phys_bits = 46;  // for the reserved bits of IA32_APIC_BASE
  bool has_x2apic = true;   // as CPUID says
  bool has_tsc_deadline = true;
  // There is no firmware: at power-on the BSP has LINT0 as ExtINT, unmasked, the virtual wire mode
  // in which firmware hands a PC over (MultiProcessor Specification 3.6.2.2).
  bool virtual_wire = true;
};

inline constexpr uint64_t kApicBaseBsp = 1U << 8;
inline constexpr uint64_t kApicBaseX2apic = 1U << 10;
inline constexpr uint64_t kApicBaseEnable = 1U << 11;
inline constexpr uint32_t kApicVersion = 0x00050014;

// Everything that outlives a pause. `regs[i]` is the register at offset 16*i of the APIC page (the
// layout of VcpuState::lapic), with the ID as this mode shows it and the current count computed at
// save. From a VcpuState alone, the other fields may stay at their defaults.
struct LapicState {
  std::array<uint32_t, 64> regs{};
  uint64_t apic_base = 0;
  uint64_t tsc_deadline = 0;    // guest TSC, 0: not armed
  uint32_t errors = 0;          // collected since the last ESR write
  bool error_irq_armed = true;  // an ESR write re-arms the LVT error interrupt
  uint8_t nmis_pending = 0;     // 0..2
  bool init_pending = false;
  std::optional<uint8_t> sipi_pending;
  bool extint_pending = false;  // an ExtINT message, not the LINT0 wire
  bool lint0 = false;
  bool operator==(const LapicState&) const = default;
};

class Lapic {
 public:
  // `clock` and `host` must outlive this. Starts as after power-on.
  Lapic(const LapicConfig& config, const Clock& clock, LapicHost& host);
  Lapic(const Lapic&) = delete;
  Lapic& operator=(const Lapic&) = delete;

  // --- Any thread ---
  // Takes a message that is for this APIC (the bus has resolved the destination). False when it
  // was dropped: APIC disabled, or nothing a CPU could take.
  bool deliver(const ApicMessage& message);
  // The wire from the 8259 pair (virtual wire mode, on the BSP).
  void set_lint0(bool asserted);
  // HOT: one relaxed load. False: nothing to take at all. True: look at the take_*() and
  // pending_vector(); stays true while an interrupt waits behind PPR or the interrupt flag.
  bool has_attention() const { return attention_.load(std::memory_order_relaxed) != 0; }
  bool matches(const ApicMessage& message) const;  // destination only, not shorthands
  bool is_enabled() const;                         // IA32_APIC_BASE.EN
  bool is_software_enabled() const;                // and SVR bit 8
  uint8_t priority() const;                        // PPR, for lowest-priority arbitration
  uint32_t id() const { return config_.id.raw(); }

  // --- Own vCPU thread: registers ---
  // The xAPIC page; only aligned 32-bit accesses mean anything (SDM 3A 11.4.1), `offset` 0..0xffc.
  // In x2APIC mode or disabled the page is not there: the caller asks is_mmio_visible() first.
  bool is_mmio_visible() const;
  uint64_t mmio_base() const { return apic_base_bits() & ~uint64_t{0xfff}; }
  uint32_t mmio_read(uint32_t offset);
  void mmio_write(uint32_t offset, uint32_t value);
  // MSRs 0x800..0x8ff. False: #GP(0).
  bool msr_read(uint32_t msr, uint64_t& value);
  bool msr_write(uint32_t msr, uint64_t value);
  // IA32_APIC_BASE. set: false: #GP(0), nothing changed.
  uint64_t apic_base() const { return apic_base_bits(); }
  bool set_apic_base(uint64_t value);
  // IA32_TSC_DEADLINE.
  uint64_t tsc_deadline() const { return tsc_deadline_; }
  void set_tsc_deadline(uint64_t tsc);
  // The guest TSC was written or its offset changed: an armed deadline moves.
  void tsc_changed();
  // CR8 (0..15).
  uint8_t tpr() const;
  void set_tpr(uint8_t cr8);

  // --- Own vCPU thread: interrupts ---
  // Order of a CPU: INIT, then NMI, then (IF = 1) ExtINT, then pending_vector().
  // An NMI to deliver now: call it only while NMIs are not blocked. Two can wait (one to be
  // delivered, one behind it), as in a CPU. The IRET that ends the blocking calls nmi_unblocked():
  // NMIs that came meanwhile collapse into one (SDM 3A 6.7.1), for which it wakes.
  bool take_nmi();
  void nmi_unblocked();
  bool take_init();  // the vCPU then calls init_reset() and waits for SIPI
  // A SIPI that comes while the vCPU is not waiting for one is lost: take it and drop it.
  std::optional<uint8_t> take_sipi();
  // The 8259s ask for an INTA cycle: extint_taken(), then vector = IrqChips::acknowledge_pic(). In
  // this order, because the acknowledge may bring the next ExtINT message.
  bool extint_pending() const;
  void extint_taken();
  // The highest vector above PPR, if any.
  std::optional<uint8_t> pending_vector() const;
  // Moves it from IRR to ISR. The spurious vector when nothing is deliverable any more.
  uint8_t accept();
  // To be called when the deadline of timer_changed() has passed; early calls do no harm.
  void timer_expired(uint64_t now_ns);

  void reset();       // power-on: IA32_APIC_BASE too
  void init_reset();  // INIT: SDM 3A 11.4.7.3; keeps IA32_APIC_BASE

  LapicState save() const;
  void restore(const LapicState& state);

 private:
  // Bits of attention_. The SIPI vector shares the word, so that an INIT and the SIPIs around it
  // are ordered by one compare-exchange.
  static constexpr uint32_t kIrrBit = 1U << 0;  // IRR may be non-zero
  static constexpr uint32_t kInitBit = 1U << 2;
  static constexpr uint32_t kSipiBit = 1U << 3;
  static constexpr uint32_t kExtIntBit = 1U << 4;
  static constexpr uint32_t kLint0Bit = 1U << 5;  // LINT0 is high and would interrupt
  static constexpr unsigned kSipiVectorShift = 8;
  static constexpr uint32_t kSipi = kSipiBit | 0xffU << kSipiVectorShift;  // 0 when none waits
  static constexpr uint32_t kOneNmi = 1U << 16;                            // a count of 0..2
  static constexpr uint32_t kNmiCount = 3U << 16;

  uint64_t apic_base_bits() const { return apic_base_.load(std::memory_order_relaxed); }
  bool is_x2apic() const;
  uint32_t reg(uint32_t offset) const { return regs_[offset >> 4].load(std::memory_order_relaxed); }
  void set_reg(uint32_t offset, uint32_t value) {
    regs_[offset >> 4].store(value, std::memory_order_relaxed);
  }

  // lapic.cpp
  void accept_fixed(uint8_t vector, bool level_triggered);
  void raise_attention(uint32_t bits);
  void queue_nmi();
  void queue_init();
  void queue_sipi(uint8_t vector);
  void deliver_lvt(uint32_t lvt);
  void record_error(uint32_t esr_bit);
  void end_of_interrupt();
  void update_ppr();
  int highest(uint32_t first_offset) const;
  bool is_extint_wire_active() const;
  void refresh_lint0();
  void wake_if_deliverable();
  void clear_registers();
  void set_mode_registers();
  void run_timer(uint64_t now_ns);
  void announce_timer(uint64_t now_ns);
  // lapic_registers.cpp
  uint32_t read_register(uint32_t offset);
  void write_register(uint32_t offset, uint32_t value);
  void write_timer(uint32_t offset, uint32_t value);
  void write_lvt(uint32_t offset, uint32_t value);
  void write_spurious(uint32_t value);
  void write_esr();
  void write_self_ipi(uint8_t vector);
  void send_ipi(uint32_t icr_low, uint32_t destination, bool wide);
  uint32_t lvt_writable(uint32_t offset) const;
  uint32_t x2apic_writable(uint32_t offset) const;
  void restore_registers(const LapicState& state);

  const LapicConfig config_;
  const Clock& clock_;
  LapicHost& host_;

  std::array<std::atomic<uint32_t>, 64> regs_{};
  std::atomic<uint64_t> apic_base_{0};
  std::atomic<uint32_t> attention_{0};
  std::atomic<uint32_t> errors_{0};  // for the next ESR write
  std::atomic<bool> error_irq_armed_{true};
  std::atomic<bool> lint0_{false};

  // Own thread only.
  ApicTimer timer_;
  std::optional<uint64_t> announced_deadline_;
  uint64_t tsc_deadline_ = 0;
};

}  // namespace trapeze
