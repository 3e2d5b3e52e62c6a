#include "kernel_diff/emitter.h"
#include "kernel_diff/layout.h"

namespace trapeze::kernel_diff {

void Emitter::flags() {
  switch (random_.below(6)) {
    case 0:
      sti();
      break;
    case 1:
      cli();
      break;
    case 2:
      pushfq();
      pop(value());
      break;
    case 3:
      stac();
      break;
    case 4:
      clac();
      break;
    default: {
      // IF, DF, AC and the arithmetic flags; TF now and then.
      const uint64_t wanted = random_.bits() & 0x4'0ad5;
      push(static_cast<int>(wanted | 2 | (random_.percent(10) ? 0x100 : 0)));
      popfq();
      cld();
      break;
    }
  }
}

void Emitter::stac() {
  db(0x0f);
  db(0x01);
  db(0xcb);
}

void Emitter::clac() {
  db(0x0f);
  db(0x01);
  db(0xca);
}

void Emitter::to_user() {
  Xbyak::Label there;
  if (random_.percent(50)) {
    lea(rcx, ptr[rip + there]);
    mov(r11, 0x202U | (random_.bits() & 0x4'08d5));
    db(0x48);  // sysretq
    db(0x0f);
    db(0x07);
  } else {
    mov(rsp, kStackTop - 512);
    push(0x2b);
    push(static_cast<int>(kStackTop - 768));
    push(static_cast<int>(2 | (random_.bits() & 0x4'0ad5)));
    push(0x33);
    lea(rax, ptr[rip + there]);
    push(rax);
    db(0x48);
    db(0xcf);  // iretq
  }
  L(there);
  mov(rsp, kStackTop - 256);
}

void Emitter::to_kernel() {
  if (random_.percent(70)) {
    syscall();
  } else {
    int_(kServiceVector);
  }
}

void Emitter::segment() {
  mov(rbx, window_address() & 0xff'fff0);
  db(0xf3);  // wrgsbase rbx
  db(0x48);
  db(0x0f);
  db(0xae);
  db(0xdb);
  db(0x65);
  mov(value(), ptr[Xbyak::RegExp(size_t{8})]);
  db(0x65);
  add(dword[Xbyak::RegExp(size_t{16})], value().cvt32());
}

void Emitter::odd() {
  switch (random_.below(5)) {
    case 0:
      ud2();
      break;
    case 1:
      div(value());
      break;
    case 2:
      int3();
      break;
    case 3:
      mov(rax, uint64_t{0x8000'0000'0000'0000});
      mov(rcx, ptr[rax]);
      break;
    default:
      mov(ax, 0x2b);
      mov(ds, ax);
      break;
  }
}

}  // namespace trapeze::kernel_diff
