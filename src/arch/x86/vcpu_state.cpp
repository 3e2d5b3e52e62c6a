#include "arch/x86/vcpu_state.h"

#include <cstring>

namespace trapeze {

VcpuState reset_state() {
  VcpuState state;
  state.rip = 0xfff0;
  state.gpr[kRdx] = 0x600;  // family 6; boot code that looks at it only checks that it is not 0
  for (Segment& segment : state.segments) segment = {0, 0xffff, 0x93, 0};
  state.segments[kCs] = {0xffff0000, 0xffff, 0x9b, 0xf000};
  state.tr = {0, 0xffff, 0x8b, 0};
  state.ldtr = {0, 0xffff, 0x82, 0};
  state.gdtr = {0, 0xffff};
  state.idtr = {0, 0xffff};
  state.cr0 = 0x60000010;
  state.xsave.resize(512);
  const uint16_t fcw = 0x37f;
  const uint32_t mxcsr = 0x1f80;
  std::memcpy(state.xsave.data(), &fcw, sizeof(fcw));
  std::memcpy(state.xsave.data() + 24, &mxcsr, sizeof(mxcsr));
  state.apic_base = 0xfee00900;  // enabled, bootstrap processor
  return state;
}

}  // namespace trapeze
