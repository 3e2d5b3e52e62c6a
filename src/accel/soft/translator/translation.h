// What the translator remembers of the code it has emitted.
#pragma once

#include <cstdint>

#include "accel/soft/core/cpu.h"
#include "accel/soft/core/translator_state.h"
#include "accel/soft/decode/insn.h"
#include "accel/soft/translator/registers.h"

namespace trapeze::soft {

inline constexpr uint32_t kNone = ~uint32_t{0};
inline constexpr uint16_t kNoX87 = 0xffff;
inline constexpr uint32_t kKeptSite = kNone - 1;  // of a group: the probe is a keep's

// A translated block. The same guest bytes at another linear address, or for another FastTable, are
// another translation, so addresses and tables are constants in its code.
struct Translation {
  uint64_t gpa = 0;           // of the first byte
  uint64_t next_gpa = 0;      // crossing: start of the page it ends on
  uint64_t linear = 0;        // of the first byte; also RIP: the code segment's base is 0
  uint32_t entry = 0;         // offset of the entry that checks Cpu::translator.tag
  uint32_t tag_at = 0;        // where that entry has the (negative) tag it expects
  uint32_t body = 0;          // offset behind the check: for links within a page
  uint32_t live_body = 0;     // offset behind the checks for SSE, AVX and x87, too: for links from
                              // code that has made them
  uint32_t end = 0;           // behind its code
  uint32_t incoming = kNone;  // first exit that is linked here
  uint32_t hash_next = kNone;
  FastTable table = FastTable::Supervisor;
  CodeSize code_size = CodeSize::Code64;
  bool crosses = false;
  bool dead = false;  // its bytes have changed
  bool uses_sse = false;
  bool uses_avx = false;  // then uses_sse, too
  bool uses_x87 = false;
  uint32_t keep_misses = 0;  // since `keep_misses_since`, a time stamp
  uint64_t keep_misses_since = 0;
};

// A direct way out of a translation. Until it is linked its jump leads to a piece of code that
// leaves with this exit's number.
struct Exit {
  uint64_t target = 0;    // RIP
  uint32_t from = 0;      // translation
  uint32_t jump = 0;      // offset of the jump's displacement
  uint32_t unlinked = 0;  // where that jump leads when not linked
  uint32_t next_incoming = kNone;
  uint32_t linked = kNone;  // translation
  bool after_call = false;  // much may have happened since the tag was checked
};

enum class SiteKind : uint8_t {
  Memory,           // a probe missed: fill the TLB and try again, or interpret
  Interpret,        // one instruction for the interpreter
  ReturnStackFull,  // empty it, and leave before this instruction
  Attention,        // Cpu::attention is not 0: leave before this instruction
  Entry,            // the tag is not the one expected: look up again
  Sse,              // load the XMM registers, if the guest may use them
  X87,              // load the x87 unit, if nothing is unusual about the guest's state
};

// A place where translated code asks C++.
struct Site {
  SiteKind kind = SiteKind::Interpret;
  bool write = false;
  bool aligned = false;  // the access must be, to 16 bytes
  bool aligned_32 = false;
  bool masked = false;    // it may leave all of it alone: no accessed or dirty bits on suspicion
  bool group = false;     // Memory: of several instructions; where the probe misses, `next`
                          // is code for them one by one
  bool keep = false;      // Memory: for later instructions, too; where it misses, the interpreter
                          // goes on with the block
  bool uses_sse = false;  // of the translation
  bool uses_avx = false;
  bool uses_x87 = false;
  uint16_t x87_before = kNoX87;  // start of the x87 instruction whose address FIP still lacks
  uint16_t size = 0;
  uint32_t translation = 0;
  uint64_t linear = 0;         // of the block
  uint32_t retry = 0;          // Memory: where the probe begins
  uint32_t next = kNone;       // where the next instruction begins; kNone: leave
  uint8_t cached = kInMemory;  // the guest register that RCX has to hold there, if any
  Insn insn;
};

struct TranslatorStats {
  uint64_t blocks = 0;      // translations made
  uint64_t code_bytes = 0;  // emitted for them
  uint64_t links = 0;       // exits linked
  uint64_t enters = 0;      // from C++ to translated code
  uint64_t lookups = 0;     // blocks that the jump table did not have
  // Why it came back: a jump that is not linked, something to look at, an entry that was linked
  // under another tag, and an instruction that ends a block in the interpreter.
  uint64_t exits_unlinked = 0, exits_attention = 0, exits_tag = 0, exits_interpreter = 0;
  uint64_t tlb_misses = 0;   // of the inline TLB
  uint64_t tlb_fills = 0;    // those that the tables could serve
  uint64_t interpreted = 0;  // instructions that translated code left to the interpreter
  uint64_t keep_misses = 0;  // blocks left to it because a kept page did not do for all
  uint64_t flushes = 0;      // the buffer was full, or everything was written to
  uint64_t dropped = 0;      // translations dropped because their bytes changed
};

}  // namespace trapeze::soft
