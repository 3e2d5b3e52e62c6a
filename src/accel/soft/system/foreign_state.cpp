#include "accel/soft/system/foreign_state.h"

#include "accel/soft/core/env.h"
#include "accel/soft/system/control.h"

namespace trapeze::soft {
namespace {

constexpr uint64_t kEferKnown = 0xd01;  // SCE, LME, LMA, NXE

}  // namespace

Result<void> check_foreign_state(const Cpu& cpu, const VcpuState& state) {
  const uint64_t offered = cpu.env->model->xcr0_bits() | kXcr0Sse;
  if (const uint64_t sets = state.xcr0 & ~offered; sets != 0) {
    return fail(
        "vCPU state: the guest uses register sets that the software engine's CPU lacks (XCR0 "
        "{:#x}, too much: {:#x})",
        state.xcr0, sets);
  }
  if (!is_valid_xcr0(cpu, state.xcr0) && cpu.env->model->has(Feature::Xsave)) {
    return fail("vCPU state: XCR0 {:#x} is no valid value", state.xcr0);
  }
  const size_t needed =
      (state.xcr0 & kXcr0Avx) != 0 ? xsave_area_bytes(state.xcr0) : size_t{kXsaveLegacyBytes};
  if (state.xsave.size() < needed) {
    return fail("vCPU state: the FPU image has {} bytes, {} are needed", state.xsave.size(),
                needed);
  }
  if (state.events.interrupt_injected) {
    return fail("vCPU state: interrupt {} is half delivered; take the state at another moment",
                state.events.interrupt_vector);
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
