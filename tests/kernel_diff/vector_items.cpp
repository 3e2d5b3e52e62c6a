#include "kernel_diff/emitter.h"
#include "kernel_diff/layout.h"

namespace trapeze::kernel_diff {

void Emitter::sse() {
  const Xmm a(random_.below(16)), b(random_.below(16));
  const Reg64 base = pointer(random_.percent(80) ? 16 : 1);
  switch (random_.below(8)) {
    case 0:
      movaps(a, ptr[base]);
      break;
    case 1:
      movaps(ptr[base], a);
      break;
    case 2:
      movups(ptr[base + random_.below(16)], a);
      break;
    case 3:
      movdqu(a, ptr[base + random_.below(16)]);
      break;
    case 4:
      pxor(a, ptr[base]);
      break;
    case 5:
      paddq(a, b);
      pshufb(b, a);
      break;
    case 6:
      movq(value(), a);
      movq(b, value());
      break;
    default:
      addps(a, ptr[base]);
      mulsd(b, a);
      break;
  }
}

// Where the CPU model has it.
void Emitter::avx() {
  if (!program_.level3) return sse();
  const Ymm a(random_.below(16)), b(random_.below(16)), c(random_.below(16));
  const Reg64 base = pointer(random_.percent(80) ? 32 : 1);
  switch (random_.below(12)) {
    case 0:
      vmovdqa(a, ptr[base]);
      break;
    case 1:
      vmovdqa(ptr[base], a);
      break;
    case 2:
      vmovdqu(ptr[base + random_.below(32)], a);
      break;
    case 3:
      vmovdqu(a, ptr[base + random_.below(32)]);
      vmovdqu(b, ptr[base + 32]);
      break;
    case 4:
      vpaddd(a, b, ptr[base]);
      break;
    case 5:
      vfmadd231pd(a, b, c);
      vpermq(b, c, static_cast<uint8_t>(random_.bits()));
      break;
    case 6:
      vmovdqu(Xmm(a.getIdx()), ptr[base]);
      break;
    case 7:
      vpmaskmovd(a, b, ptr[base]);
      break;
    case 8:
      vpmaskmovd(ptr[base], a, b);
      break;
    case 9:
      random_.percent(50) ? vzeroupper() : vzeroall();
      break;
    case 10:
      xsave_area(random_.percent(70) ? 4 : 5);
      break;
    default:
      vpcmpgtd(a, b, c);
      vmovmskps(value().cvt32(), a);
      break;
  }
}

// XSAVE (4) or XRSTOR (5), whose area's header is mostly not valid. RDX and RAX say of what.
void Emitter::xsave_area(int extension) {
  const Reg64 base(random_.pick(kPointers));
  mov(base, window_address() & ~uint64_t{63});
  db(0x48 | (base.getIdx() >> 3));
  db(0x0f);
  db(0xae);
  modrm(extension, base.getIdx(), true, 0);
}

// Mostly one that computes with ST(0), so that the stack neither fills up nor runs empty at once.
void Emitter::x87() {
  const Reg64 base = pointer();
  switch (random_.below(8)) {
    case 0:
      fld(qword[base]);
      break;
    case 1:
      fstp(qword[base + random_.below(16)]);
      break;
    case 2:
      fild(dword[base]);
      break;
    case 3:
      db(0x40 | base.getIdx() >> 3);
      db(0xdb);
      modrm(random_.percent(50) ? 5 : 7, base.getIdx(), true, 0);  // FLD, FSTP m80fp
      break;
    case 4:
      fadd(qword[base]);
      break;
    case 5:
      fxch(Xbyak::Fpu(random_.below(8)));
      fdivrp(Xbyak::Fpu(1 + random_.below(7)), Xbyak::Fpu(0));
      break;
    case 6:
      fninit();
      break;
    default:
      fnstsw(ax);
      fsqrt();
      break;
  }
}

}  // namespace trapeze::kernel_diff
