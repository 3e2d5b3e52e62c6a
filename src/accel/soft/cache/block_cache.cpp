#include "accel/soft/cache/block_cache.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "accel/soft/cache/bind.h"
#include "accel/soft/exec/vex.h"
#include "accel/soft/mmu/code_map.h"
#include "base/units.h"

namespace trapeze::soft {
namespace {

constexpr size_t kMaxInsnBytes = 15;

uint64_t address_key(uint64_t gpa, CodeSize code_size) {
  return gpa << 2 | static_cast<uint64_t>(code_size);
}

uint64_t mix(uint64_t hash, std::span<const uint8_t> bytes) {
  for (const uint8_t byte : bytes) hash = (hash ^ byte) * 0x100'0000'01b3U;
  return hash;
}

Insn pseudo_insn(Handler run, uint16_t start) {
  Insn insn;
  insn.run = run;
  insn.start = start;
  return insn;
}

}  // namespace

Result<std::unique_ptr<BlockCache>> BlockCache::create(const CpuModel& model) {
  if (model.has(Feature::Avx) || model.has(Feature::Bmi1)) TRY(exec::prepare_vex());
  std::unique_ptr<BlockCache> cache(new BlockCache(model));
  cache->insn_memory_ =
      TRY(Mapping::anonymous(kInsnCapacity * sizeof(Insn), "decoded instructions"));
  cache->block_memory_ = TRY(Mapping::anonymous(kBlockCapacity * sizeof(Block), "decoded blocks"));
  cache->fast_.resize(kFastEntries);
  cache->fetch_.resize(kFetchEntries);
  return cache;
}

bool BlockCache::translate(Cpu& cpu, uint64_t linear, uint64_t tag, uint64_t& gpa) {
  const uint64_t page = align_down(linear, kPageSize);
  FetchEntry& entry = fetch_[(linear / kPageSize) % kFetchEntries];
  if (entry.page != page || entry.tag != tag) {
    uint64_t found = 0;
    if (!translate_fetch(cpu, linear, found)) return false;
    entry = {page, cpu.code_tag, align_down(found, kPageSize)};
  }
  gpa = entry.gpa | linear % kPageSize;
  return true;
}

Block* BlockCache::find_slowly(Cpu& cpu, uint64_t linear, uint64_t tag) {
  ++stats_.slow_lookups;
  if (!is_code64(cpu) && cpu.rip > cpu.seg[kCs].limit) {
    raise(cpu, kGP, 0);
    return nullptr;
  }
  if (drop_everything_wanted_ || !fits_memory()) drop_everything();
  uint64_t gpa = 0;
  if (!translate(cpu, linear, tag, gpa)) return nullptr;
  const auto found = by_address_.find(address_key(gpa, cpu.code_size));
  Block* block = found != by_address_.end() ? found->second : nullptr;
  if (block != nullptr && !is_current(cpu, *block, linear, tag)) {
    if (cpu.fault.pending) return nullptr;
    make_stale(*block);
    block = nullptr;
  }
  if (block == nullptr) block = decode_block(cpu, linear, gpa, tag, kMaxBlockInsns);
  if (block == nullptr) return nullptr;
  // Crossing blocks depend on a second translation, unsettled ones on bytes that may still change
  // unseen: both are checked at every use.
  if (!block->checked) {
    fast_[fast_index(linear)] = {linear, tag, block};
  }
  return block;
}

unsigned BlockCache::heat_at(uint64_t gpa, CodeSize size) const {
  const auto found = by_address_.find(address_key(gpa, size));
  return found != by_address_.end() && !found->second->stale ? found->second->heat : 0;
}

bool BlockCache::is_current(Cpu& cpu, const Block& block, uint64_t linear, uint64_t tag) {
  if (block.stale) return false;
  if (!block.checked) return true;
  const BlockCheck& check = checks_.at(&block);
  if (block.crosses) {
    uint64_t second = 0;
    if (!translate(cpu, align_up(linear + 1, kPageSize), tag, second)) return false;
    if (second != check.next_page_gpa) return false;
  }
  if (check.unsettled_epoch == 0) return true;
  if (hash_bytes(cpu, block, check) != check.bytes_hash) return false;
  // Once everybody has dropped the write tags, what is decoded from then on is safe; this block was
  // decoded before, so it makes room for a new one.
  return !cpu.env->code_map->is_settled(check.unsettled_epoch);
}

uint64_t BlockCache::hash_bytes(const Cpu& cpu, const Block& block, const BlockCheck& check) const {
  const GuestMemory& memory = *cpu.env->memory;
  const uint64_t on_first = std::min<uint64_t>(block.size_bytes, kPageSize - block.gpa % kPageSize);
  uint8_t bytes[kMaxBlockInsns * kMaxInsnBytes];
  if (!memory.read(Gpa{block.gpa}, std::as_writable_bytes(std::span(bytes, on_first)))) return 0;
  const uint64_t on_second = block.size_bytes - on_first;
  if (on_second > 0 && !memory.read(Gpa{check.next_page_gpa}, std::as_writable_bytes(std::span(
                                                                  bytes + on_first, on_second)))) {
    return 0;
  }
  return mix(0xcbf2'9ce4'8422'2325U, std::span(bytes, block.size_bytes));
}

void BlockCache::set_check(const Cpu& cpu, Block& block, uint64_t next_page_gpa) {
  const CodeMap& map = *cpu.env->code_map;
  BlockCheck check;
  check.next_page_gpa = next_page_gpa;
  check.unsettled_epoch = map.unsettled_epoch(block.gpa / kPageSize);
  if (block.crosses && cpu.env->memory->host(Gpa{next_page_gpa}, 1) != nullptr) {
    check.unsettled_epoch =
        std::max(check.unsettled_epoch, map.unsettled_epoch(next_page_gpa / kPageSize));
  }
  if (!block.crosses && check.unsettled_epoch == 0) return;
  if (check.unsettled_epoch != 0) check.bytes_hash = hash_bytes(cpu, block, check);
  checks_[&block] = check;
  block.checked = true;
}

bool BlockCache::fits_memory() const {
  return insns_used_ + kMaxBlockInsns + 1 <= kInsnCapacity && blocks_used_ + 1 <= kBlockCapacity;
}

Block* BlockCache::new_block(const Cpu& cpu, uint64_t gpa) {
  auto* storage = reinterpret_cast<Block*>(block_memory_.data()) + blocks_used_++;
  Block* block = new (storage) Block;
  block->insns = reinterpret_cast<Insn*>(insn_memory_.data()) + insns_used_;
  block->gpa = gpa;
  block->code_size = cpu.code_size;
  return block;
}

void BlockCache::remember(Block& block, uint64_t page) {
  const unsigned chain = page == block.gpa / kPageSize ? 0 : 1;
  Block*& head = by_page_[page];
  block.next_on_page[chain] = head;
  head = &block;
}

// Marks bytes as decoded and lets this vCPU's own write tags for them go at once.
void BlockCache::mark_code(Cpu& cpu, uint64_t gpa, unsigned size) {
  cpu.env->code_map->mark(gpa, size);
  if ((cpu.attention.load(std::memory_order_relaxed) & kAttnCode) != 0) drop_stale_code(cpu);
}

// Decodes from `linear` to the first instruction that ends a block, the end of the page, or
// `max_insns`. Code in MMIO or nowhere reads as 0xff bytes, which is #UD.
Block* BlockCache::decode_block(Cpu& cpu, uint64_t linear, uint64_t gpa, uint64_t tag,
                                unsigned max_insns) {
  ++stats_.blocks_decoded;
  Block* block = new_block(cpu, gpa);
  uint64_t room = kPageSize - gpa % kPageSize;
  if (!is_code64(cpu)) room = std::min(room, uint64_t{cpu.seg[kCs].limit} - cpu.rip + 1);
  room = std::min<uint64_t>(room, max_insns * kMaxInsnBytes);

  uint8_t bytes[kMaxBlockInsns * kMaxInsnBytes];
  const bool in_ram = cpu.env->memory->host(Gpa{gpa}, room) != nullptr;
  if (in_ram) {
    mark_code(cpu, gpa, static_cast<unsigned>(room));
    cpu.env->memory->read(Gpa{gpa}, std::as_writable_bytes(std::span(bytes, room)));
  } else {
    std::memset(bytes, 0xff, room);
  }

  uint64_t next_page_gpa = 0;
  uint16_t at = 0;
  bool ended = false;
  while (!ended && block->count < max_insns && at < room) {
    const std::span<const uint8_t> rest(bytes + at, room - at);
    Decoded decoded;
    const DecodeStatus status = decoder_.decode(cpu.code_size, rest, at, decoded);
    if (status == DecodeStatus::NeedMore) {
      if (block->count > 0) break;  // it gets a block of its own
      if (!decode_crossing(cpu, *block, rest, linear, tag, next_page_gpa)) return nullptr;
      ended = true;
      break;
    }
    Insn& insn = block->insns[block->count++];
    if (status == DecodeStatus::Ok) {
      bind(decoded, model_);
      insn = decoded.insn;
      ended = ends_block(decoded);
      at = static_cast<uint16_t>(at + insn.length);
    } else {
      insn =
          pseudo_insn(status == DecodeStatus::Invalid ? invalid_handler() : too_long_handler(), at);
      at = static_cast<uint16_t>(at + 1);
      ended = true;
    }
  }
  if (!block->crosses) block->size_bytes = at;
  block->insns[block->count] = pseudo_insn(block_end_handler(), block->size_bytes);
  insns_used_ += block->count + 1;
  block->in_ram = in_ram;
  if (in_ram) {
    set_check(cpu, *block, next_page_gpa);
    remember(*block, gpa / kPageSize);
    if (block->crosses && next_page_gpa / kPageSize != gpa / kPageSize) {
      remember(*block, next_page_gpa / kPageSize);
    }
    if (max_insns == kMaxBlockInsns) by_address_[address_key(gpa, cpu.code_size)] = block;
  }
  return block;
}

// One instruction whose bytes end on the next page. False with a fault pending.
bool BlockCache::decode_crossing(Cpu& cpu, Block& block, std::span<const uint8_t> here,
                                 uint64_t linear, uint64_t tag, uint64_t& next_page_gpa) {
  uint8_t bytes[kMaxInsnBytes];
  std::memset(bytes, 0xff, sizeof(bytes));
  std::memcpy(bytes, here.data(), std::min(here.size(), sizeof(bytes)));
  const uint64_t next_linear = align_up(linear + 1, kPageSize);
  const bool at_limit = !is_code64(cpu) && cpu.rip + (here.size() - 1) >= cpu.seg[kCs].limit;
  if (at_limit) {
    raise(cpu, kGP, 0);
    return false;
  }
  uint64_t second = 0;
  if (!translate(cpu, is_long_mode(cpu) ? next_linear : next_linear & 0xffff'ffffU, tag, second)) {
    return false;
  }
  const size_t missing = kMaxInsnBytes - std::min(here.size(), kMaxInsnBytes);
  if (cpu.env->memory->host(Gpa{second}, missing) != nullptr && missing > 0) {
    mark_code(cpu, second, static_cast<unsigned>(missing));
    cpu.env->memory->read(Gpa{second},
                          std::as_writable_bytes(std::span(bytes + here.size(), missing)));
  }
  Decoded decoded;
  const DecodeStatus status = decoder_.decode(cpu.code_size, bytes, 0, decoded);
  if (status == DecodeStatus::Ok) {
    bind(decoded, model_);
    block.insns[0] = decoded.insn;
  } else {
    block.insns[0] =
        pseudo_insn(status == DecodeStatus::Invalid ? invalid_handler() : too_long_handler(), 0);
    block.insns[0].length = static_cast<uint8_t>(kMaxInsnBytes);
  }
  block.count = 1;
  block.crosses = true;
  next_page_gpa = second;
  block.size_bytes = block.insns[0].length;
  return true;
}

Block* BlockCache::find_single(Cpu& cpu) {
  const uint64_t tag = cpu.code_tag;
  const uint64_t linear = code_linear(cpu);
  if (!is_code64(cpu) && cpu.rip > cpu.seg[kCs].limit) {
    raise(cpu, kGP, 0);
    return nullptr;
  }
  if (drop_everything_wanted_ || !fits_memory()) drop_everything();
  uint64_t gpa = 0;
  if (!translate(cpu, linear, tag, gpa)) return nullptr;
  return decode_block(cpu, linear, gpa, tag, 1);
}

void BlockCache::make_stale(Block& block) {
  block.stale = true;
  for (uint32_t i = 0; i <= block.count; ++i) block.insns[i].run = stale_handler();
}

void BlockCache::drop_page(uint64_t page) {
  if (listener_ != nullptr) listener_->page_dropped(page);
  const auto found = by_page_.find(page);
  if (found == by_page_.end()) return;
  ++stats_.pages_dropped;
  for (Block* block = found->second; block != nullptr;) {
    Block* next = block->next_on_page[page == block->gpa / kPageSize ? 0 : 1];
    if (!block->stale) {
      make_stale(*block);
      const auto entry = by_address_.find(address_key(block->gpa, block->code_size));
      if (entry != by_address_.end() && entry->second == block) by_address_.erase(entry);
    }
    block = next;
  }
  by_page_.erase(found);
}

void BlockCache::drop_stale_code(Cpu& cpu) {
  cpu.attention.fetch_and(~kAttnCode, std::memory_order_acq_rel);
  const CodeInbox::Requests requests = cpu.env->code_map->take_requests(cpu);
  if (requests.everything) {
    if (listener_ != nullptr) listener_->everything_dropped();
    // The running block must not be freed under its own feet: make all blocks stale now, and give
    // the memory back at the next lookup.
    for (auto& [page, head] : by_page_) {
      for (Block* block = head; block != nullptr;
           block = block->next_on_page[page == block->gpa / kPageSize ? 0 : 1]) {
        make_stale(*block);
      }
    }
    drop_everything_wanted_ = true;
    clear_fast();
  } else {
    for (const uint64_t page : requests.dropped_pages) drop_page(page);
  }
  if (requests.everything || !requests.code_pages.empty()) {
    drop_write_tags(cpu, requests.everything ? std::span<const uint64_t>{} : requests.code_pages);
  }
  cpu.env->code_map->acknowledge(cpu, requests.epoch);
}

void BlockCache::clear_fast() { std::fill(fast_.begin(), fast_.end(), FastEntry{}); }

void BlockCache::drop_everything() {
  ++stats_.full_drops;
  by_address_.clear();
  by_page_.clear();
  checks_.clear();
  clear_fast();
  insns_used_ = 0;
  blocks_used_ = 0;
  drop_everything_wanted_ = false;
}

}  // namespace trapeze::soft
