#include "kernel_diff/program.h"

#include <Zydis/Zydis.h>
#include <fmt/format.h>
#include <xbyak/xbyak.h>

#include <random>

#include "accel/soft/testing/machine.h"
#include "base/check.h"
#include "kernel_diff/layout.h"

// Xbyak takes displacements as size_t; only clang has this in -Wconversion.
#ifdef __clang__
#pragma clang diagnostic ignored "-Wsign-conversion"
#endif

namespace trapeze::kernel_diff {
namespace {

using Xbyak::Reg64;
using Xbyak::Reg8;
using Xbyak::Xmm;
using Xbyak::Ymm;

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  uint64_t bits() { return engine_(); }
  int below(int limit) { return static_cast<int>(engine_() % static_cast<uint64_t>(limit)); }
  bool percent(int chance) { return below(100) < chance; }
  template <size_t N>
  int pick(const int (&list)[N]) {
    return list[below(static_cast<int>(N))];
  }

 private:
  std::mt19937_64 engine_;
};

// What computes, and what points; R9 to R11 are in both, as the translator keeps them in memory.
constexpr int kValues[] = {0, 1, 2, 5, 8, 10, 11, 14, 15};
constexpr int kPointers[] = {3, 6, 7, 9, 12, 13};
constexpr int kAluOpcodes[] = {0x00, 0x08, 0x10, 0x18, 0x20, 0x28, 0x30, 0x38, 0x88};

bool avx_there() {
  static const bool is_there = soft::TestMachine::host_has_level3();
  return is_there;
}

class Emitter : public Xbyak::CodeGenerator {
 public:
  explicit Emitter(std::vector<uint8_t>& buffer)
      : CodeGenerator(buffer.size(), buffer.data()), random_(0) {}

  void emit(const Program& program, std::vector<size_t>& starts) {
    labels_ = std::vector<Xbyak::Label>(program.items.size() + 1);
    for (size_t i = 0; i < program.items.size(); ++i) {
      L(labels_[i]);
      starts.push_back(getSize());
      random_ = Random(program.items[i].seed);
      index_ = i;
      emit_item();
    }
    L(labels_.back());
    starts.push_back(getSize());
    int_(kEndVector);
    jmp(labels_.back(), T_NEAR);
  }

 private:
  using Emit = void (Emitter::*)();

  void emit_item() {
    struct Choice {
      int weight;
      Emit emit;
    };
    static constexpr Choice kChoices[] = {
        {18, &Emitter::alu},        {14, &Emitter::memory},       {10, &Emitter::group},
        {6, &Emitter::stack},       {5, &Emitter::strings},       {6, &Emitter::locked},
        {7, &Emitter::sse},         {7, &Emitter::avx},           {3, &Emitter::bmi},
        {7, &Emitter::map_page},    {3, &Emitter::switch_tables}, {2, &Emitter::invalidate},
        {4, &Emitter::change_next}, {3, &Emitter::change_loop},   {5, &Emitter::flags},
        {4, &Emitter::to_user},     {4, &Emitter::to_kernel},     {6, &Emitter::jump_ahead},
        {4, &Emitter::loop},        {3, &Emitter::call_function}, {3, &Emitter::jump_indirect},
        {2, &Emitter::segment},     {1, &Emitter::odd},
    };
    int total = 0;
    for (const Choice& choice : kChoices) total += choice.weight;
    int at = random_.below(total);
    for (const Choice& choice : kChoices) {
      at -= choice.weight;
      if (at < 0) return (this->*choice.emit)();
    }
  }

  Reg64 value() { return Reg64(random_.pick(kValues)); }
  uint64_t window_address() {
    const uint64_t page = kWindow + static_cast<uint64_t>(random_.below(kWindowPages)) * kPage;
    if (random_.percent(30)) return page + kPage - static_cast<uint64_t>(random_.below(24));
    return page + static_cast<uint64_t>(random_.below(kPage));
  }
  // A pointer register with an address in the window.
  Reg64 pointer(uint64_t align = 1) {
    const Reg64 reg(random_.pick(kPointers));
    if (random_.percent(60) || align > 1) mov(reg, window_address() & ~(align - 1));
    return reg;
  }
  Reg64 pick_new(const Reg64& other) {
    for (;;) {
      const Reg64 reg = value();
      if (reg.getIdx() != other.getIdx()) return reg;
    }
  }

  // `opcode` with ModRM: register `reg` and register or memory `rm`.
  void encode(int opcode, int reg, int rm, bool memory, int32_t disp) {
    int width = random_.below(4);
    if (width == 1) db(0x66);
    const bool wide = width == 3;
    db(0x40 | (wide ? 8 : 0) | (reg >> 3) << 2 | (rm >> 3));
    db(opcode | (width == 0 ? 0 : 1));
    modrm(reg, rm, memory, disp);
  }
  void modrm(int reg, int rm, bool memory, int32_t disp) {
    db((memory ? 0x80 : 0xc0) | (reg & 7) << 3 | (rm & 7));
    if (memory && (rm & 7) == 4) db(0x24);
    if (memory) dd(static_cast<uint32_t>(disp));
  }
  // ADD to CMP and MOV, either way round.
  int alu_opcode() { return random_.pick(kAluOpcodes) | (random_.percent(50) ? 2 : 0); }

  void alu() {
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
  void memory() {
    const Reg64 base = pointer();
    encode(alu_opcode(), value().getIdx(), base.getIdx(), true, random_.below(64));
  }
  void group() {
    const Reg64 base = pointer();
    const int count = 2 + random_.below(5);
    for (int i = 0; i < count; ++i) {
      encode(alu_opcode(), value().getIdx(), base.getIdx(), true, random_.below(160) - 80);
      if (random_.percent(20)) inc(value());
    }
  }
  void stack() {
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
  void strings() {
    mov(rsi, window_address());
    mov(rdi, window_address());
    mov(ecx, static_cast<uint32_t>(random_.below(80)));
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
  void locked() {
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
  // Where the CPU model has it, as avx_there() says.
  void avx() {
    if (!avx_there()) return sse();
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
  void xsave_area(int extension) {
    const Reg64 base(random_.pick(kPointers));
    mov(base, window_address() & ~uint64_t{63});
    db(0x48 | (base.getIdx() >> 3));
    db(0x0f);
    db(0xae);
    modrm(extension, base.getIdx(), true, 0);
  }
  void bmi() {
    if (!avx_there()) return alu();
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
  void sse() {
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
  // Another page-table entry, and what makes it known.
  void map_page() {
    const auto page = static_cast<uint64_t>(random_.below(kWindowPages));
    const bool in_b = random_.percent(40);
    const uint64_t slot = (in_b ? kWindowTableB : kWindowTableA) + page * 8;
    uint64_t entry = kFrames + static_cast<uint64_t>(random_.below(kWindowPages)) * kPage;
    entry |= random_.percent(75) ? 1 : 0;
    entry |= random_.percent(70) ? 2 : 0;
    entry |= random_.percent(50) ? 4 : 0;
    if (random_.percent(30)) entry |= uint64_t{1} << 63;
    mov(rax, entry);
    mov(ptr[reinterpret_cast<void*>(slot)], rax);
    if (random_.percent(70)) {
      mov(rbx, kWindow + page * kPage + 8);
      invlpg(rbx);
    } else {
      mov(rax, in_b ? kPml4B : kPml4A);
      move_to_cr3();
    }
    // The other address space's entry is fresh after the switch; its stale one must not be seen.
  }
  void invlpg(const Reg64& reg) {
    CHECK(reg.getIdx() == 3);
    db(0x0f);
    db(0x01);
    db(0x3b);
  }
  void move_to_cr3() {
    db(0x0f);
    db(0x22);
    db(0xd8);
  }
  void switch_tables() {
    mov(rax, random_.percent(50) ? kPml4A : kPml4B);
    move_to_cr3();
  }
  void invalidate() {
    mov(rbx, window_address());
    invlpg(rbx);
  }
  // The code's own bytes, ahead of RIP: the immediate, or ADD to SUB.
  void change_next() {
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
  void change_loop() {
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
  void flags() {
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
  void stac() {
    db(0x0f);
    db(0x01);
    db(0xcb);
  }
  void clac() {
    db(0x0f);
    db(0x01);
    db(0xca);
  }
  void to_user() {
    Xbyak::Label there;
    if (random_.percent(50)) {
      lea(rcx, ptr[rip + there]);
      mov(r11, 0x202U | (random_.bits() & 0x8d5));
      db(0x48);  // sysretq
      db(0x0f);
      db(0x07);
    } else {
      mov(rsp, kStackTop - 512);
      push(0x2b);
      push(static_cast<int>(kStackTop - 768));
      push(static_cast<int>(2 | (random_.bits() & 0xad5)));
      push(0x33);
      lea(rax, ptr[rip + there]);
      push(rax);
      db(0x48);
      db(0xcf);  // iretq
    }
    L(there);
    mov(rsp, kStackTop - 256);
  }
  void to_kernel() {
    if (random_.percent(70)) {
      syscall();
    } else {
      int_(kServiceVector);
    }
  }
  void jump_ahead() {
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
  void loop() {
    Xbyak::Label again;
    mov(dword[reinterpret_cast<void*>(kCounter)], static_cast<uint32_t>(2 + random_.below(4)));
    const Reg64 base = pointer();
    L(again);
    encode(alu_opcode(), value().getIdx(), base.getIdx(), true, random_.below(64));
    add(base, random_.below(700));
    dec(dword[reinterpret_cast<void*>(kCounter)]);
    jg(again);
  }
  void call_function() {
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
  void jump_indirect() {
    Xbyak::Label there;
    const Reg64 reg = value();
    lea(reg, ptr[rip + there]);
    jmp(reg);
    nop();
    L(there);
  }
  void segment() {
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
  void odd() {
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

  Random random_;
  size_t index_ = 0;
  std::vector<Xbyak::Label> labels_;
};

}  // namespace

Program random_program(uint64_t seed) {
  std::mt19937_64 engine(seed);
  Program program;
  program.seed = seed;
  program.smap = engine() % 4 == 0;
  const size_t count = 8 + engine() % 60;
  for (size_t i = 0; i < count; ++i) program.items.push_back({engine()});
  return program;
}

Image assemble(const Program& program) {
  Image image;
  image.code.resize(kCodeBytes);
  Emitter emitter(image.code);
  std::vector<size_t> starts;
  emitter.emit(program, starts);
  CHECK(Xbyak::GetError() == Xbyak::ERR_NONE);
  image.code.resize(emitter.getSize());
  image.skips.assign(kCodeBytes, static_cast<uint16_t>(starts.back()));
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    for (size_t at = starts[i]; at < starts[i + 1]; ++at) {
      image.skips[at] = static_cast<uint16_t>(starts[i + 1]);
    }
  }
  return image;
}

std::string disassemble(const Image& image) {
  ZydisDecoder decoder;
  ZydisFormatter formatter;
  ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
  ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
  std::string text;
  for (size_t at = 0; at < image.code.size();) {
    ZydisDecodedInstruction decoded;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    char words[128] = "(byte)";
    size_t length = 1;
    if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, image.code.data() + at,
                                            image.code.size() - at, &decoded, operands))) {
      length = decoded.length;
      ZydisFormatterFormatInstruction(&formatter, &decoded, operands, decoded.operand_count_visible,
                                      words, sizeof(words), kCode + at, nullptr);
    }
    text += fmt::format("  {:x}: {}\n", kCode + at, words);
    at += length;
  }
  return text;
}

}  // namespace trapeze::kernel_diff
