// The thunks of VEX-encoded instructions, and the table of them, which all vCPUs share.
#include <sys/mman.h>

#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>

#include "accel/soft/exec/code_buffer.h"
#include "accel/soft/exec/vex.h"
#include "base/check.h"
#include "base/mapping.h"

namespace trapeze::soft::exec {
namespace {

// More than there can be: about 300 instructions with an immediate, counted with both vector
// lengths, both values of W and both kinds of operand, times 256, and 4,000 without.
constexpr uint32_t kMaxOps = 1U << 17;
constexpr size_t kCodeBytes = size_t{kMaxOps} * 64;
constexpr size_t kMaxThunkBytes = 128;

// Displacements from VexOperands::memory.
constexpr int kMiddle = offsetof(VexOperands, memory);
constexpr uint8_t displacement(size_t offset) {
  return static_cast<uint8_t>(static_cast<int>(offset) - kMiddle);
}
constexpr uint8_t vector_at(unsigned role) {
  return displacement(offsetof(VexOperands, vector) + role * 32);
}
constexpr uint8_t gpr_at(unsigned i) { return displacement(offsetof(VexOperands, gpr) + i * 8); }
static_assert(offsetof(VexOperands, flags) < kMiddle + 128);

// The host's numbers of VexOperands::gpr.
constexpr unsigned kGprNumbers[] = {0, 1, 2, 6};
constexpr unsigned kRmGpr = 6, kRmVector = 2, kVvvv = 1;

class Emitter {
 public:
  explicit Emitter(std::byte* to) : at_(reinterpret_cast<uint8_t*>(to)), start_(at_) {}
  size_t size() const { return static_cast<size_t>(at_ - start_); }

  void thunk(const VexEncoding& encoding, const VexOp& op) {
    for (unsigned role = 0; role < kVexRoles; ++role) {
      if ((op.vector_in >> role & 1) != 0) move_vector(0x6f, role);
    }
    if (op.general) load_general();
    instruction(encoding);
    if (op.general) store_general();
    for (unsigned role = 0; role < kVexRoles; ++role) {
      if ((op.vector_out >> role & 1) != 0) move_vector(0x7f, role);
    }
    if (op.needs_avx) put({0xc5, 0xf8, 0x77});  // VZEROUPPER: C++ code is SSE
    put({0xc3});
  }

 private:
  void put(std::initializer_list<unsigned> bytes) {
    for (const unsigned byte : bytes) *at_++ = static_cast<uint8_t>(byte);
  }
  // VMOVDQA ymm, [rdi + disp8], or back.
  void move_vector(unsigned opcode, unsigned role) {
    put({0xc5, 0xfd, opcode, 0x47U | role << 3, vector_at(role)});
  }
  void load_general() {
    put({0x0f, 0xb7, 0x47, displacement(offsetof(VexOperands, flags))});  // movzx eax, word
    put({0x04, 0x7f, 0x9e});  // add al, 0x7f: OF as SETO gave it; sahf
    for (unsigned i = 0; i < 4; ++i) put({0x48, 0x8b, 0x47U | kGprNumbers[i] << 3, gpr_at(i)});
  }
  void store_general() {
    for (unsigned i = 0; i < 4; ++i) put({0x48, 0x89, 0x47U | kGprNumbers[i] << 3, gpr_at(i)});
    put({0x9f, 0x0f, 0x90, 0xc0});  // lahf; seto al
    put({0x66, 0x89, 0x47, displacement(offsetof(VexOperands, flags))});
  }
  void instruction(const VexEncoding& encoding) {
    const unsigned vvvv = encoding.has_vvvv ? kVvvv : 0;  // inverted: 15 says that there is none
    put({0xc4, 0xe0U | encoding.map,
         (encoding.wide ? 0x80U : 0U) | (~vvvv & 15U) << 3 | (encoding.is_256 ? 4U : 0U) |
             encoding.pp,
         encoding.opcode});
    const unsigned reg = encoding.extension;  // role 0 is register 0
    if (encoding.has_memory) {
      put({0x47U | reg << 3, 0});
    } else {
      put({0xc0U | reg << 3 | (encoding.rm_is_gpr ? kRmGpr : kRmVector)});
    }
    if (encoding.has_immediate) put({encoding.immediate});
  }

  uint8_t* at_;
  const uint8_t* const start_;
};

uint64_t key_of(const VexEncoding& encoding) {
  uint64_t key = encoding.opcode;
  const auto add = [&key](unsigned bits, unsigned value) { key = key << bits | value; };
  add(2, encoding.map);
  add(2, encoding.pp);
  add(1, encoding.wide ? 1 : 0);
  add(1, encoding.is_256 ? 1 : 0);
  add(1, encoding.has_vvvv ? 1 : 0);
  add(1, encoding.has_memory ? 1 : 0);
  add(1, encoding.rm_is_gpr ? 1 : 0);
  add(3, encoding.extension);
  add(1, encoding.has_immediate ? 1 : 0);
  add(8, encoding.immediate);
  return key;
}

class Table {
 public:
  static Result<std::unique_ptr<Table>> create() {
    auto code = TRY(CodeBuffer::create(kCodeBytes));
    auto ops = TRY(Mapping::create(size_t{kMaxOps} * sizeof(VexOp), PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0,
                                   "VEX instructions"));
    return std::unique_ptr<Table>(new Table(std::move(code), std::move(ops)));
  }

  const VexOp* ops() const { return ops_; }

  uint32_t number(const VexEncoding& encoding, VexOp op) {
    const std::lock_guard lock(mutex_);
    const auto [found, is_new] = numbers_.try_emplace(key_of(encoding), count_);
    if (!is_new) return found->second;
    if (count_ == kMaxOps || code_used_ + kMaxThunkBytes > code_.size()) {
      numbers_.erase(found);
      return kNoVexOp;
    }
    Emitter emitter(code_.write_base() + code_used_);
    emitter.thunk(encoding, op);
    DCHECK(emitter.size() <= kMaxThunkBytes);
    op.run =
        reinterpret_cast<VexThunk>(reinterpret_cast<uintptr_t>(code_.exec_base()) + code_used_);
    code_used_ += emitter.size();
    ops_[count_] = op;
    return count_++;
  }

 private:
  Table(CodeBuffer code, Mapping ops)
      : code_(std::move(code)),
        ops_memory_(std::move(ops)),
        ops_(reinterpret_cast<VexOp*>(ops_memory_.data())) {}

  const CodeBuffer code_;
  const Mapping ops_memory_;
  VexOp* const ops_;
  std::mutex mutex_;  // guards what follows
  std::unordered_map<uint64_t, uint32_t> numbers_;
  uint32_t count_ = 0;
  size_t code_used_ = 0;
};

// Made once, before the first vCPU runs, and never unmade: instructions hold numbers of it.
Table* table = nullptr;

}  // namespace

Result<void> prepare_vex() {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  if (table != nullptr) return {};
  table = TRY(Table::create()).release();
  return {};
}

uint32_t vex_op_number(const VexEncoding& encoding, const VexOp& op) {
  CHECK(table != nullptr);
  return table->number(encoding, op);
}

const VexOp& vex_op(uint32_t number) { return table->ops()[number]; }

}  // namespace trapeze::soft::exec
