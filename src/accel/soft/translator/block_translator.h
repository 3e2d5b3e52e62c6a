// BlockTranslator: emits one block. Lives only while it does so.
#pragma once

#include <array>
#include <vector>

#include "accel/soft/translator/forms.h"
#include "accel/soft/translator/registers.h"
#include "accel/soft/translator/translator.h"

namespace trapeze::soft {

class BlockTranslator {
 public:
  // `index` of `translation` in the translator; the fields that say what it is a translation of are
  // set.
  BlockTranslator(Translator& translator, Translation& translation, uint32_t index);

  // `bytes`: the block's. False when they no longer are what `block` was decoded from.
  bool decode(const Block& block, std::span<const uint8_t> bytes);
  // The offset behind the last instruction, when the code there could be part of this translation:
  // where a conditional jump forwards is not taken. Else 0.
  uint16_t may_extend() const;
  // Adds the instructions there, up to the next that ends a block. `bytes`: from the translation's
  // first one. False when nothing can follow.
  bool extend(std::span<const uint8_t> bytes);
  // Emits the code at the assembler's position.
  void emit();

 private:
  struct Item {
    Insn insn;
    ZydisDecodedInstruction zy;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    Form form;
    std::span<const uint8_t> bytes;
  };
  // Accesses through one base register share a probe: it covers all of them, and R11 keeps the
  // host address. Where that fails (two pages, say), other code does them one by one.
  struct Group {
    unsigned first = 0, last = 0;  // items
    uint8_t base = 0;              // guest register
    int32_t low = 0, high = 0;     // bytes [base + low, base + high), base as before the first item
    bool write = false;
    bool aligned = false;     // some accesses must be: `alignment` is the place of one
    bool aligned_32 = false;  // some to 32 bytes, and it is the place of one of these
    int32_t alignment = 0;
    uint32_t site = kNone;
    uint32_t after = kNone;  // where the last item's code ends
    uint8_t cached_after = kInMemory;
    uint16_t x87_before = kNoX87;  // as the first item finds it
  };
  // What planning knows of an item's place in a group.
  struct Place {
    uint32_t group = kNone;
    uint32_t keep = kNone;  // of the access, or of the group that begins here
    int32_t disp = 0;       // of its access, from the base at the group's start; no access: unused
    bool access = false;
  };
  struct Reach {
    uint8_t base = 0;
    int32_t disp = 0;
    unsigned size = 0;
    bool write = false;
    bool aligned = false;
    bool aligned_32 = false;  // then aligned, too
  };
  // Accesses and groups through one base register, apart from each other, that need one probe: the
  // addend of the page it found stays in a slot of the CPU's.
  struct Keep {
    unsigned lead = 0;          // the item whose probe is made for all
    int32_t low = 0, high = 0;  // bytes [base + low, base + high), base as before that item
    bool write = false;
    unsigned uses = 0;
    uint8_t slot = 0;
  };
  // A group or an access alone.
  struct Unit {
    uint8_t base = 0;
    int32_t low = 0, high = 0;
    bool write = false;
  };
  struct Access {
    uint32_t start = 0;  // where the code that makes the address begins
    uint16_t size = 0;
    bool write = false;
    bool aligned = false;
    // To 32 bytes. Without `aligned`: one access of 32 bytes; with it: a group of which some must.
    bool aligned_32 = false;
  };
  // What a linear address is made of, where R11 does not hold it.
  struct Linear {
    enum class Kind : uint8_t { InAddress, Base, Constant };
    Kind kind = Kind::InAddress;
    uint8_t base = 0;  // host register
    int32_t disp = 0;
    uint64_t constant = 0;
  };
  // A jump out of the hot path, to code that is emitted behind the block. `linear`: of a probe.
  struct ColdSite {
    uint32_t jump;
    uint32_t site;
    Linear linear;
  };
  // A return that does not match the return stack.
  struct ColdReturn {
    uint32_t jump;
    uint32_t site;  // for where the jump table does not have it either
    int bytes;      // popped off the guest's stack
  };
  struct ColdExit {
    uint32_t jump;
    uint32_t exit;
  };
  // One general-register operand of a plain instruction.
  struct RegisterUse {
    bool used = false;
    bool is_xmm = false;
    bool high_byte = false;
    bool written = false;
    bool overwritten = false;  // its old value does not matter
    bool in_slot = false;      // used in memory, where the guest register lives
    uint8_t guest = 0;
    uint8_t host = 0;  // where the instruction has it: its home or a scratch register
  };
  static constexpr uint8_t kNoExtension = 0xff;
  // What a plain instruction's operands are, once they are seen to be of a kind that can be
  // re-encoded.
  struct PlainOperands {
    RegisterUse reg, rm, opcode;
    const ZydisDecodedOperand* memory = nullptr;
    uint8_t extension = kNoExtension;  // of the opcode, in ModRM.reg, where it is another
    bool shift_by_cl = false;
    bool any_rex = false;
    bool high_byte = false;
  };

  // Registers and memory of a VEX-encoded instruction, in the host's terms.
  struct VexPlan {
    uint8_t reg = 0, vvvv = 0, rm = 0;
    bool has_vvvv = false;
    bool rm_in_slot = false;  // rm is a guest register that lives in memory, and is used there
    bool has_gpr = false;
    const ZydisDecodedOperand* memory = nullptr;
    // Guest registers that live in memory, and their scratch registers.
    struct Copy {
      uint8_t host, guest;
    };
    Copy loads[2], stores[2];
    uint8_t load_count = 0, store_count = 0;
  };
  struct VexGpr;

  void add(const Decoded& decoded, std::span<const uint8_t> bytes);

  // groups (groups.cpp)
  void plan_groups();
  static bool must_be_aligned(const ZydisDecodedInstruction& zy, const ZydisDecodedOperand& memory);
  static bool must_be_aligned_32(const ZydisDecodedInstruction& zy,
                                 const ZydisDecodedOperand& memory);
  static bool has_memory(const Item& item);
  // False for plain instructions that only the interpreter does in some of their forms.
  static bool is_encodable(const Item& item);
  bool reach_of(const Item& item, Reach& reach) const;
  bool can_be_inside(const Item& item) const;
  bool follow_base(const Item& item, uint8_t base, int32_t& moved) const;
  unsigned extend_group(unsigned first, Group& group, std::vector<Place>& places) const;
  HostMemory group_access(const Item& item);
  const Place* place_of(const Item& item) const;
  uint32_t group_of(const Item& item) const;
  void emit_ungrouped();

  // keeps (keeps.cpp)
  void plan_keeps();
  bool unit_at(unsigned index, Unit& unit) const;
  static bool keeps_pages(const Item& item);
  const Keep* keep_of(const Item& item) const;
  HostMemory kept_access(const Item& item, const Keep& keep, uint8_t base, int32_t disp);
  bool is_in_group(const Item& item) const { return use_groups_ && group_of(item) != kNone; }
  void move_rsp(const Item& item, int by);
  void settle_rsp();
  bool uses_rsp(const Item& item) const;
  void next_item_is_here();

  // items
  void emit_item(const Item& item);
  void emit_interpret(const Item& item);
  bool emit_plain(const Item& item);
  bool emit_vex(const Item& item);
  bool plan_vex(const Item& item, bool address_free, VexPlan& plan) const;
  static bool place_vex_gprs(std::span<VexGpr> uses, std::span<const uint8_t> scratch,
                             bool one_result, VexPlan& plan);
  bool is_vex_groupable(const Item& item) const;
  bool emit_lea(const Item& item);
  bool is_direct_lea(const Item& item) const;
  bool emit_push(const Item& item);
  bool emit_pop(const Item& item);
  bool emit_leave(const Item& item);
  bool emit_jump(const Item& item);
  void emit_jump_if(const Item& item);
  bool emit_call(const Item& item);
  bool emit_return(const Item& item);
  bool emit_push_flags(const Item& item);
  bool emit_disable_interrupts();
  bool emit_swap_gs();
  bool emit_enable_interrupts(const Item& item);
  bool emit_compare_exchange_wide(const Item& item);
  bool emit_bit_string(const Item& item);
  bool emit_read_segment(const Item& item);
  bool emit_push_memory(const Item& item);
  bool emit_string(const Item& item);
  uint8_t probe_string(const Item& item, uint8_t pointer, unsigned size, bool write, uint32_t site);
  void interpret_unless_rcx_zero(uint32_t site);
  bool emit_x87(const Item& item);
  void emit_load_control_word(const Item& item, HostMemory memory);
  // Writes FIP, where an x87 instruction has left that for later.
  void settle_fip();

  static void to_code64(const ZydisDecodedInstruction& zy, Encoding& encoding,
                        PlainOperands& operands);
  bool is_stack_register(ZydisRegister reg) const;

  // parts (operands.cpp)
  // False for addresses that only the interpreter makes: with 16 bits, and through FS, GS and CS in
  // 32-bit code, whose limits may count.
  bool may_address(const Item& item, const ZydisDecodedOperand& memory) const;
  bool gather(const Item& item, PlainOperands& out) const;
  bool gather_register(const Item& item, const ZydisDecodedOperand& operand,
                       PlainOperands& out) const;
  // Uses guest registers that live in memory there, where the encoding allows it.
  static bool slot_allowed(const Item& item, const RegisterUse& use, unsigned bits);
  bool emit_slot_form(const Item& item, const PlainOperands& operands, Encoding encoding);
  void slot_written(uint8_t guest) {
    if (cached_ == guest) cached_ = kInMemory;
  }
  // `address_free`: R11 may be taken.
  static bool assign_scratch(PlainOperands& operands, bool address_free);
  void load_scratch(const RegisterUse& use);
  void store_scratch(const RegisterUse& use);
  void emit_linear(const Item& item, const ZydisDecodedOperand& memory, bool with_segment);
  bool constant_linear(const Item& item, const ZydisDecodedOperand& memory, uint64_t& linear) const;
  bool is_base_only(const Item& item, const ZydisDecodedOperand& memory) const;
  uint32_t new_probe(const Item& item, const Access& access);
  static bool is_aligned_alone(const Access& access) {
    return access.aligned ? access.size == 16 : access.aligned_32;
  }
  static size_t page_mask_of(const Access& access);
  static size_t unaligned_mask_of(const Access& access);
  void page_index(uint8_t to, uint8_t from);
  HostMemory probe(const Item& item, const Access& access);
  HostMemory probe_base(const Item& item, const Access& access, uint8_t base, int32_t disp);
  bool probe_constant(const Item& item, const Access& access, uint64_t linear, HostMemory& memory);
  HostMemory probe_operand(const Item& item, const ZydisDecodedOperand& memory, bool aligned);
  HostMemory probe_stack(const Item& item, uint8_t base, int32_t offset, bool write);
  // In one register, R11.
  HostMemory combine(HostMemory memory);
  // Without RCX.
  HostMemory free_scratch(HostMemory memory) {
    return memory.index == kScratch ? combine(memory) : memory;
  }
  void address_in_scratch(const HostMemory& memory);
  static Xbyak::RegExp host(const HostMemory& memory) {
    const Xbyak::RegExp sum = Xbyak::Reg64(memory.base) + memory.disp;
    return memory.index != kNoIndex ? sum + Xbyak::Reg64(memory.index) : sum;
  }

  // parts (branches.cpp)
  bool target_of(const Item& item, uint64_t& target) const;
  uint32_t new_exit(uint64_t target, bool after_call = false);
  void emit_exit(uint64_t target);
  void check_attention(const Item& item);
  bool load_target(const Item& item);
  void emit_jump_index();
  void compare_with_jump_table();
  void jump_by_table();
  void look_up_target(const Item& item);
  bool push_constant(const Item& item, uint64_t value);
  void push_return_address(const Item& item);

  uint32_t new_site(const Item& item, SiteKind kind);
  // A look at the entry whether the host's registers hold the guest's.
  void check_state(const Item& first, SiteKind kind, size_t absent);
  // A JRCXZ at `at` that must reach a jump to the site's cold code, or (site kNone) one that
  // empties the return stack and comes back.
  struct Island {
    uint32_t at;
    uint32_t site;
  };
  void jump_to_island_if_rcx_zero(uint32_t site);
  void emit_islands();
  uint32_t go_on_if_rcx_zero();
  void go_on_if_rcx_zero(uint32_t site, const Linear& linear) {
    cold(go_on_if_rcx_zero(), site, linear);
    emit_islands();
  }
  void check_return_stack(const Item& item);
  void emit_landing(const Item& item);
  void emit_cold_returns();
  void cold(uint32_t jump, uint32_t site, const Linear& linear) {
    cold_sites_.push_back({jump, site, linear});
  }
  void emit_cold();
  uint64_t rip_of(const Item& item) const { return translation_.linear + item.insn.start; }
  uint64_t next_rip_of(const Item& item) const { return wrap(rip_of(item) + item.insn.length); }
  bool is_code32() const { return translation_.code_size == CodeSize::Code32; }
  // Linear addresses and the stack pointer have 32 bits in 32-bit code.
  uint64_t wrap(uint64_t linear) const { return is_code32() ? linear & 0xffff'ffffU : linear; }
  int stack_bytes() const { return is_code32() ? 4 : 8; }
  bool is_stack_wide(const Item& item) const {
    return item.zy.operand_width == 8 * static_cast<unsigned>(stack_bytes());
  }
  // A register of the stack's width.
  Xbyak::Reg stack_register(uint8_t host) const {
    if (is_code32()) return Xbyak::Reg32(host);
    return Xbyak::Reg64(host);
  }
  void add_to_rsp(int by);
  const FastTlb& fast_tlb() const { return tables_.tlb[static_cast<unsigned>(translation_.table)]; }
  const uint64_t* tags(const Access& access) const {
    return access.write ? fast_tlb().minus_write : fast_tlb().minus_read;
  }

  Translator& translator_;
  Assembler& code_;
  const TranslatorTables& tables_;
  Translation& translation_;
  const uint32_t index_;
  bool open_ended_ = false;  // the block was cut: it goes on behind its last instruction
  std::vector<Item> items_;
  std::vector<Group> groups_;
  std::vector<Place> places_;  // of each item
  std::vector<Keep> keeps_;
  bool use_groups_ = true;
  int pending_rsp_ = 0;  // to be added to RSP: inside a group nothing looks at it
  // The guest register that RCX holds a copy of; kInMemory: none. All ways to the next instruction
  // bring it along: Site::cached, Group::cached_after.
  uint8_t cached_ = kInMemory;
  uint16_t x87_before_ = kNoX87;  // Site::x87_before
  std::vector<ColdSite> cold_sites_;
  std::vector<ColdExit> cold_exits_;
  std::vector<ColdReturn> cold_returns_;
  std::vector<Island> islands_;
  std::vector<uint32_t> waiting_for_next_;  // sites whose `next` is the next item's code
};

}  // namespace trapeze::soft
