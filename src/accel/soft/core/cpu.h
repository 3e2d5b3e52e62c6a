// Cpu: the state of one virtual CPU of the software engine, laid out for the executors.
//
// Owned by the vCPU's thread; only `attention` is touched by other threads. Plain data: what
// changes it lives in exec/ (instructions), system/ (mode changes, events) and mmu/ (translation).
#pragma once

#include <cstddef>
#include <cstdint>

#include "accel/soft/core/attention.h"
#include "accel/soft/core/flags.h"
#include "accel/soft/core/translator_state.h"
#include "arch/x86/vcpu_state.h"
#include "base/strong.h"

namespace trapeze::soft {

struct CpuEnv;       // core/env.h: what the CPU is wired to
struct Tlb;          // mmu/tlb.h
struct TlbContexts;  // mmu/tlb.h

// Slots of `gpr` behind the 16 registers. Operands name a register by its byte offset in `gpr`, so
// that AH..BH are simply offsets 1, 9, 17, 25.
inline constexpr unsigned kZeroReg = 16;  // always 0: "no base", "no index"
inline constexpr unsigned kRipReg = 17;   // RIP of the first instruction of the running block
inline constexpr unsigned kGprSlots = 18;

// How an instruction ended.
enum class Step : uint8_t {
  Next,      // done, go on with the next instruction of the block
  Fault,     // nothing changed; an exception is in cpu.fault and rip goes to this instruction
  Restart,   // an interruptible instruction (REP) stopped half-way: rip goes to this instruction
  EndBlock,  // done, but what follows must be looked up again: rip goes behind this instruction
  Branch,    // done, the handler has set cpu.rip
};

enum class CodeSize : uint8_t { Code16, Code32, Code64 };

// An exception raised and not yet delivered (SDM 3A 6.15).
struct Fault {
  uint8_t vector = 0;
  bool has_error_code = false;
  bool pending = false;
  uint32_t error_code = 0;
  uint64_t cr2 = 0;  // #PF: written to CR2 at delivery
  uint64_t dr6 = 0;  // #DB: bits to set in DR6 at delivery
};

// Exception vectors.
inline constexpr uint8_t kDE = 0, kDB = 1, kNMI = 2, kBP = 3, kOF = 4, kBR = 5, kUD = 6, kNM = 7,
                         kDF = 8, kTS = 10, kNP = 11, kSS = 12, kGP = 13, kPF = 14, kMF = 16,
                         kAC = 17, kMC = 18, kXM = 19;

// Bits of Cpu::attention: why the run loop must look up from running blocks.
inline constexpr uint32_t kAttnInterrupt = 1U << 0;  // the local APIC or the PIC may have something
inline constexpr uint32_t kAttnKick = 1U << 1;       // AccelVcpu::kick()
inline constexpr uint32_t kAttnTimer = 1U << 2;      // the local APIC timer's deadline has passed
inline constexpr uint32_t kAttnCode = 1U << 3;       // code pages were written (mmu/code_map.h)
inline constexpr uint32_t kAttnEvent = 1U << 5;      // own thread: a fault is pending, or HLT
inline constexpr uint32_t kAttnStep = 1U << 4;  // TF, breakpoints or a shadow: go in single steps

// x87 and SSE state. `st` is in register order (R0..R7, not the stack order), 10 bytes used of
// each.
struct alignas(16) FpuState {
  uint8_t st[8][16];  // physical registers R0..R7; MMi is the low 8 bytes of R(i)
  uint8_t xmm[16][16];
  uint16_t fcw, fsw;  // TOP lives in fsw bits 11..13
  uint8_t empty;      // bit i: physical register Ri is empty (the complement of the abridged tag)
  uint16_t fop;
  uint64_t fip, fdp;
  uint32_t mxcsr;
};

struct Cpu {
  // --- hot: the executors touch these at every instruction
  alignas(64) uint64_t gpr[kGprSlots];
  ArithmeticFlags arith;  // CF PF AF ZF SF OF; see flags.h
  uint8_t cpl;
  CodeSize code_size;       // of CS
  bool stack32;             // SS.B: ESP instead of SP outside 64-bit mode
  bool df;                  // mirrors rflags_system: direction flag
  uint64_t rip;             // current only between blocks; inside, see next_rip()
  uint64_t code_tag;        // see mmu/mmu.h
  Tlb* tlb;                 // for explicit data accesses at this CPL and EFLAGS.AC
  uint64_t linear_base[6];  // segment bases as addressing uses them: 0 for ES..DS in 64-bit mode
  Attention attention;
  uint64_t instructions;  // executed so far

  // --- registers
  alignas(64) FpuState fpu;
  uint64_t rflags_system;  // RFLAGS without the arithmetic flags; bit 1 set
  Segment seg[6];          // indexed by SegIndex
  Segment ldtr, tr;
  DescriptorTable gdtr, idtr;
  uint64_t cr0, cr2, cr3, cr4, cr8_shadow;
  uint64_t efer;
  uint64_t xcr0;
  uint64_t dr[4], dr6, dr7;

  // --- MSRs (system/msr.cpp)
  uint64_t star, lstar, cstar, sfmask, kernel_gs_base;
  uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
  uint64_t pat, tsc_offset, tsc_adjust, tsc_aux, misc_enable, mtrr_def_type, spec_ctrl;
  uint64_t mtrr_fixed[11], mtrr_phys[16];
  uint64_t kvm_system_time, kvm_wall_clock, kvm_poll_control, kvm_pv_eoi, kvm_steal_time;
  uint64_t mcg_status, debugctl;

  // Bits 128 to 255 of YMM0 to YMM15; fpu.xmm has the others.
  alignas(16) uint8_t ymm_high[16][16];

  // --- events
  Fault fault;
  uint8_t shadow;  // interrupt shadow in force for the next instruction: 1 STI, 2 MOV SS
  bool nmi_blocked;
  bool nmi_pending;
  bool halted;
  bool waiting_for_sipi;
  bool shut_down;            // triple fault
  bool irq_window_wanted;    // an interrupt waits for IF: whoever sets IF raises kAttnInterrupt
  bool stepping;             // TF was set when the current instruction started
  uint64_t single_step_dr6;  // #DB conditions met by the current instruction (traps)

  CpuEnv* env;
  TlbContexts* tlbs;

  TranslatorState translator;
};

static_assert(offsetof(Cpu, gpr) == 0, "operand slots are byte offsets from the start of Cpu");

inline bool is_long_mode(const Cpu& cpu) { return (cpu.efer & (1U << 10)) != 0; }  // EFER.LMA
inline bool is_code64(const Cpu& cpu) { return cpu.code_size == CodeSize::Code64; }
inline bool is_protected(const Cpu& cpu) { return (cpu.cr0 & 1U) != 0; }
inline bool is_vm86(const Cpu& cpu) { return (cpu.rflags_system & kVm) != 0; }
// Real-address or virtual-8086 mode: segments are 16 * selector.
inline bool is_real_or_vm86(const Cpu& cpu) { return !is_protected(cpu) || is_vm86(cpu); }
inline unsigned iopl(const Cpu& cpu) {
  return static_cast<unsigned>((cpu.rflags_system & kIopl) >> 12);
}
inline uint64_t rflags(const Cpu& cpu) { return cpu.rflags_system | to_rflags(cpu.arith); }

// Raises an exception on behalf of the current instruction. The handler returns the result.
inline Step raise(Cpu& cpu, uint8_t vector) {
  cpu.fault = {vector, false, true, 0, 0, 0};
  return Step::Fault;
}
inline Step raise(Cpu& cpu, uint8_t vector, uint32_t error_code) {
  cpu.fault = {vector, true, true, error_code, 0, 0};
  return Step::Fault;
}
inline Step raise_page_fault(Cpu& cpu, uint64_t linear, uint32_t error_code) {
  cpu.fault = {kPF, true, true, error_code, linear, 0};
  return Step::Fault;
}

}  // namespace trapeze::soft
