// Which function answers for which instruction (exec/dispatch.h: bind_system).
#include "accel/soft/exec/dispatch.h"
#include "accel/soft/system/instructions.h"

namespace trapeze::soft::exec {
namespace {

using system::kOperandMemory;
using system::kOperandRegister;

bool is_class(const Decoded& decoded, unsigned i, ZydisRegisterClass wanted) {
  return decoded.is_reg(i) && ZydisRegisterGetClass(decoded.operands[i].reg.value) == wanted;
}
uint8_t number_of(const Decoded& decoded, unsigned i) {
  return static_cast<uint8_t>(ZydisRegisterGetId(decoded.operands[i].reg.value));
}

// MOV with a segment, control or debug register; nullptr for every other MOV.
Handler bind_mov(Decoded& decoded) {
  Insn& insn = decoded.insn;
  if (is_class(decoded, 0, ZYDIS_REGCLASS_SEGMENT)) {
    insn.dst = number_of(decoded, 0);
    return decoded.is_mem(1) ? &handler<system::mov_sreg_from_mem>
                             : &handler<system::mov_sreg_from_reg>;
  }
  if (is_class(decoded, 1, ZYDIS_REGCLASS_SEGMENT)) {
    insn.src = number_of(decoded, 1);
    return decoded.is_mem(0) ? &handler<system::mov_sreg_to_mem>
                             : &handler<system::mov_sreg_to_reg>;
  }
  if (is_class(decoded, 0, ZYDIS_REGCLASS_CONTROL)) return &handler<system::mov_to_cr>;
  if (is_class(decoded, 1, ZYDIS_REGCLASS_CONTROL)) return &handler<system::mov_from_cr>;
  if (is_class(decoded, 0, ZYDIS_REGCLASS_DEBUG)) return &handler<system::mov_to_dr>;
  if (is_class(decoded, 1, ZYDIS_REGCLASS_DEBUG)) return &handler<system::mov_from_dr>;
  return nullptr;
}

Handler bind_far_branch(Decoded& decoded) {
  const ZydisDecodedOperand& target = decoded.operands[0];
  const bool is_jump = decoded.zy.mnemonic == ZYDIS_MNEMONIC_JMP;
  if (target.type == ZYDIS_OPERAND_TYPE_POINTER) {
    decoded.insn.imm64 =
        static_cast<int64_t>(target.ptr.offset | (static_cast<uint64_t>(target.ptr.segment) << 32));
    return is_jump ? &handler<system::far_jmp_immediate> : &handler<system::far_call_immediate>;
  }
  return is_jump ? &handler<system::far_jmp_memory> : &handler<system::far_call_memory>;
}

Handler bind_branch(Decoded& decoded) {
  if (decoded.zy.meta.branch_type != ZYDIS_BRANCH_TYPE_FAR) return nullptr;
  if (decoded.zy.mnemonic != ZYDIS_MNEMONIC_RET) return bind_far_branch(decoded);
  decoded.insn.imm64 =
      decoded.is_imm(0) ? static_cast<int64_t>(decoded.operands[0].imm.value.u) : 0;
  return &handler<system::far_ret>;
}

Handler bind_stack(Decoded& decoded) {
  if (!is_class(decoded, 0, ZYDIS_REGCLASS_SEGMENT)) return nullptr;
  decoded.insn.dst = number_of(decoded, 0);
  return decoded.zy.mnemonic == ZYDIS_MNEMONIC_PUSH ? &handler<system::push_sreg>
                                                    : &handler<system::pop_sreg>;
}

// IN and OUT: the port is operand `port`, the accumulator the other one.
Handler bind_port(Decoded& decoded) {
  const bool is_in = decoded.zy.mnemonic == ZYDIS_MNEMONIC_IN;
  const unsigned port = is_in ? 1 : 0;
  decoded.insn.aux = static_cast<uint8_t>(decoded.size(1 - port));
  if (decoded.is_imm(port)) {
    decoded.insn.imm64 = static_cast<int64_t>(decoded.operands[port].imm.value.u & 0xff);
    return is_in ? &handler<system::in_immediate> : &handler<system::out_immediate>;
  }
  return is_in ? &handler<system::in_dx> : &handler<system::out_dx>;
}

// INS and OUTS have hidden operands only: a segment override shows there.
Handler bind_string_port(Decoded& decoded, bool is_in, uint8_t size) {
  decoded.insn.aux = size;
  for (unsigned i = 0; i < decoded.zy.operand_count; ++i) {
    if (decoded.operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
      decoded.insn.seg = static_cast<uint8_t>(ZydisRegisterGetId(decoded.operands[i].mem.segment));
  }
  return is_in ? &handler<system::ins> : &handler<system::outs>;
}

Handler bind_load_far(Decoded& decoded, uint8_t seg) {
  if (!decoded.is_mem(1)) return nullptr;
  decoded.insn.aux = seg;
  return &handler<system::load_far>;
}

Handler bind_base(Decoded& decoded, uint8_t seg, Handler run) {
  decoded.insn.aux = seg;
  return run;
}

// Instructions with one selector or status-word operand, in register or memory.
Handler bind_word(Decoded& decoded, unsigned operand, Handler run) {
  decoded.insn.aux = decoded.is_mem(operand) ? kOperandMemory : kOperandRegister;
  return run;
}

Handler bind_selector(Decoded& decoded) {
  switch (static_cast<unsigned>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_LLDT:
      return bind_word(decoded, 0, &handler<system::lldt>);
    case ZYDIS_MNEMONIC_LTR:
      return bind_word(decoded, 0, &handler<system::ltr>);
    case ZYDIS_MNEMONIC_SLDT:
      return bind_word(decoded, 0, &handler<system::sldt>);
    case ZYDIS_MNEMONIC_STR:
      return bind_word(decoded, 0, &handler<system::str>);
    case ZYDIS_MNEMONIC_VERR:
      return bind_word(decoded, 0, &handler<system::verr>);
    case ZYDIS_MNEMONIC_VERW:
      return bind_word(decoded, 0, &handler<system::verw>);
    case ZYDIS_MNEMONIC_LAR:
      return bind_word(decoded, 1, &handler<system::lar>);
    case ZYDIS_MNEMONIC_LSL:
      return bind_word(decoded, 1, &handler<system::lsl>);
    case ZYDIS_MNEMONIC_ARPL:
      return bind_word(decoded, 0, &handler<system::arpl>);
    case ZYDIS_MNEMONIC_LMSW:
      return bind_word(decoded, 0, &handler<system::lmsw>);
    case ZYDIS_MNEMONIC_SMSW:
      return bind_word(decoded, 0, &handler<system::smsw>);
    case ZYDIS_MNEMONIC_LDS:
      return bind_load_far(decoded, kDs);
    case ZYDIS_MNEMONIC_LES:
      return bind_load_far(decoded, kEs);
    case ZYDIS_MNEMONIC_LSS:
      return bind_load_far(decoded, kSs);
    case ZYDIS_MNEMONIC_LFS:
      return bind_load_far(decoded, kFs);
    case ZYDIS_MNEMONIC_LGS:
      return bind_load_far(decoded, kGs);
    default:
      return nullptr;
  }
}

Handler bind_io(Decoded& decoded) {
  switch (static_cast<unsigned>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_IN:
    case ZYDIS_MNEMONIC_OUT:
      return bind_port(decoded);
    case ZYDIS_MNEMONIC_INSB:
      return bind_string_port(decoded, true, 1);
    case ZYDIS_MNEMONIC_INSW:
      return bind_string_port(decoded, true, 2);
    case ZYDIS_MNEMONIC_INSD:
      return bind_string_port(decoded, true, 4);
    case ZYDIS_MNEMONIC_OUTSB:
      return bind_string_port(decoded, false, 1);
    case ZYDIS_MNEMONIC_OUTSW:
      return bind_string_port(decoded, false, 2);
    case ZYDIS_MNEMONIC_OUTSD:
      return bind_string_port(decoded, false, 4);
    default:
      return nullptr;
  }
}

// Interrupts, flags, returns.
Handler bind_control_flow(const Decoded& decoded) {
  switch (static_cast<unsigned>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_INT:
      return &handler<system::int_n>;
    case ZYDIS_MNEMONIC_INT3:
      return &handler<system::int3>;
    case ZYDIS_MNEMONIC_INT1:
      return &handler<system::int1>;
    case ZYDIS_MNEMONIC_INTO:
      return &handler<system::into>;
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
      return &handler<system::iret>;
    case ZYDIS_MNEMONIC_CLI:
      return &handler<system::cli>;
    case ZYDIS_MNEMONIC_STI:
      return &handler<system::sti>;
    case ZYDIS_MNEMONIC_CLD:
      return &handler<system::cld>;
    case ZYDIS_MNEMONIC_STD:
      return &handler<system::std_>;
    case ZYDIS_MNEMONIC_CLAC:
      return &handler<system::clac>;
    case ZYDIS_MNEMONIC_STAC:
      return &handler<system::stac>;
    case ZYDIS_MNEMONIC_PUSHF:
    case ZYDIS_MNEMONIC_PUSHFD:
    case ZYDIS_MNEMONIC_PUSHFQ:
      return &handler<system::pushf>;
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
      return &handler<system::popf>;
    case ZYDIS_MNEMONIC_HLT:
      return &handler<system::hlt>;
    case ZYDIS_MNEMONIC_SYSCALL:
      return &handler<system::syscall>;
    case ZYDIS_MNEMONIC_SYSRET:
      return &handler<system::sysret>;
    case ZYDIS_MNEMONIC_SYSENTER:
      return &handler<system::sysenter>;
    case ZYDIS_MNEMONIC_SYSEXIT:
      return &handler<system::sysexit>;
    default:
      return nullptr;
  }
}

// Tables, caches, processor state.
Handler bind_processor(Decoded& decoded) {
  switch (static_cast<unsigned>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_LGDT:
      return &handler<system::lgdt>;
    case ZYDIS_MNEMONIC_LIDT:
      return &handler<system::lidt>;
    case ZYDIS_MNEMONIC_SGDT:
      return &handler<system::sgdt>;
    case ZYDIS_MNEMONIC_SIDT:
      return &handler<system::sidt>;
    case ZYDIS_MNEMONIC_CLTS:
      return &handler<system::clts>;
    case ZYDIS_MNEMONIC_INVLPG:
      return &handler<system::invlpg>;
    case ZYDIS_MNEMONIC_INVPCID:
      return &handler<system::invpcid>;
    case ZYDIS_MNEMONIC_INVD:
    case ZYDIS_MNEMONIC_WBINVD:
      return &handler<system::invd>;
    case ZYDIS_MNEMONIC_SWAPGS:
      return &handler<system::swapgs>;
    case ZYDIS_MNEMONIC_RDFSBASE:
      return bind_base(decoded, kFs, &handler<system::rdfsbase>);
    case ZYDIS_MNEMONIC_RDGSBASE:
      return bind_base(decoded, kGs, &handler<system::rdfsbase>);
    case ZYDIS_MNEMONIC_WRFSBASE:
      return bind_base(decoded, kFs, &handler<system::wrfsbase>);
    case ZYDIS_MNEMONIC_WRGSBASE:
      return bind_base(decoded, kGs, &handler<system::wrfsbase>);
    case ZYDIS_MNEMONIC_CPUID:
      return &handler<system::cpuid>;
    case ZYDIS_MNEMONIC_RDMSR:
      return &handler<system::rdmsr>;
    case ZYDIS_MNEMONIC_WRMSR:
      return &handler<system::wrmsr>;
    case ZYDIS_MNEMONIC_RDTSC:
      return &handler<system::rdtsc>;
    case ZYDIS_MNEMONIC_RDTSCP:
      return &handler<system::rdtscp>;
    case ZYDIS_MNEMONIC_RDPID:
      return &handler<system::rdpid>;
    case ZYDIS_MNEMONIC_XGETBV:
      return &handler<system::xgetbv>;
    case ZYDIS_MNEMONIC_XSETBV:
      return &handler<system::xsetbv>;
    case ZYDIS_MNEMONIC_RDPMC:
      return &handler<system::rdpmc>;
    case ZYDIS_MNEMONIC_VMCALL:
    case ZYDIS_MNEMONIC_VMMCALL:
      return &handler<system::hypercall>;
    default:
      return nullptr;
  }
}

}  // namespace

// MONITOR, MWAIT, RSM, GETSEC, the VMX and SVM instructions and the like are not offered:
// nobody answers for them, so they raise #UD.
Handler bind_system(Decoded& decoded) {
  switch (static_cast<unsigned>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_MOV:
      return bind_mov(decoded);
    case ZYDIS_MNEMONIC_PUSH:
    case ZYDIS_MNEMONIC_POP:
      return bind_stack(decoded);
    case ZYDIS_MNEMONIC_JMP:
    case ZYDIS_MNEMONIC_CALL:
    case ZYDIS_MNEMONIC_RET:
      return bind_branch(decoded);
    default:
      break;
  }
  if (Handler run = bind_control_flow(decoded)) return run;
  if (Handler run = bind_processor(decoded)) return run;
  if (Handler run = bind_selector(decoded)) return run;
  return bind_io(decoded);
}

}  // namespace trapeze::soft::exec
