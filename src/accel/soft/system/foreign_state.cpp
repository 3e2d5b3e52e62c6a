#include "accel/soft/system/foreign_state.h"

#include "accel/soft/core/env.h"
#include "accel/soft/system/control.h"

namespace trapeze::soft {
namespace {

constexpr uint64_t kX87AndSse = 3;      // XCR0 (SDM 1 13.3); bit 0 is always set
constexpr uint64_t kEferKnown = 0xd01;  // SCE, LME, LMA, NXE
constexpr size_t kFxsaveBytes = 512;

}  // namespace

Result<void> check_foreign_state(const Cpu& cpu, const VcpuState& state) {
  if (state.xsave.size() < kFxsaveBytes) {
    return fail("vCPU state: the FPU image has {} bytes, {} are needed", state.xsave.size(),
                kFxsaveBytes);
  }
  if (state.events.interrupt_injected) {
    return fail("vCPU state: interrupt {} is half delivered; take the state at another moment",
                state.events.interrupt_vector);
  }
  if (const uint64_t sets = state.xcr0 & ~kX87AndSse; sets != 0) {
    return fail(
        "vCPU state: the guest uses register sets that the software engine's CPU lacks (XCR0 "
        "{:#x}, too much: {:#x})",
        state.xcr0, sets);
  }
  if (const uint64_t bits = state.cr4 & ~offered_cr4(cpu); bits != 0) {
    return fail("vCPU state: CR4 {:#x} switches on what the software engine's CPU lacks ({:#x})",
                state.cr4, bits);
  }
  if (const uint64_t bits = state.efer & ~kEferKnown; bits != 0) {
    return fail("vCPU state: EFER {:#x} switches on what the software engine's CPU lacks ({:#x})",
                state.efer, bits);
  }
  return {};
}

}  // namespace trapeze::soft
