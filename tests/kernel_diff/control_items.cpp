#include "kernel_diff/emitter.h"
#include "kernel_diff/layout.h"

namespace trapeze::kernel_diff {

// The code's own bytes, ahead of RIP: the immediate, or ADD to SUB.
void Emitter::change_next() {
  Xbyak::Label at;
  if (random_.percent(50)) {
    mov(dword[rip + at], static_cast<uint32_t>(random_.bits()) & 0x7fff'ffff);
    for (int i = random_.below(3); i > 0; --i) nop();
    db(0xb8);  // mov eax, imm32
    L(at);
    dd(0x11111111);
  } else {
    mov(byte[rip + at], 0x29);
    L(at);
    db(0x01);  // add edx, eax
    db(0xc2);
  }
}

// Behind RIP: each turn runs what the one before has written.
void Emitter::change_loop() {
  Xbyak::Label again, at;
  mov(dword[reinterpret_cast<void*>(kCounter)], 3U);
  L(again);
  db(0x05);  // add eax, imm32
  L(at);
  dd(3);
  add(dword[rip + at], 5);
  dec(dword[reinterpret_cast<void*>(kCounter)]);
  jg(again);
}

// The same through another linear address, on a large page: the code's own page is not written to.
void Emitter::change_through_alias() {
  Xbyak::Label at;
  lea(rbx, ptr[rip + at]);
  add(rbx, static_cast<uint32_t>(kAlias));
  mov(dword[rbx], static_cast<uint32_t>(random_.bits()) & 0x7fff'ffff);
  db(0xb8);  // mov eax, imm32
  L(at);
  dd(0x11111111);
}

void Emitter::jump_ahead() {
  const size_t last = labels_.size() - 1;
  const size_t target = std::min(last, index_ + 1 + static_cast<size_t>(random_.below(4)));
  if (random_.percent(50)) encode(0x38, value().getIdx(), value().getIdx(), false, 0);
  switch (random_.below(5)) {
    case 0:
      jc(labels_[target], T_NEAR);
      break;
    case 1:
      jnz(labels_[target], T_NEAR);
      break;
    case 2:
      jl(labels_[target], T_NEAR);
      break;
    case 3:
      jp(labels_[target], T_NEAR);
      break;
    default:
      jmp(labels_[target], T_NEAR);
      break;
  }
}

void Emitter::loop() {
  Xbyak::Label again;
  mov(dword[reinterpret_cast<void*>(kCounter)], static_cast<uint32_t>(2 + random_.below(4)));
  const Reg64 base = pointer();
  L(again);
  encode(alu_opcode(), value().getIdx(), base.getIdx(), true, random_.below(64));
  add(base, random_.below(700));
  dec(dword[reinterpret_cast<void*>(kCounter)]);
  jg(again);
}

void Emitter::call_function() {
  Xbyak::Label function, over;
  if (random_.percent(50)) {
    call(function);
  } else {
    const Reg64 reg = value();
    lea(reg, ptr[rip + function]);
    call(reg);
  }
  jmp(over);
  L(function);
  push(rbp);
  encode(alu_opcode(), value().getIdx(), value().getIdx(), false, 0);
  pop(r10);
  ret();
  L(over);
}

void Emitter::jump_indirect() {
  Xbyak::Label there;
  const Reg64 reg = value();
  lea(reg, ptr[rip + there]);
  jmp(reg);
  nop();
  L(there);
}

}  // namespace trapeze::kernel_diff
