// BlockCache: the decoded blocks of one vCPU.
//
// A block is a run of instructions on one page (its last may cross into the next), found by guest
// physical address and code size; the fast table maps (RIP, code_tag) to it without translation.
// Only the vCPU's thread uses it. Memory is bounded: when full, everything is dropped.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "accel/soft/core/cpu.h"
#include "accel/soft/core/env.h"
#include "accel/soft/decode/decoder.h"
#include "accel/soft/decode/insn.h"
#include "accel/soft/mmu/mmu.h"
#include "base/mapping.h"

namespace trapeze::soft {

struct Block;

// A successor that a block has had: the block at `linear` while the CPU's code tag is `tag`.
struct BlockLink {
  uint64_t linear = 0;
  uint64_t tag = ~uint64_t{0};
  Block* block = nullptr;
};

struct Block {
  // --- hot: entered and left by the run loop
  Insn* insns = nullptr;  // `count` instructions, then a terminator
  uint32_t count = 0;
  bool stale = false;
  bool crosses = false;  // one instruction, on two pages
  CodeSize code_size = CodeSize::Code64;
  uint8_t next_link = 0;  // which link is replaced next
  BlockLink links[2];     // branches have two successors
  // --- cold
  uint64_t gpa = 0;             // of the first byte
  Block* next_on_page[2] = {};  // chains of by_page_, the second for the page it crosses into
  uint16_t size_bytes = 0;
  bool checked = false;  // has an entry in BlockCache::checks_
  bool in_ram = false;
  uint16_t heat = 0;  // how often it was run, up to a limit; for the translator
};
static_assert(sizeof(Block) <= 104);

// What must be checked at each use of a few blocks: those that cross pages, and those whose bytes
// somebody might still change unseen.
struct BlockCheck {
  uint64_t next_page_gpa = 0;    // crossing blocks: start of the page they end on
  uint64_t unsettled_epoch = 0;  // not 0: compare the bytes until this has settled
  uint64_t bytes_hash = 0;       // for that comparison
};

struct CacheStats {
  uint64_t blocks_decoded = 0;
  uint64_t slow_lookups = 0;
  uint64_t pages_dropped = 0;
  uint64_t full_drops = 0;
};

// Told when decoded code goes, so that what was made of it goes too.
class CodeListener {
 public:
  virtual ~CodeListener() = default;
  virtual void page_dropped(uint64_t page) = 0;  // page number
  virtual void everything_dropped() = 0;
};

class BlockCache final : public CodeOwner {
 public:
  static constexpr unsigned kMaxBlockInsns = 64;

  static Result<std::unique_ptr<BlockCache>> create(const CpuModel& model);

  // The block at cpu.rip; nullptr with a fault pending (fetch fault, #UD comes from running it).
  // `previous` is the block that led here, or null: it remembers its successors.
  // HOT: links and the fast table are looked up inline.
  Block* find(Cpu& cpu, Block* previous) {
    const uint64_t tag = cpu.code_tag;
    const uint64_t linear = code_linear(cpu);
    if (previous != nullptr && is_code64(cpu)) [[likely]] {
      for (const BlockLink& link : previous->links) {
        if (link.linear == linear && link.tag == tag && !link.block->stale) return link.block;
      }
    }
    const FastEntry& entry = fast_[fast_index(linear)];
    const bool hit = entry.linear == linear && entry.tag == tag && !entry.block->stale;
    if (hit && (is_code64(cpu) || cpu.rip <= cpu.seg[kCs].limit)) [[likely]] {
      // The fast table holds nothing that must be checked at each use, so neither do links.
      if (previous != nullptr) {
        previous->links[previous->next_link] = {linear, tag, entry.block};
        previous->next_link ^= 1;
      }
      return entry.block;
    }
    return find_slowly(cpu, linear, tag);
  }
  // A block of exactly one instruction at cpu.rip, for single steps; never cached.
  Block* find_single(Cpu& cpu);

  // CodeOwner: also called in the middle of a block by a store that hit code.
  void drop_stale_code(Cpu& cpu) override;
  void drop_everything();
  // At most one; must outlive this object or be cleared with nullptr.
  void set_listener(CodeListener* listener) { listener_ = listener; }

  // For a block with `checked` set.
  const BlockCheck& check(const Block& block) const { return checks_.at(&block); }
  // How often the block at `gpa` was run, as far as that is counted; 0 when there is none.
  unsigned heat_at(uint64_t gpa, CodeSize size) const;
  // Guest physical address of the code byte at `linear`; false with a fault pending.
  bool translate(Cpu& cpu, uint64_t linear, uint64_t tag, uint64_t& gpa);

  const CacheStats& stats() const { return stats_; }

 private:
  using FastEntry = BlockLink;
  struct FetchEntry {
    uint64_t page = ~uint64_t{0};
    uint64_t tag = ~uint64_t{0};
    uint64_t gpa = 0;
  };
  static constexpr unsigned kFastEntries = 8192;
  static constexpr unsigned kFetchEntries = 64;
  // 6.5 and 3.8 MiB: the whole process must stay below 24 MiB beyond the guest's own pages. Booting
  // a distribution kernel to a shell decodes about four times that; what is in use fits.
  static constexpr size_t kInsnCapacity = 208 * 1024;
  static constexpr size_t kBlockCapacity = 40 * 1024;

  explicit BlockCache(const CpuModel& model) : decoder_(model), model_(model) {}

  static unsigned fast_index(uint64_t rip) {
    return static_cast<unsigned>(rip ^ (rip >> 13)) % kFastEntries;
  }
  static uint64_t code_linear(const Cpu& cpu) {
    const uint64_t linear = cpu.rip + cpu.linear_base[kCs];
    return is_code64(cpu) ? linear : linear & 0xffff'ffffU;
  }
  Block* find_slowly(Cpu& cpu, uint64_t linear, uint64_t tag);
  bool fits_memory() const;
  Block* decode_block(Cpu& cpu, uint64_t linear, uint64_t gpa, uint64_t tag, unsigned max_insns);
  void mark_code(Cpu& cpu, uint64_t gpa, unsigned size);
  Block* new_block(const Cpu& cpu, uint64_t gpa);
  bool decode_crossing(Cpu& cpu, Block& block, std::span<const uint8_t> here, uint64_t linear,
                       uint64_t tag, uint64_t& next_page_gpa);
  bool is_current(Cpu& cpu, const Block& block, uint64_t linear, uint64_t tag);
  uint64_t hash_bytes(const Cpu& cpu, const Block& block, const BlockCheck& check) const;
  void set_check(const Cpu& cpu, Block& block, uint64_t next_page_gpa);
  void remember(Block& block, uint64_t page);
  static void make_stale(Block& block);
  void drop_page(uint64_t page);
  void clear_fast();

  Decoder decoder_;
  const CpuModel& model_;
  std::vector<FastEntry> fast_;
  std::vector<FetchEntry> fetch_;
  std::unordered_map<uint64_t, Block*> by_address_;  // gpa << 2 | code size
  std::unordered_map<const Block*, BlockCheck> checks_;
  std::unordered_map<uint64_t, Block*> by_page_;  // page number to the first block on it
  Mapping insn_memory_;
  Mapping block_memory_;
  size_t insns_used_ = 0;
  size_t blocks_used_ = 0;
  bool drop_everything_wanted_ = false;
  CodeListener* listener_ = nullptr;
  CacheStats stats_;
};

}  // namespace trapeze::soft
