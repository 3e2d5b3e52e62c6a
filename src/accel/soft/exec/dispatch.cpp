#include "accel/soft/exec/dispatch.h"

#include "base/check.h"

namespace trapeze::soft::exec {
namespace {

Step raise_undefined(Cpu& cpu, const Insn&) { return raise(cpu, kUD); }

}  // namespace

void leave_block(Cpu& cpu, const Insn* insn, Step step) {
  switch (step) {
    case Step::Fault:
      cpu.attention.fetch_or(kAttnEvent, std::memory_order_relaxed);
      cpu.rip = insn_rip(cpu, *insn);
      return;
    case Step::Restart:
      cpu.rip = insn_rip(cpu, *insn);
      return;
    case Step::EndBlock:
      cpu.rip = next_rip(cpu, *insn);
      return;
    case Step::Branch:
      return;
    case Step::Next:
      break;
  }
  CHECK(false);
}

Handler undefined_opcode() { return &handler<raise_undefined>; }

}  // namespace trapeze::soft::exec
