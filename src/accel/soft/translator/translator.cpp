#include "accel/soft/translator/translator.h"

#include <cpuid.h>
#include <sys/auxv.h>

#include <algorithm>

#include "accel/soft/mmu/fast_tlb.h"
#include "accel/soft/translator/block_translator.h"
#include "base/check.h"

namespace trapeze::soft {

namespace {

// The CPUs with Intel's erratum about jumps at the end of a line; see Assembler::keep_in_line().
bool host_wants_padded_jumps() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  __get_cpuid(0, &eax, &ebx, &ecx, &edx);
  if (ebx != 0x756e6547) return false;  // "Genu"
  __get_cpuid(1, &eax, &ebx, &ecx, &edx);
  if (((eax >> 8) & 15) != 6) return false;
  constexpr unsigned kModels[] = {0x4e, 0x5e, 0x55, 0x8e, 0x9e, 0xa5, 0xa6, 0xae};
  const unsigned model = ((eax >> 4) & 15) | ((eax >> 12) & 0xf0);
  return std::find(std::begin(kModels), std::end(kModels), model) != std::end(kModels);
}

}  // namespace

Result<std::unique_ptr<Translator>> Translator::create(Cpu& cpu, BlockCache& blocks,
                                                       const CpuModel& model) {
  auto buffer = TRY(CodeBuffer::create(kBufferBytes));
  auto tables = TRY(TablesMemory::create(cpu));
  auto returns = TRY(ReturnStack::create());
  return std::unique_ptr<Translator>(
      new Translator(cpu, blocks, model, std::move(buffer), std::move(tables), std::move(returns)));
}

Translator::Translator(Cpu& cpu, BlockCache& blocks, const CpuModel& model, CodeBuffer buffer,
                       std::unique_ptr<TablesMemory> tables, ReturnStack returns)
    : cpu_(cpu),
      blocks_(blocks),
      decoder_(model),
      model_(model),
      buffer_(std::move(buffer)),
      tables_(std::move(tables)),
      returns_(std::move(returns)),
      code_({buffer_.write_base(), buffer_.size()}) {
  stubs_ = emit_stubs(code_, buffer_.exec_base(), *cpu.translator.tables, model.has(Feature::Avx));
  code_.pad_jumps(host_wants_padded_jumps());
  CHECK(Xbyak::GetError() == Xbyak::ERR_NONE);
  code_start_ = code_.here();
  returns_.reset(cpu.translator, address(stubs_.bottom));
  cpu.translator.cpu = &cpu;
  cpu.translator.translator = this;
  cpu.translator.slow = &slow_entry;
  blocks.set_listener(this);
}

Translator::~Translator() { blocks_.set_listener(nullptr); }

// --- the GS base

void Translator::enter_thread() {
  asm volatile("rdgsbase %0" : "=r"(old_gs_));
  asm volatile("wrgsbase %0" : : "r"(&cpu_) : "memory");
}
void Translator::leave_thread() { asm volatile("wrgsbase %0" : : "r"(old_gs_) : "memory"); }

bool Translator::is_supported(std::string* reason) {
  const auto missing = [reason](const char* what) {
    if (reason != nullptr) *reason = what;
    return false;
  };
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (ebx & (1U << 8)) == 0) {
    return missing("the CPU has no BMI2");
  }
  constexpr unsigned long kFsGsBase = 1U << 1;  // HWCAP2_FSGSBASE
  if ((getauxval(AT_HWCAP2) & kFsGsBase) == 0) {
    return missing("programs may not set the GS base (FSGSBASE)");
  }
  // AMD before Zen 3 has PEXT in microcode, some hundred cycles each.
  __get_cpuid(0, &eax, &ebx, &ecx, &edx);
  const bool amd = ebx == 0x68747541;  // "Auth"
  __get_cpuid(1, &eax, &ebx, &ecx, &edx);
  const unsigned family = ((eax >> 8) & 15) + ((eax >> 20) & 255);
  if (amd && family < 0x19) return missing("PEXT is slow on this CPU");
  if ((ecx & (1U << 27)) == 0) return missing("the kernel has XSAVE switched off");  // OSXSAVE
  return true;
}

// --- finding and making translations

uint32_t Translator::find_translation(const Cpu& cpu, uint64_t gpa) const {
  const auto found = by_address_.find(gpa);
  if (found == by_address_.end()) return kNone;
  for (uint32_t i = found->second; i != kNone; i = translations_[i].hash_next) {
    const Translation& translation = translations_[i];
    if (!translation.dead && translation.linear == cpu.rip &&
        translation.code_size == cpu.code_size && translation.table == current_table(cpu)) {
      return i;
    }
  }
  return kNone;
}

bool Translator::is_valid_crossing(Cpu& cpu, const Translation& translation) {
  uint64_t next = 0;
  const bool ok =
      blocks_.translate(cpu, align_up(translation.linear + 1, kPageSize), cpu.code_tag, next);
  cpu.fault = {};
  return ok && next == translation.next_gpa;
}

const void* Translator::enter_point(Cpu& cpu, Block& block) {
  if (cpu.translator.usable == 0 || !block.in_ram) return nullptr;
  if (flush_wanted_ || cpu.translator.flush != 0) flush(cpu);
  uint32_t index = find_translation(cpu, block.gpa);
  if (index != kNone && translations_[index].crosses &&
      !is_valid_crossing(cpu, translations_[index])) {
    kill(translations_[index]);
    index = kNone;
  }
  if (index == kNone) {
    // Bytes that may still change unseen are for the interpreter, which compares them.
    if (block.checked && blocks_.check(block).unsettled_epoch != 0) return nullptr;
    index = translate(cpu, block);
  }
  return index != kNone ? publish(cpu, index) : nullptr;
}

// Makes a translation known for cpu.rip under the tag of the moment.
const void* Translator::publish(Cpu& cpu, uint32_t index) {
  const Translation& translation = translations_[index];
  ++stats_.lookups;
  const uint32_t wanted = ~static_cast<uint32_t>(cpu.translator.tag) + 1;
  // A store to code costs the host a machine clear.
  if (code_.get32(translation.tag_at) != wanted) code_.put32(translation.tag_at, wanted);
  const unsigned slot = JumpTable::index(cpu.rip);
  JumpTable& jumps = cpu.translator.tables->jumps;
  jumps.minus_linear[slot] = ~cpu.rip + 1;
  jumps.code[slot] = address(translation.entry);
  return address(translation.entry);
}

// Takes in what follows conditional jumps that are often not taken. All of it is on the page, and
// within what was marked as code when the block was decoded.
void Translator::extend(BlockTranslator& emitter, const Block& block, std::span<uint8_t> bytes) {
  if (block.crosses) return;
  const uint64_t room = std::min<uint64_t>(bytes.size(), kPageSize - block.gpa % kPageSize);
  bool is_read = false;
  for (uint16_t at = emitter.may_extend(); at != 0 && at < room; at = emitter.may_extend()) {
    if (blocks_.heat_at(block.gpa + at, block.code_size) < threshold_ / kExtendHeat) return;
    const std::span rest = bytes.subspan(block.size_bytes, room - block.size_bytes);
    if (!is_read &&
        !cpu_.env->memory->read(Gpa{block.gpa + block.size_bytes}, std::as_writable_bytes(rest))) {
      return;
    }
    is_read = true;
    if (!emitter.extend(bytes.first(room))) return;
  }
}

uint32_t Translator::translate(Cpu& cpu, const Block& block) {
  const bool is_full =
      code_.here() + kRoomForBlock > kColdStart || cold_here_ + kRoomForBlock > buffer_.size();
  if (is_full) flush(cpu);
  uint8_t bytes[BlockCache::kMaxBlockInsns * 15];
  const uint64_t on_first = std::min<uint64_t>(block.size_bytes, kPageSize - block.gpa % kPageSize);
  const GuestMemory& memory = *cpu.env->memory;
  if (!memory.read(Gpa{block.gpa}, std::as_writable_bytes(std::span(bytes, on_first))))
    return kNone;
  Translation translation;
  if (block.crosses) {
    translation.next_gpa = blocks_.check(block).next_page_gpa;
    const std::span rest(bytes + on_first, block.size_bytes - on_first);
    if (!memory.read(Gpa{translation.next_gpa}, std::as_writable_bytes(rest))) return kNone;
  }
  translation.gpa = block.gpa;
  translation.linear = cpu.rip;
  translation.table = current_table(cpu);
  translation.crosses = block.crosses;
  translation.code_size = block.code_size;

  const uint32_t start = code_.here();
  const uint32_t cold_start = cold_here_;
  const auto index = static_cast<uint32_t>(translations_.size());
  BlockTranslator emitter(*this, translation, index);
  if (!emitter.decode(block, std::span(bytes, block.size_bytes))) return kNone;
  extend(emitter, block, bytes);
  emitter.emit();
  CHECK(Xbyak::GetError() == Xbyak::ERR_NONE);

  uint32_t& head = by_address_.try_emplace(block.gpa, kNone).first->second;
  translation.hash_next = head;
  head = index;
  translations_.push_back(translation);
  by_entry_[translation.entry] = index;
  by_page_[block.gpa / kPageSize].push_back(index);
  if (block.crosses) by_page_[translation.next_gpa / kPageSize].push_back(index);
  ++stats_.blocks;
  stats_.code_bytes += code_.here() - start + cold_here_ - cold_start;
  return index;
}

// --- links

void Translator::link(Exit& exit, uint32_t number, uint32_t target) {
  Translation& to = translations_[target];
  const Translation& from = translations_[exit.from];
  if (exit.linked != kNone || from.dead) return;
  // Where the tag that was good for `from` is good for `to`. The linear page alone does not tell:
  // the jump table may hold code of another address space, or for another table.
  const bool same_page = !exit.after_call && (from.linear ^ to.linear) / kPageSize == 0 &&
                         (from.gpa ^ to.gpa) / kPageSize == 0 && from.table == to.table &&
                         from.code_size == to.code_size && !from.crosses && !to.crosses;
  const bool is_live = (from.uses_sse || !to.uses_sse) && (from.uses_avx || !to.uses_avx) &&
                       (from.uses_x87 || !to.uses_x87);
  const uint32_t body = is_live ? to.live_body : to.body;
  code_.set_jump(exit.jump, same_page ? body : to.entry);
  exit.linked = target;
  exit.next_incoming = to.incoming;
  to.incoming = number;
  ++stats_.links;
}

void Translator::unlink_incoming(Translation& translation) {
  for (uint32_t i = translation.incoming; i != kNone;) {
    Exit& exit = exits_[i];
    i = exit.next_incoming;
    code_.set_jump(exit.jump, exit.unlinked);
    exit.linked = kNone;
    exit.next_incoming = kNone;
  }
  translation.incoming = kNone;
}

void Translator::kill(Translation& translation) {
  if (translation.dead) return;
  translation.dead = true;
  ++stats_.dropped;
  unlink_incoming(translation);
  // Its own entry never matches again: whoever still jumps there looks it up.
  code_.put32(translation.tag_at, 1);
  JumpTable& jumps = cpu_.translator.tables->jumps;
  const unsigned slot = JumpTable::index(translation.linear);
  if (jumps.code[slot] == address(translation.entry)) {
    jumps.minus_linear[slot] = JumpTable::no_address(slot);
  }
}

std::vector<Translator::Emitted> Translator::emitted() const {
  std::vector<Emitted> all;
  for (const Translation& translation : translations_) {
    if (translation.dead) continue;
    const std::span code(buffer_.exec_base() + translation.body,
                         translation.end - translation.body);
    all.push_back({translation.linear, code});
  }
  return all;
}

void Translator::page_dropped(uint64_t page) {
  const auto found = by_page_.find(page);
  if (found == by_page_.end()) return;
  for (const uint32_t index : found->second) kill(translations_[index]);
  by_page_.erase(found);
}

void Translator::everything_dropped() {
  for (Translation& translation : translations_) kill(translation);
  by_page_.clear();
  flush_wanted_ = true;
}

void Translator::flush(Cpu& cpu) {
  ++stats_.flushes;
  flush_wanted_ = false;
  cpu.translator.flush = 0;
  translations_.clear();
  exits_.clear();
  sites_.clear();
  by_address_.clear();
  by_entry_.clear();
  by_page_.clear();
  without_keeps_.clear();
  clear_jumps(cpu.translator.tables->jumps);
  returns_.reset(cpu.translator, address(stubs_.bottom));
  code_.restart(code_start_);
  cold_here_ = kColdStart;
}

}  // namespace trapeze::soft
