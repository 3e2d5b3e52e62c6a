#include "accel/soft/system/task.h"

#include "accel/soft/mmu/access.h"
#include "accel/soft/mmu/mmu.h"
#include "accel/soft/system/debug.h"
#include "accel/soft/system/descriptor.h"
#include "accel/soft/system/events.h"
#include "accel/soft/system/mode.h"
#include "accel/soft/system/segments.h"
#include "accel/soft/system/stack.h"

namespace trapeze::soft {
namespace {

constexpr uint64_t kCr0Ts = 1U << 3;

// The part of a TSS that a switch loads; 16-bit ones fill less (SDM 3A figures 7-2, 7-10).
struct TaskImage {
  uint32_t cr3 = 0, eip = 0, eflags = 0;
  uint32_t gpr[8] = {};
  uint16_t seg[6] = {};  // ES CS SS DS FS GS
  uint16_t ldt = 0;
  bool trap = false;
};

constexpr uint32_t kMinLimit32 = 0x67, kMinLimit16 = 0x2b;

bool is_tss32(unsigned type) { return (type & 8U) != 0; }
unsigned tr_type(const Cpu& cpu) { return cpu.tr.access & 0xfU; }

bool read_image32(Cpu& cpu, uint64_t base, TaskImage& image) {
  uint32_t words[26];
  if (!read_system(cpu, base, words, 104)) return false;
  image.cr3 = words[7];
  image.eip = words[8];
  image.eflags = words[9];
  for (unsigned i = 0; i < 8; ++i) image.gpr[i] = words[10 + i];
  for (unsigned i = 0; i < 6; ++i) image.seg[i] = static_cast<uint16_t>(words[18 + i]);
  image.ldt = static_cast<uint16_t>(words[24]);
  image.trap = (words[25] & 1U) != 0;
  return true;
}

bool read_image16(Cpu& cpu, uint64_t base, TaskImage& image) {
  uint16_t words[22];
  if (!read_system(cpu, base, words, 44)) return false;
  image.eip = words[7];
  image.eflags = words[8];
  for (unsigned i = 0; i < 8; ++i) image.gpr[i] = 0xffff0000U | words[9 + i];
  for (unsigned i = 0; i < 4; ++i) image.seg[i] = words[17 + i];
  image.ldt = words[21];
  return true;
}

bool save_image(Cpu& cpu, uint64_t rip, uint64_t flags) {
  const uint64_t base = cpu.tr.base;
  if (is_tss32(tr_type(cpu))) {
    uint32_t words[16];  // EIP to GS
    words[0] = static_cast<uint32_t>(rip);
    words[1] = static_cast<uint32_t>(flags);
    for (unsigned i = 0; i < 8; ++i) words[2 + i] = static_cast<uint32_t>(cpu.gpr[i]);
    for (unsigned i = 0; i < 6; ++i) words[10 + i] = cpu.seg[i].selector;
    return write_system(cpu, base + 0x20, words, sizeof(words));
  }
  uint16_t words[14];  // IP to DS
  words[0] = static_cast<uint16_t>(rip);
  words[1] = static_cast<uint16_t>(flags);
  for (unsigned i = 0; i < 8; ++i) words[2 + i] = static_cast<uint16_t>(cpu.gpr[i]);
  for (unsigned i = 0; i < 4; ++i) words[10 + i] = cpu.seg[i].selector;
  return write_system(cpu, base + 0x0e, words, sizeof(words));
}

// The new task's descriptor with its checks (SDM 3A table 7-1).
bool check_new_task(Cpu& cpu, const TaskSwitch& task, Descriptor& tss) {
  const bool is_return = task.source == TaskSource::Iret;
  const uint8_t vector = is_return ? kTS : kGP;
  const uint32_t error = selector_error(task.selector);
  if (is_null_selector(task.selector) || (task.selector & 4U) != 0)
    return fault(cpu, vector, error);
  if (!read_descriptor(cpu, task.selector, vector, tss)) return false;
  const unsigned wanted16 = is_return ? kTypeTss16Busy : kTypeTss16;
  const unsigned wanted32 = is_return ? kTypeTss32Busy : kTypeTss32;
  if (!tss.is_system() || (tss.type() != wanted16 && tss.type() != wanted32))
    return fault(cpu, vector, error);
  if (!tss.is_present()) return fault(cpu, kNP, error);
  if (tss.limit() < (is_tss32(tss.type()) ? kMinLimit32 : kMinLimit16))
    return fault(cpu, kTS, error);
  return true;
}

bool load_task_code(Cpu& cpu, uint16_t selector) {
  if (is_null_selector(selector)) return fault(cpu, kTS, 0);
  Descriptor code;
  if (!read_descriptor(cpu, selector, kTS, code)) return false;
  const unsigned rpl = selector_rpl(selector);
  const bool level_ok = code.is_conforming() ? code.dpl() <= rpl : code.dpl() == rpl;
  if (!code.is_code() || !level_ok) return fault(cpu, kTS, selector_error(selector));
  if (!code.is_present()) return fault(cpu, kNP, selector_error(selector));
  if (!mark_accessed(cpu, selector, code)) return false;
  cpu.seg[kCs] = code.segment(selector);
  return true;
}

// Segments of the new task, in the order of SDM 3A 7.3 (LDTR first, as selectors may lie there).
bool load_task_segments(Cpu& cpu, const TaskImage& image) {
  if (!load_ldtr(cpu, image.ldt, kTS)) return false;
  if ((image.eflags & kVm) != 0) {
    for (unsigned i = 0; i < 6; ++i) cpu.seg[i] = vm86_segment(image.seg[i]);
    cpu.cpl = 3;
    return true;
  }
  // Until a segment has been checked, only its selector is there.
  for (unsigned i = 0; i < 6; ++i) cpu.seg[i] = null_segment(image.seg[i]);
  cpu.cpl = static_cast<uint8_t>(selector_rpl(image.seg[kCs]));
  if (!load_task_code(cpu, image.seg[kCs])) return false;
  Segment segment;
  if (!check_stack_segment(cpu, image.seg[kSs], cpu.cpl, kTS, segment)) return false;
  cpu.seg[kSs] = segment;
  for (unsigned i : {kEs, kDs, kFs, kGs}) {
    if (!check_data_segment(cpu, image.seg[i], cpu.cpl, kTS, segment)) return false;
    cpu.seg[i] = segment;
  }
  return is_within_limit(cpu.seg[kCs], image.eip, 1) || fault(cpu, kGP, 0);
}

bool push_task_error(Cpu& cpu, const TaskSwitch& task, bool is_32) {
  if (!task.has_error_code) return true;
  StackFrame stack = current_stack(cpu);
  if (!push_sized(cpu, stack, is_32 ? 4 : 2, task.error_code)) return false;
  set_stack_pointer(cpu, stack);
  return true;
}

// The registers of the new task. From here on, everything belongs to it.
void load_task_registers(Cpu& cpu, const TaskImage& image, bool is_32) {
  cpu.cr0 |= kCr0Ts;
  if (is_32 && (cpu.cr0 >> 31) != 0) load_cr3(cpu, image.cr3, false);
  cpu.rip = image.eip;
  for (unsigned i = 0; i < 8; ++i) cpu.gpr[i] = image.gpr[i];
  cpu.dr7 &= ~uint64_t{0x55};  // local breakpoint enables
  cpu.arith = to_arithmetic(image.eflags);
  constexpr uint64_t kLoaded = kTf | kIf | kDf | kIopl | kNt | kRf | kVm | kAc | kVif | kVip | kId;
  cpu.rflags_system = (image.eflags & kLoaded) | 2;
  set_rflags(cpu, cpu.rflags_system, kTf | kIf);
}

}  // namespace

bool switch_task(Cpu& cpu, const TaskSwitch& task) {
  Descriptor tss;
  if (!check_new_task(cpu, task, tss)) return false;
  const bool is_32 = is_tss32(tss.type());
  TaskImage image;
  if (!(is_32 ? read_image32(cpu, tss.base32(), image) : read_image16(cpu, tss.base32(), image)))
    return false;

  const uint16_t old_selector = cpu.tr.selector;
  const bool is_nested = task.source == TaskSource::Call || task.source == TaskSource::Interrupt;
  uint64_t saved_flags = rflags(cpu);
  if (task.source == TaskSource::Iret) saved_flags &= ~kNt;
  if (!save_image(cpu, task.return_rip, saved_flags)) return false;
  if (is_nested) {
    if (!write_system(cpu, tss.base32(), &old_selector, sizeof(old_selector))) return false;
    image.eflags |= static_cast<uint32_t>(kNt);
  } else if (!mark_busy(cpu, old_selector, false)) {
    return false;
  }
  if (task.source != TaskSource::Iret && !mark_busy(cpu, task.selector, true)) return false;

  cpu.tr = tss.segment(task.selector);
  cpu.tr.access |= 2;
  load_task_registers(cpu, image, is_32);
  const bool loaded = load_task_segments(cpu, image);
  update_mode(cpu);
  if (!loaded || !push_task_error(cpu, task, is_32)) {
    // In the context of the new task, before its first instruction.
    deliver_fault(cpu);
    return true;
  }
  if (image.trap) {  // a trap, taken before the new task's first instruction (SDM 3B 17.3.1.5)
    raise(cpu, kDB);
    cpu.fault.dr6 = kDr6Bt;
    cpu.attention.fetch_or(kAttnEvent, std::memory_order_relaxed);
  }
  return true;
}

bool read_tss_stack(Cpu& cpu, unsigned cpl, uint16_t& ss, uint32_t& esp) {
  const uint32_t error = selector_error(cpu.tr.selector);
  if (is_tss32(tr_type(cpu))) {
    const uint32_t offset = 4 + 8 * cpl;
    if (offset + 5 > cpu.tr.limit) return fault(cpu, kTS, error);
    return read_system(cpu, cpu.tr.base + offset, esp) &&
           read_system(cpu, cpu.tr.base + offset + 4, ss);
  }
  const uint32_t offset = 2 + 4 * cpl;
  if (offset + 3 > cpu.tr.limit) return fault(cpu, kTS, error);
  uint16_t sp = 0;
  if (!read_system(cpu, cpu.tr.base + offset, sp) ||
      !read_system(cpu, cpu.tr.base + offset + 2, ss))
    return false;
  esp = sp;
  return true;
}

bool read_tss_stack64(Cpu& cpu, unsigned cpl, unsigned ist, uint64_t& rsp) {
  const uint32_t offset = ist != 0 ? 36 + 8 * (ist - 1) : 4 + 8 * cpl;
  if (offset + 7 > cpu.tr.limit) return fault(cpu, kTS, selector_error(cpu.tr.selector));
  if (!read_system(cpu, cpu.tr.base + offset, rsp)) return false;
  return is_canonical(cpu, rsp) || fault(cpu, kSS, 0);
}

}  // namespace trapeze::soft
