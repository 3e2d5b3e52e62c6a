// Translator: x86-64 to x86-64. One for each vCPU, used only by its thread.
//
// docs/software-engine.md tells how the code it emits works. It shares the CPU state, the decoder
// and the MMU with the interpreter, which runs what is cold and what is left aside here.
#pragma once

#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "accel/soft/cache/block_cache.h"
#include "accel/soft/exec/code_buffer.h"
#include "accel/soft/translator/assembler.h"
#include "accel/soft/translator/return_stack.h"
#include "accel/soft/translator/stubs.h"
#include "accel/soft/translator/tables.h"
#include "accel/soft/translator/translation.h"

namespace trapeze::soft {

class BlockTranslator;

class Translator final : public CodeListener {
 public:
  // True when this host has what translated code needs: BMI2 with a fast PEXT, and GS base
  // instructions for user programs. `reason`, where given, says what is missing.
  static bool is_supported(std::string* reason = nullptr);

  static Result<std::unique_ptr<Translator>> create(Cpu& cpu, BlockCache& blocks,
                                                    const CpuModel& model);
  ~Translator() override;

  // On the thread that runs the vCPU, before and after running guest code: sets the GS base.
  void enter_thread();
  void leave_thread();

  // True when the block has been run often enough to be worth it (or has been translated).
  bool is_hot(Block& block) const {
    if (block.heat >= threshold_) return true;
    ++block.heat;
    return false;
  }

  // After how many runs a block is hot.
  void set_threshold(uint16_t runs) { threshold_ = runs; }

  // The code for cpu.rip, where a jump has led before; nullptr: look the block up.
  const void* find(const Cpu& cpu) const {
    const JumpTable& jumps = cpu.translator.tables->jumps;
    const unsigned i = JumpTable::index(cpu.rip);
    const bool usable = cpu.translator.usable != 0 && cpu.translator.flush == 0;
    return usable && jumps.minus_linear[i] + cpu.rip == 0 ? jumps.code[i] : nullptr;
  }
  // The code for `block`, which is at cpu.rip; translates it if need be. nullptr: interpret it.
  const void* enter_point(Cpu& cpu, Block& block);
  // Where Cpu::instructions has got so far, run() comes back at the next branch that is interpreted.
  void set_instruction_limit(uint64_t limit) { instruction_limit_ = limit; }
  // Runs translated code until the run loop must look: at cpu.attention, at a block that is not
  // translated, or (returns true) at one that must be interpreted now.
  bool run(Cpu& cpu, const void* code);

  // Whether jumps are kept off the ends of 32-byte lines; as the host's CPU wants it by default.
  void pad_jumps(bool on) { code_.pad_jumps(on); }

  // CodeListener
  void page_dropped(uint64_t page) override;
  void everything_dropped() override;

  const TranslatorStats& stats() const { return stats_; }

  // For tests and their reports: the code of each translation that is in use, from behind its
  // entry's check, without what lies apart.
  struct Emitted {
    uint64_t linear;
    std::span<const std::byte> code;
  };
  std::vector<Emitted> emitted() const;

 private:
  friend class BlockTranslator;
  static constexpr uint16_t kHot = 16;
  static constexpr uint16_t kExtendHeat = 4;  // code is taken in that ran a fourth as often
  // What runs seldom goes to the buffer's second half: the first is denser for it.
  static constexpr size_t kBufferBytes = size_t{32} << 20;
  static constexpr uint32_t kColdStart = kBufferBytes / 2;
  static constexpr size_t kRoomForBlock = size_t{32} << 10;

  Translator(Cpu& cpu, BlockCache& blocks, const CpuModel& model, CodeBuffer buffer,
             std::unique_ptr<TablesMemory> tables, ReturnStack returns);

  static const void* slow_entry(void* cpu, uint64_t site);
  const void* slow(Cpu& cpu, const Site& site);
  const void* memory_miss(Cpu& cpu, const Site& site);
  const void* leave_kept(Cpu& cpu, const Site& site, bool whole);
  const void* interpret(Cpu& cpu, const Site& site);
  const void* go_on(Cpu& cpu);
  const void* resume(Cpu& cpu, const Site& site, uint32_t offset);

  const void* address(uint32_t offset) const { return buffer_.exec_base() + offset; }
  uint32_t find_translation(const Cpu& cpu, uint64_t gpa) const;
  uint32_t translate(Cpu& cpu, const Block& block);
  void extend(BlockTranslator& emitter, const Block& block, std::span<uint8_t> bytes);
  bool is_valid_crossing(Cpu& cpu, const Translation& translation);
  const void* publish(Cpu& cpu, uint32_t index);
  void link(Exit& exit, uint32_t number, uint32_t target);
  void unlink_incoming(Translation& translation);
  void kill(Translation& translation);
  void flush(Cpu& cpu);

  Cpu& cpu_;
  BlockCache& blocks_;
  const Decoder decoder_;
  const CpuModel& model_;
  CodeBuffer buffer_;
  const std::unique_ptr<TablesMemory> tables_;
  ReturnStack returns_;
  Assembler code_;
  Stubs stubs_;
  uint32_t code_start_ = 0;  // behind the stubs
  uint32_t cold_here_ = kColdStart;
  uint16_t threshold_ = kHot;
  bool flush_wanted_ = false;
  bool interpret_block_ = false;
  uint64_t instruction_limit_ = ~uint64_t{0};
  uint64_t old_gs_ = 0;
  std::vector<Translation> translations_;
  std::vector<Exit> exits_;
  std::vector<Site> sites_;
  std::unordered_map<uint64_t, uint32_t> by_address_;            // gpa to a chain
  std::unordered_map<uint32_t, uint32_t> by_entry_;              // code offset
  std::unordered_map<uint64_t, std::vector<uint32_t>> by_page_;  // page number
  std::unordered_set<uint64_t> without_keeps_;                   // gpa: kept pages seldom do there
  TranslatorStats stats_;
};

}  // namespace trapeze::soft
