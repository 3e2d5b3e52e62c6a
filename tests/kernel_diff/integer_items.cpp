#include "kernel_diff/emitter.h"
#include "kernel_diff/layout.h"

namespace trapeze::kernel_diff {

void Emitter::alu() {
  const Reg64 a = value(), b = value();
  switch (random_.below(8)) {
    case 0:
      mov(a, random_.bits());
      break;
    case 1:
      shl(a, cl);
      break;
    case 2:
      sar(b.cvt32(), static_cast<int>(random_.below(32)));
      break;
    case 3:
      lea(a, ptr[b + value() * 4 + random_.below(4096)]);
      break;
    case 4:
      add(ah, dl);
      setc(Reg8(random_.pick(kValues) & 7, true));
      break;
    case 5:
      cmovl(a, b);
      imul(b, a, 77);
      break;
    default:
      encode(alu_opcode(), a.getIdx(), b.getIdx(), false, 0);
      break;
  }
}

void Emitter::memory() {
  const Reg64 base = pointer();
  const Reg64 reg = value();
  encode(alu_opcode(), reg.getIdx(), base.getIdx(), true, random_.below(64));
  // What was loaded is often used at once.
  if (random_.percent(40)) encode(alu_opcode(), reg.getIdx(), value().getIdx(), false, 0);
}

void Emitter::group() {
  const Reg64 base = pointer();
  const int count = 2 + random_.below(5);
  for (int i = 0; i < count; ++i) {
    encode(alu_opcode(), value().getIdx(), base.getIdx(), true, random_.below(160) - 80);
    if (random_.percent(20)) inc(value());
  }
}

void Emitter::stack() {
  if (random_.percent(50)) mov(rsp, window_address() & ~uint64_t{7});
  const int depth = 1 + random_.below(4);
  for (int i = 0; i < depth; ++i) push(value());
  if (random_.percent(50)) {
    sub(rsp, 24);
    mov(ptr[rsp + 8], value());
    add(rsp, 24);
  }
  for (int i = 0; i < depth; ++i) pop(value());
  if (random_.percent(60)) mov(rsp, kStackTop - 256);
}

void Emitter::strings() {
  mov(rsi, window_address());
  mov(rdi, window_address());
  mov(ecx, static_cast<uint32_t>(random_.below(random_.percent(85) ? 80 : 5000)));
  // Times the size of an element it overflows.
  if (random_.percent(5)) bts(rcx, static_cast<uint8_t>(61 + random_.below(3)));
  if (random_.percent(25)) std();
  switch (random_.below(6)) {
    case 0:
      rep();
      movsb();
      break;
    case 1:
      rep();
      movsq();
      break;
    case 2:
      rep();
      stosd();
      break;
    case 3:
      repne();
      scasb();
      break;
    case 4:
      repe();
      cmpsb();
      break;
    default:
      lodsq();
      break;
  }
  cld();
}

void Emitter::locked() {
  const Reg64 base = pointer();
  const int32_t disp = random_.below(16);
  switch (random_.below(5)) {
    case 0:
      lock();
      xadd(ptr[base + disp], value());
      break;
    case 1:
      lock();
      cmpxchg(ptr[base + disp], value().cvt32());
      break;
    case 2:
      lock();
      inc(dword[base + disp]);
      break;
    case 3:
      lock();
      bts(qword[base + disp], static_cast<uint8_t>(random_.below(64)));
      break;
    default:
      xchg(ptr[base + disp], value());
      break;
  }
}

void Emitter::bmi() {
  if (!program_.level3) return alu();
  const Reg64 a = value(), b = value(), c = value();
  switch (random_.below(6)) {
    case 0:
      andn(a, b, c);
      break;
    case 1:
      mulx(a, pick_new(a), c);
      break;
    case 2:
      shlx(a, qword[pointer()], c);
      break;
    case 3:
      pdep(a, b, c);
      break;
    case 4:
      blsr(a, qword[pointer()]);
      break;
    default:
      tzcnt(a, b);
      lzcnt(b, qword[pointer()]);
      break;
  }
}

}  // namespace trapeze::kernel_diff
