#include "kernel_diff/kernel.h"

#include <fmt/format.h>
#include <xbyak/xbyak.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <random>
#include <span>
#include <thread>

#include "accel/soft/core/env.h"
#include "accel/soft/system/mode.h"
#include "base/check.h"
#include "base/units.h"
#include "kernel_diff/layout.h"

// Xbyak takes displacements as size_t; only clang has this in -Wconversion.
#ifdef __clang__
#pragma clang diagnostic ignored "-Wsign-conversion"
#endif

namespace trapeze::kernel_diff {
namespace {

using soft::Cpu;

constexpr std::chrono::seconds kMaxRunTime{3};

// 64-bit interrupt gates that switch to stack `ist` (SDM 3A 6.14.1, 6.14.5).
struct Gate {
  Gate(uint64_t handler, uint8_t stack, uint8_t dpl)
      : offset_low(static_cast<uint16_t>(handler)),
        ist(stack),
        type(static_cast<uint8_t>(0x8e | dpl << 5)),
        offset_middle(static_cast<uint16_t>(handler >> 16)) {}
  uint16_t offset_low, selector = 8;
  uint8_t ist, type;
  uint16_t offset_middle;
  uint32_t offset_high = 0, reserved = 0;
};
static_assert(sizeof(Gate) == 16);

bool pushes_error_code(unsigned vector) {
  return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
}

// The handlers, and where each begins.
class Handlers : public Xbyak::CodeGenerator {
 public:
  uint64_t exception[32] = {}, service = 0, end = 0, interrupt = 0, nmi = 0, system_call = 0;

  explicit Handlers(std::vector<uint8_t>& buffer) : CodeGenerator(buffer.size(), buffer.data()) {
    for (unsigned vector = 0; vector < 32; ++vector) {
      exception[vector] = here();
      if (!pushes_error_code(vector)) push(0);
      push(static_cast<int>(vector));
      jmp(common_, T_NEAR);
    }
    service = here();
    push(0);
    push(kServiceVector);
    emit_common();
    emit_others();
    CHECK(Xbyak::GetError() == Xbyak::ERR_NONE);
  }

 private:
  // Offsets from RSP behind the four pushes.
  static constexpr int kVectorAt = 32, kErrorAt = 40, kRipAt = 48, kCsAt = 56, kFlagsAt = 64,
                       kSsAt = 80;

  uint64_t here() const { return kHandlers + getSize(); }

  void emit_common() {
    L(common_);
    for (const auto& reg : {rax, rbx, rcx, rdx}) push(reg);
    mov(ebx, static_cast<uint32_t>(kLog));
    mov(rax, ptr[rbx]);
    cmp(rax, static_cast<uint32_t>(kMaxRecords));
    jae(end_, T_NEAR);
    inc(qword[rbx]);
    shl(rax, 5);
    lea(rbx, ptr[rbx + rax + 8]);
    mov(rax, ptr[rsp + kErrorAt]);
    shl(rax, 32);
    or_(rax, ptr[rsp + kVectorAt]);
    mov(ptr[rbx], rax);
    db(0x0f);  // mov rax, cr2
    db(0x20);
    db(0xd0);
    mov(ptr[rbx + 8], rax);
    mov(rdx, ptr[rsp + kRipAt]);
    mov(ptr[rbx + 16], rdx);
    mov(rcx, ptr[rsp + kCsAt]);
    shl(rcx, 32);
    or_(rcx, ptr[rsp + kFlagsAt]);
    mov(ptr[rbx + 24], rcx);
    emit_choice();
  }

  void emit_choice() {
    Xbyak::Label debug, serve, page_fault, skip, back;
    mov(ecx, ptr[rsp + kVectorAt]);
    cmp(ecx, 1);
    je(debug);
    cmp(ecx, 3);
    je(back, T_NEAR);
    cmp(ecx, kServiceVector);
    je(serve);
    cmp(ecx, 14);
    je(page_fault);
    // An interrupted REP SCAS or CMPS that then fails leaves other flags than one that fails at
    // once: what follows must not depend on them.
    L(skip);  // rdx: RIP
    and_(qword[rsp + kFlagsAt], ~0x8d5);
    sub(rdx, static_cast<uint32_t>(kCode));
    cmp(rdx, static_cast<uint32_t>(kCodeBytes));
    jae(end_, T_NEAR);
    movzx(edx, word[rdx * 2 + kSkips]);
    add(rdx, static_cast<uint32_t>(kCode));
    mov(ptr[rsp + kRipAt], rdx);
    jmp(back, T_NEAR);

    L(debug);
    and_(qword[rsp + kFlagsAt], ~0x100);
    mov(eax, 0xffff0ff0);
    db(0x0f);  // mov dr6, rax
    db(0x23);
    db(0xf0);
    jmp(back, T_NEAR);

    L(serve);
    mov(qword[rsp + kCsAt], 0x08);
    mov(qword[rsp + kSsAt], 0x10);
    jmp(back, T_NEAR);

    L(page_fault);  // rax: the address
    test(dword[rsp + kErrorAt], 1);
    jnz(skip);
    mov(rcx, rax);
    sub(rcx, static_cast<uint32_t>(kWindow));
    shr(rcx, 12);
    cmp(rcx, static_cast<uint32_t>(kWindowPages));
    jae(skip);
    db(0x0f);  // mov rbx, cr3
    db(0x20);
    db(0xdb);
    Xbyak::Label in_a;
    and_(rbx, -static_cast<int>(kPage));  // without the PCID
    cmp(rbx, static_cast<uint32_t>(kPml4A));
    mov(ebx, static_cast<uint32_t>(kWindowTableA));
    je(in_a);
    mov(ebx, static_cast<uint32_t>(kWindowTableB));
    L(in_a);
    or_(qword[rbx + rcx * 8], 1);
    db(0x0f);  // invlpg [rax]
    db(0x01);
    db(0x38);

    L(back);
    pop(rdx);
    pop(rcx);
    pop(rbx);
    pop(rax);
    add(rsp, 16);
    iret_q();
  }

  void emit_others() {
    end = here();
    L(end_);
    cli();
    hlt();
    jmp(end_, T_NEAR);

    interrupt = here();
    for (const auto& reg : {rax, rcx, rdx}) push(reg);
    inc(qword[reinterpret_cast<void*>(kInterrupts)]);
    mov(ecx, 0x80b);  // x2APIC EOI
    xor_(eax, eax);
    xor_(edx, edx);
    db(0x0f);  // wrmsr
    db(0x30);
    for (const auto& reg : {rdx, rcx, rax}) pop(reg);
    iret_q();

    nmi = here();
    inc(qword[reinterpret_cast<void*>(kInterrupts)]);
    iret_q();

    system_call = here();
    jmp(rcx);
  }

  void iret_q() {
    db(0x48);
    db(0xcf);
  }

  Xbyak::Label common_, end_;
};

}  // namespace

class Kernel::Host final : public LapicHost {
 public:
  explicit Host(Cpu& cpu) : cpu_(cpu) {}
  void send_ipi(const ApicMessage&) override {}
  void wake() override { cpu_.attention.fetch_or(soft::kAttnInterrupt); }
  void timer_changed(std::optional<uint64_t>) override {}
  void broadcast_eoi(uint8_t) override {}
  uint64_t tsc_to_ns(uint64_t) override { return 0; }

 private:
  Cpu& cpu_;
};

Kernel::Kernel(Executor executor) : watchdog_(machine_.cpu()) {
  if (executor == Executor::Translator) machine_.use_translator();
  Cpu& cpu = machine_.cpu();
  host_ = std::make_unique<Host>(cpu);
  lapic_ = std::make_unique<Lapic>(LapicConfig{.id = VcpuId{0}, .is_bsp = true}, clock_, *host_);
  cpu.env->clock = &clock_;
  cpu.env->lapic = lapic_.get();
  initial_ = soft::save_cpu(cpu);
  first_page_.resize(kPml4A);
  CHECK(machine_.memory().read(Gpa{0}, first_page_));
}

Kernel::~Kernel() = default;

Kernel::Watchdog::Watchdog(Cpu& cpu) {
  thread_ = std::jthread([this, &cpu](const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    for (uint64_t seen = 0; !stop.stop_requested();) {
      changed_.wait_for(lock, stop, kMaxRunTime, [] { return false; });
      const uint64_t run = run_.load();
      if (run % 2 != 0 && run == seen) cpu.attention.fetch_or(soft::kAttnKick);
      seen = run;
    }
  });
}

template <typename T>
void Kernel::put(uint64_t gpa, const T& value) {
  CHECK(machine_.memory().store(Gpa{gpa}, value));
}

void Kernel::write_tables(const Program& program) {
  std::mt19937_64 engine(program.seed);
  constexpr uint64_t kLink = 0x67, kSupervisor = 0x63;  // accessed, dirty
  constexpr uint64_t kLarge = 0x80;
  const uint64_t global = program.global_pages ? 0x100 : 0;
  for (const bool b : {false, true}) {
    const uint64_t pml4 = b ? kPml4B : kPml4A;
    const uint64_t window = b ? kWindowTableB : kWindowTableA;
    put(pml4, (pml4 + kPage) | kLink);
    put(pml4 + kPage, (pml4 + 2 * kPage) | kLink);
    put(pml4 + 2 * kPage, kLowTable | kLink);
    put(pml4 + 2 * kPage + 8, window | kLink);
    put(pml4 + 2 * kPage + 16, kLarge | kLink | global);
    for (uint64_t i = 0; i < kWindowPages; ++i) {
      const uint64_t frame = kFrames + (i + (b ? 1 : 0)) % kWindowPages * kPage;
      put(window + i * 8, frame | (engine() % 5 != 0 ? 1 : 0) | (engine() % 4 != 0 ? 2 : 0) |
                              (engine() % 2 != 0 ? 4 : 0));
    }
  }
  for (uint64_t at = 0; at < kCompared; at += kPage) {
    put(kLowTable + at / kPage * 8,
        at | global | (at >= kCode && at < kStackTop ? kLink : kSupervisor));
  }
  std::vector<uint64_t> noise(kWindowPages * kPage / 8);
  for (uint64_t& word : noise) word = engine();
  CHECK(machine_.memory().write(Gpa{kFrames}, std::as_bytes(std::span(noise))));
}

void Kernel::write_handlers() {
  std::vector<uint8_t> code(2 * kPage);
  const Handlers handlers(code);
  CHECK(machine_.memory().write(Gpa{kHandlers}, std::as_bytes(std::span(code))));
  for (unsigned vector = 0; vector < 32; ++vector) {
    put(kIdt + vector * 16, Gate(handlers.exception[vector], 1, vector == 3 ? 3 : 0));
  }
  put(kIdt + 2 * 16, Gate(handlers.nmi, 3, 0));
  put(kIdt + kServiceVector * 16, Gate(handlers.service, 1, 3));
  put(kIdt + kEndVector * 16, Gate(handlers.end, 1, 3));
  put(kIdt + kInterruptVector * 16, Gate(handlers.interrupt, 2, 0));
  put(kTss + 4, kFaultStackTop);
  put(kTss + 0x24, kFaultStackTop);      // IST1
  put(kTss + 0x2c, kInterruptStackTop);  // IST2
  put(kTss + 0x34, kNmiStackTop);        // IST3: an NMI may come in a handler of the others
  machine_.cpu().lstar = handlers.system_call;
}

void Kernel::start(const Program& program) {
  std::mt19937_64 engine(program.seed + 1);
  VcpuState state = initial_;
  state.cr3 = kPml4A;
  state.cr4 |= 1U << 16 | 1U << 7;  // FSGSBASE, PGE
  if (program.pcids) {
    state.cr3 |= kPcidA;
    state.cr4 |= 1U << 17;
  }
  if (program.smap) state.cr4 |= 1U << 21;
  state.idtr = {kIdt, 0xfff};
  state.tr = {kTss, 0x67, 0x8b, 0};
  // User segments: an IRET to user code, so an interrupt there, would null others.
  for (const SegIndex index : {kEs, kDs, kFs, kGs}) {
    state.segments[index] = {0, 0xffff'ffff, 0xc0f3, 0x2b};
  }
  for (uint64_t& reg : state.gpr) {
    reg = engine() % 2 != 0 ? kWindow + engine() % (kWindowPages * kPage) : engine();
  }
  state.gpr[kRsp] = kStackTop - 256;
  state.rip = kCode;
  state.rflags = 2 | (engine() & 0x8d5);
  CHECK(soft::restore_cpu(machine_.cpu(), state).has_value());
  Cpu& cpu = machine_.cpu();
  cpu.attention.fetch_and(soft::kAttnCode);
  cpu.star = uint64_t{0x20} << 48 | uint64_t{0x08} << 32;
  cpu.sfmask = 0x700;
}

void Kernel::run(const Program& program, const Image& image, Interrupts interrupts,
                 Outcome& outcome) {
  GuestMemory& memory = machine_.memory();
  CHECK(memory.write(Gpa{0}, first_page_));  // a stray pointer may have reached it
  CHECK(memory.fill(Gpa{kPml4A}, std::byte{0}, kCompared - kPml4A));
  write_tables(program);
  start(program);
  write_handlers();
  CHECK(memory.write(Gpa{kCode}, std::as_bytes(std::span(image.code))));
  CHECK(memory.write(Gpa{kSkips}, std::as_bytes(std::span(image.skips))));
  lapic_->reset();
  CHECK(lapic_->set_apic_base(lapic_->apic_base() | kApicBaseEnable | kApicBaseX2apic));
  CHECK(lapic_->msr_write(0x80f, 0x1ff));

  std::atomic<bool> done{false};
  std::thread interrupter;
  if (interrupts == Interrupts::On) {
    interrupter = std::thread([this, &done] {
      for (unsigned i = 0; !done.load(std::memory_order_relaxed); ++i) {
        lapic_->deliver({.mode = i % 2 == 0 ? DeliveryMode::Fixed : DeliveryMode::Nmi,
                         .vector = kInterruptVector});
        // Rarely enough that the kernel comes on between them.
        std::this_thread::sleep_for(std::chrono::microseconds(30));
      }
    });
  }
  watchdog_.start();
  outcome.result = machine_.run_system();
  watchdog_.stop();
  done = true;
  if (interrupter.joinable()) interrupter.join();

  outcome.state = soft::save_cpu(machine_.cpu());
  outcome.memory.resize(kCompared);
  CHECK(memory.read(Gpa{0}, std::as_writable_bytes(std::span(outcome.memory))));
  std::memcpy(&outcome.interrupts, outcome.memory.data() + kInterrupts, 8);
  std::memset(outcome.memory.data() + kInterrupts, 0, 8);
  std::memset(outcome.memory.data() + kNmiStackTop - 2 * kPage, 0, 2 * kPage);
  if (interrupts != Interrupts::None) hide_flags(outcome);
  // What the local APIC has meanwhile.
  outcome.state.events = {};
}

// The flags that exceptions have pushed and recorded: REP SCAS and CMPS that are interrupted leave
// those of their last comparison, and a page fault later on pushes them.
void Kernel::hide_flags(Outcome& outcome) {
  for (uint64_t i = 0; i < kMaxRecords; ++i) {
    std::memset(outcome.memory.data() + kLog + 8 + i * 32 + 24, 0, 8);
  }
  std::memset(outcome.memory.data() + kFaultStackTop - kPage, 0, kPage);
}

std::string compare(const Outcome& a, const Outcome& b) {
  std::string text;
  const auto line = [&text](std::string_view name, uint64_t x, uint64_t y) {
    if (x != y) text += fmt::format("  {:8} {:016x} {:016x}\n", name, x, y);
  };
  line("result", static_cast<uint64_t>(a.result), static_cast<uint64_t>(b.result));
  for (unsigned i = 0; i < 16; ++i) line(fmt::format("gpr {}", i), a.state.gpr[i], b.state.gpr[i]);
  line("rip", a.state.rip, b.state.rip);
  line("rflags", a.state.rflags, b.state.rflags);
  line("cr2", a.state.cr2, b.state.cr2);
  line("cr3", a.state.cr3, b.state.cr3);
  if (a.state.xsave != b.state.xsave) text += "  fpu\n";
  line("dr6", a.state.dr6, b.state.dr6);
  line("cr8", a.state.cr8, b.state.cr8);
  for (unsigned i = 0; i < 6; ++i) {
    const Segment &x = a.state.segments[i], &y = b.state.segments[i];
    line(fmt::format("seg {}", i), x.selector, y.selector);
    line(fmt::format("base {}", i), x.base, y.base);
    line(fmt::format("access {}", i), x.access, y.access);
  }
  for (size_t i = 0; i < std::min(a.state.msrs.size(), b.state.msrs.size()); ++i) {
    line(fmt::format("msr {:x}", a.state.msrs[i].index), a.state.msrs[i].value,
         b.state.msrs[i].value);
  }
  if (text.empty() && a.state != b.state) text += "  other state\n";
  unsigned lines = 0;
  for (uint64_t at = 0; at < a.memory.size() && lines < 8; at += 8) {
    uint64_t x = 0, y = 0;
    std::memcpy(&x, a.memory.data() + at, 8);
    std::memcpy(&y, b.memory.data() + at, 8);
    if (x == y) continue;
    line(fmt::format("[{:x}]", at), x, y);
    ++lines;
  }
  return text;
}

namespace {

// The words of the records of exceptions, four each.
std::span<const std::array<uint64_t, 4>> records_of(const Outcome& outcome) {
  uint64_t count = 0;
  std::memcpy(&count, outcome.memory.data() + kLog, 8);
  const auto* first =
      reinterpret_cast<const std::array<uint64_t, 4>*>(outcome.memory.data() + kLog + 8);
  return {first, std::min(count, kMaxRecords)};
}

}  // namespace

std::string describe_log(const Outcome& outcome) {
  std::string text;
  for (const auto& [vector, cr2, rip, flags] : records_of(outcome)) {
    text += fmt::format("  vector {} error {:x} cr2 {:x} rip {:x} cs:flags {:x}\n", vector & 0xff,
                        vector >> 32, cr2, rip, flags);
  }
  return text;
}

uint32_t vectors_of(const Outcome& outcome) {
  uint32_t vectors = 0;
  for (const auto& record : records_of(outcome)) vectors |= uint32_t{1} << (record[0] & 31);
  return vectors;
}

}  // namespace trapeze::kernel_diff
