#include "kernel_diff/emitter.h"

#include "kernel_diff/layout.h"

namespace trapeze::kernel_diff {
namespace {

constexpr int kAluOpcodes[] = {0x00, 0x08, 0x10, 0x18, 0x20, 0x28, 0x30, 0x38, 0x88};

}  // namespace

Emitter::Emitter(const Program& program, std::vector<uint8_t>& buffer)
    : CodeGenerator(buffer.size(), buffer.data()), program_(program) {}

void Emitter::emit(std::vector<size_t>& starts) {
  labels_ = std::vector<Xbyak::Label>(program_.items.size() + 1);
  for (size_t i = 0; i < program_.items.size(); ++i) {
    L(labels_[i]);
    starts.push_back(getSize());
    random_ = Random(program_.items[i].seed);
    index_ = i;
    emit_item();
  }
  L(labels_.back());
  starts.push_back(getSize());
  int_(kEndVector);
  jmp(labels_.back(), T_NEAR);
}

void Emitter::emit_item() {
  struct Choice {
    int weight;
    Emit emit;
  };
  static constexpr Choice kChoices[] = {
      {18, &Emitter::alu},          {14, &Emitter::memory},
      {10, &Emitter::group},        {6, &Emitter::stack},
      {5, &Emitter::strings},       {6, &Emitter::locked},
      {7, &Emitter::sse},           {7, &Emitter::avx},
      {3, &Emitter::bmi},           {3, &Emitter::x87},
      {7, &Emitter::map_page},      {4, &Emitter::switch_tables},
      {2, &Emitter::invalidate},    {3, &Emitter::change_rights},
      {3, &Emitter::through_alias}, {4, &Emitter::change_next},
      {3, &Emitter::change_loop},   {2, &Emitter::change_through_alias},
      {5, &Emitter::flags},         {4, &Emitter::to_user},
      {4, &Emitter::to_kernel},     {6, &Emitter::jump_ahead},
      {4, &Emitter::loop},          {3, &Emitter::call_function},
      {3, &Emitter::jump_indirect}, {2, &Emitter::segment},
      {1, &Emitter::odd},
  };
  int total = 0;
  for (const Choice& choice : kChoices) total += choice.weight;
  int at = random_.below(total);
  for (const Choice& choice : kChoices) {
    at -= choice.weight;
    if (at < 0) return (this->*choice.emit)();
  }
}

Reg64 Emitter::pick_new(const Reg64& other) {
  for (;;) {
    const Reg64 reg = value();
    if (reg.getIdx() != other.getIdx()) return reg;
  }
}

uint64_t Emitter::window_address() {
  const uint64_t page = kWindow + static_cast<uint64_t>(random_.below(kWindowPages)) * kPage;
  if (random_.percent(30)) return page + kPage - static_cast<uint64_t>(random_.below(24));
  return page + static_cast<uint64_t>(random_.below(kPage));
}

Reg64 Emitter::pointer(uint64_t align) {
  const Reg64 reg(random_.pick(kPointers));
  if (random_.percent(60) || align > 1) mov(reg, window_address() & ~(align - 1));
  return reg;
}

void Emitter::encode(int opcode, int reg, int rm, bool memory, int32_t disp) {
  int width = random_.below(4);
  if (width == 1) db(0x66);
  const bool wide = width == 3;
  db(0x40 | (wide ? 8 : 0) | (reg >> 3) << 2 | (rm >> 3));
  db(opcode | (width == 0 ? 0 : 1));
  modrm(reg, rm, memory, disp);
}

void Emitter::modrm(int reg, int rm, bool memory, int32_t disp) {
  db((memory ? 0x80 : 0xc0) | (reg & 7) << 3 | (rm & 7));
  if (memory && (rm & 7) == 4) db(0x24);
  if (memory) dd(static_cast<uint32_t>(disp));
}

int Emitter::alu_opcode() { return random_.pick(kAluOpcodes) | (random_.percent(50) ? 2 : 0); }

}  // namespace trapeze::kernel_diff
