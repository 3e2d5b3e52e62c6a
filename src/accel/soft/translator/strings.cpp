// REP MOVS and REP STOS by the host's own, where all of it lies in one page on either side: so they
// cannot fault half-way, and are done before an interrupt has waited long. The interpreter does the
// others, a page at a time.
#include "accel/soft/translator/block_translator.h"
#include "accel/soft/translator/registers.h"

namespace trapeze::soft {

using Xbyak::Reg64;
namespace regs = Xbyak::util;

namespace {

constexpr uint8_t kRsiNumber = 6, kRdiNumber = 7;

Xbyak::RegExp behind(uint8_t pointer, unsigned size) {
  return Reg64(pointer) + Reg64(kHostRcx) * static_cast<int>(size);
}

}  // namespace

void BlockTranslator::interpret_unless_rcx_zero(uint32_t site) {
  code_.skip_jump_if_rcx_zero();
  cold(code_.jump(), site, {});
}

// R11: what makes a host address of the pointer's. Behind it all elements are known to be in RAM.
uint8_t BlockTranslator::probe_string(const Item& item, uint8_t pointer, unsigned size, bool write,
                                      uint32_t site) {
  const Reg64 scratch(kScratch);
  const Access access{code_.here(), static_cast<uint16_t>(size), write, false};
  const HostMemory memory = probe_base(item, access, pointer, 0);
  code_.pext_state(scratch, Reg64(pointer), TRAPEZE_STATE(page_offset_mask));
  code_.lea(scratch, code_.ptr[behind(kScratch, size) - 1]);
  code_.pext_state(scratch, scratch, TRAPEZE_STATE(page_mask));
  interpret_unless_rcx_zero(site);
  return memory.index;
}

bool BlockTranslator::emit_string(const Item& item) {
  const ZydisDecodedInstruction& zy = item.zy;
  if (is_code32() || zy.address_width != 64) return false;
  if (item.insn.seg == kFs || item.insn.seg == kGs) return false;
  const bool moves = zy.opcode < 0xa8;
  const unsigned size = (zy.opcode & 1) != 0 ? zy.operand_width / 8U : 1;
  const Reg64 scratch(kScratch), count(kHostRcx);

  const uint32_t site = new_site(item, SiteKind::Interpret);
  code_.db(0x65);
  code_.movzx(regs::ecx, code_.byte[Xbyak::RegExp(offsetof(Cpu, df))]);
  interpret_unless_rcx_zero(site);
  // From 1 to a page: neither nothing, whose pointers may be anything, nor a length that overflows.
  code_.lea(scratch, code_.ptr[count - 1]);
  code_.pext_state(scratch, scratch, TRAPEZE_STATE(page_mask));
  interpret_unless_rcx_zero(site);

  // The source first, as the processor does: where that fails, the destination is not even
  // accessed.
  if (moves) {
    const Reg64 from(probe_string(item, kRsiNumber, size, false, site));
    code_.lea(from, code_.ptr[Reg64(kRsiNumber) + from]);
    code_.store(TRAPEZE_STATE(string_from), from);
  }
  const Reg64 to(probe_string(item, kRdiNumber, size, true, site));
  code_.lea(scratch, code_.ptr[behind(kRdiNumber, size)]);
  code_.store(TRAPEZE_STATE(spare), scratch);
  code_.lea(Reg64(kRdiNumber), code_.ptr[Reg64(kRdiNumber) + to]);
  if (moves) {
    code_.lea(to, code_.ptr[behind(kRsiNumber, size)]);
    code_.load(Reg64(kRsiNumber), TRAPEZE_STATE(string_from));
  }
  code_.mov(scratch, count);
  code_.db(0xf3);
  if (size == 2) code_.db(0x66);
  if (size == 8) code_.db(0x48);
  code_.db(zy.opcode);
  code_.mov(count, scratch);
  code_.load(Reg64(kRdiNumber), TRAPEZE_STATE(spare));
  if (moves) code_.mov(Reg64(kRsiNumber), to);
  return true;
}

}  // namespace trapeze::soft
