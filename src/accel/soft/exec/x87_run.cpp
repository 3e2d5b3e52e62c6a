#include "accel/soft/exec/x87.h"

// Every x87 instruction is executed by the host between FXRSTOR and FXSAVE of the guest's state. So
// stack faults, tags, C0..C3, rounding, precision control and the responses to masked and unmasked
// exceptions are the hardware's own. An unmasked exception is only reported by the next waiting
// x87 instruction (SDM 1 8.7); FXSAVE and FNINIT do not wait, so the host process never sees it.
//
// uint16_t trapeze_x87_run(FxImage*, const void* stub, void* operand, ArithmeticFlags)
//   STMXCSR keeps FXRSTOR from changing MXCSR; ADD sets OF from bit 0, SAHF the other flags.
asm(R"(
.pushsection .text.trapeze_x87_run,"ax",@progbits
.balign 16
.hidden trapeze_x87_run
.globl trapeze_x87_run
.type trapeze_x87_run,@function
trapeze_x87_run:
  stmxcsr 24(%rdi)
  fxrstor (%rdi)
  mov %rdi, %r8
  mov %rdx, %rdi
  mov %ecx, %eax
  addb $0x7f, %al
  sahf
  call *%rsi
  lahf
  seto %al
  fxsave (%r8)
  fninit
  ret
.size trapeze_x87_run,.-trapeze_x87_run

.balign 64
.hidden trapeze_x87_registers
.globl trapeze_x87_registers
trapeze_x87_registers:
.irp op,8,9,a,b,c,d,e,f
.irp h,c,d,e,f
.irp l,0,1,2,3,4,5,6,7,8,9,a,b,c,d,e,f
  .byte 0xd\op, 0x\h\l
  ret
  .balign 4
.endr
.endr
.endr
.hidden trapeze_x87_memory
.globl trapeze_x87_memory
trapeze_x87_memory:
.irp op,8,9,a,b,c,d,e,f
.irp modrm,07,0f,17,1f,27,2f,37,3f
  .byte 0xd\op, 0x\modrm
  ret
  .balign 4
.endr
.endr
.popsection
)");
extern "C" uint16_t trapeze_x87_run(void* image, const void* stub, void* operand, uint32_t flags);
extern "C" const char trapeze_x87_registers[];
extern "C" const char trapeze_x87_memory[];

namespace trapeze::soft::exec {
namespace {

constexpr unsigned kStubStride = 4;

}  // namespace

void put_x87(const FpuState& fpu, FxImage& image) {
  image.fcw = fpu.fcw;
  image.fsw = fpu.fsw;
  image.tags = static_cast<uint8_t>(~fpu.empty);
  const unsigned top = fpu_top(fpu);
  for (unsigned i = 0; i < 8; ++i) std::memcpy(image.st[i], fpu.st[(top + i) & 7U], 16);
}

void take_x87(FpuState& fpu, const FxImage& image) {
  fpu.fcw = image.fcw;
  fpu.fsw = image.fsw;
  fpu.empty = static_cast<uint8_t>(~image.tags);
  const unsigned top = fpu_top(fpu);
  for (unsigned i = 0; i < 8; ++i) std::memcpy(fpu.st[(top + i) & 7U], image.st[i], 16);
}

X87Stub x87_register_stub(uint8_t opcode, uint8_t modrm) {
  return trapeze_x87_registers + ((opcode & 7U) * 64 + (modrm & 63U)) * kStubStride;
}
X87Stub x87_memory_stub(uint8_t opcode, uint8_t reg) {
  return trapeze_x87_memory + ((opcode & 7U) * 8 + (reg & 7U)) * kStubStride;
}

void run_x87(const Cpu& cpu, X87Stub stub, void* operand, X87Result& result) {
  put_x87(cpu.fpu, result.image);
  result.image.mxcsr_mask = 0;
  // Started from clean flags, what the instruction raises can be told from what is sticky, and an
  // exception that is already pending (CR0.NE = 0) cannot hit the host.
  const auto sticky = static_cast<uint16_t>(cpu.fpu.fsw & (kFswFlags | kFswStackFault));
  result.image.fsw =
      static_cast<uint16_t>(cpu.fpu.fsw & ~(kFswFlags | kFswStackFault | kFswEs | kFswBusy));
  result.flags = trapeze_x87_run(&result.image, stub, operand, cpu.arith);
  result.raised = result.image.fsw & kFswFlags;
  result.image.fsw = with_summary(static_cast<uint16_t>(result.image.fsw | sticky), cpu.fpu.fcw);
}

void commit_x87(Cpu& cpu, const X87Result& result) {
  take_x87(cpu.fpu, result.image);
  cpu.arith = result.flags;
}

}  // namespace trapeze::soft::exec
