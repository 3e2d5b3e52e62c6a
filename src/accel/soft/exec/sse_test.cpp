// Every MMX and SSE instruction that the decoder knows, on random operands, against the host CPU.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "accel/soft/exec/vector_bench.h"

namespace trapeze::soft::exec {
namespace {

using Bytes = std::vector<uint8_t>;

bool is_vector_set(ZydisISASet set) {
  switch (static_cast<unsigned>(set)) {
    case ZYDIS_ISA_SET_PENTIUMMMX:
    case ZYDIS_ISA_SET_SSE:
    case ZYDIS_ISA_SET_SSE2:
    case ZYDIS_ISA_SET_SSE2MMX:
    case ZYDIS_ISA_SET_SSE3:
    case ZYDIS_ISA_SET_SSSE3:
    case ZYDIS_ISA_SET_SSSE3MMX:
    case ZYDIS_ISA_SET_SSE4:
    case ZYDIS_ISA_SET_SSE42:
    case ZYDIS_ISA_SET_AES:
    case ZYDIS_ISA_SET_PCLMULQDQ:
      return true;
    default:
      return false;
  }
}

// Vector sets hold some instructions of other classes.
bool is_elsewhere(ZydisMnemonic mnemonic) {
  switch (static_cast<unsigned>(mnemonic)) {
    case ZYDIS_MNEMONIC_CRC32:
    case ZYDIS_MNEMONIC_LFENCE:
    case ZYDIS_MNEMONIC_MFENCE:
    case ZYDIS_MNEMONIC_SFENCE:
    case ZYDIS_MNEMONIC_MOVNTI:
    case ZYDIS_MNEMONIC_POPCNT:
      return true;
    default:
      return false;
  }
}

bool host_has(ZydisISASet set) {
  if (set == ZYDIS_ISA_SET_AES) return __builtin_cpu_supports("aes");
  if (set == ZYDIS_ISA_SET_PCLMULQDQ) return __builtin_cpu_supports("pclmul");
  return true;
}

struct Form {
  Bytes bytes;
  Decoded decoded;
  bool has_immediate;
};

// All encodings of the two-byte and three-byte opcode maps, over some ModRM and REX bytes.
class Forms {
 public:
  explicit Forms(const VectorBench& bench) : bench_(bench) {
    constexpr uint8_t kPrefixes[] = {0x00, 0x66, 0xf2, 0xf3}, kMaps[] = {0x00, 0x38, 0x3a};
    for (const uint8_t prefix : kPrefixes) {
      for (const uint8_t map : kMaps) {
        for (unsigned opcode = 0; opcode < 256; ++opcode)
          add_opcode(prefix, map, static_cast<uint8_t>(opcode));
      }
    }
  }

  const std::vector<Form>& all() const { return forms_; }
  // The form with another immediate, where it has one.
  Form with_immediate(const Form& form, uint8_t immediate) const {
    Form other = form;
    if (!form.has_immediate) return other;
    other.bytes.back() = immediate;
    EXPECT_TRUE(bench_.decode(other.bytes, other.decoded));
    return other;
  }

 private:
  void add_opcode(uint8_t prefix, uint8_t map, uint8_t opcode) {
    // Registers 1 and 2; one register twice; memory at [rsi + 16]; groups select by ModRM.reg.
    std::set<uint8_t> modrms = {0xca, 0xc9, 0x4e};
    if (map == 0 && opcode >= 0x71 && opcode <= 0x73) modrms = {0xd2, 0xda, 0xe2, 0xf2, 0xfa};
    constexpr uint8_t kRexes[] = {0x00, 0x48, 0x45};
    for (const uint8_t rex : kRexes) {
      for (const uint8_t modrm : modrms) {
        if (rex == 0x45 && modrm < 0xc0) continue;  // that would be [r14 + 16]
        Bytes bytes;
        if (prefix != 0) bytes.push_back(prefix);
        if (rex != 0) bytes.push_back(rex);
        bytes.push_back(0x0f);
        if (map != 0) bytes.push_back(map);
        bytes.push_back(opcode);
        bytes.push_back(modrm);
        if (modrm < 0xc0) bytes.push_back(16);
        if (add(bytes, false)) continue;
        bytes.push_back(0);
        add(bytes, true);
      }
    }
  }

  bool add(const Bytes& bytes, bool has_immediate) {
    Form form{bytes, {}, has_immediate};
    if (!bench_.decode(bytes, form.decoded)) return false;
    const ZydisISASet set = form.decoded.zy.meta.isa_set;
    if (!is_vector_set(set) || is_elsewhere(form.decoded.zy.mnemonic)) return false;
    if (host_has(set)) forms_.push_back(form);
    return true;
  }

  const VectorBench& bench_;
  std::vector<Form> forms_;
};

std::string name_of(const Form& form) {
  std::string text = ZydisMnemonicGetString(form.decoded.zy.mnemonic);
  for (const uint8_t byte : form.bytes) text += fmt::format(" {:02x}", byte);
  return text;
}

// Runs the form both ways; the difference, or an empty string.
std::string check(
    VectorBench& bench, const Form& form, const BenchState& start,
    void (*normalize)(BenchState&) = [](BenchState&) {}) {
  BenchState native = start;
  BenchState interpreted = start;
  const Outcome here = bench.interpret(form.decoded, interpreted);
  if (here == Outcome::NotBound) return name_of(form) + ": not bound\n";
  const Outcome there = bench.run_natively(form.bytes, native);
  normalize(native);
  normalize(interpreted);
  std::string text = VectorBench::difference(native, interpreted);
  if (here != there)
    text += fmt::format("outcome: native {}, here {}\n", static_cast<int>(there),
                        static_cast<int>(here));
  return text.empty() ? text : name_of(form) + "\n" + text;
}

// Collects differences up to a bound.
class Reports {
 public:
  void add(const std::string& text) {
    if (text.empty() || count_ == kMax) return;
    ADD_FAILURE() << text;
    ++count_;
  }

 private:
  static constexpr unsigned kMax = 20;
  unsigned count_ = 0;
};

constexpr unsigned kRounds = 40;

TEST(Sse, every_instruction_gives_what_the_host_gives) {
  VectorBench bench;
  const Forms forms(bench);
  std::mt19937_64 random(20);
  Reports reports;
  std::set<ZydisMnemonic> seen;
  for (unsigned round = 0; round < kRounds; ++round) {
    for (const Form& form : forms.all()) {
      seen.insert(form.decoded.zy.mnemonic);
      const Form with = forms.with_immediate(form, static_cast<uint8_t>(random()));
      reports.add(check(bench, with, bench.random_state(random)));
    }
  }
  EXPECT_GE(seen.size(), 250U);
}

// What the careful way does not tell: whether a result that overflowed or underflowed unmasked was
// inexact too, and what DPPS and DPPD raise between their steps.
bool has_inner_steps(ZydisMnemonic mnemonic) {
  return mnemonic == ZYDIS_MNEMONIC_DPPS || mnemonic == ZYDIS_MNEMONIC_DPPD;
}
void forget_precision(BenchState& state) {
  uint32_t mxcsr;
  std::memcpy(&mxcsr, state.fx + offsetof(FxImage, mxcsr), sizeof(mxcsr));
  if ((mxcsr & ~(mxcsr >> 7) & (kMxcsrOe | kMxcsrUe)) != 0) mxcsr |= kMxcsrPe;
  std::memcpy(state.fx + offsetof(FxImage, mxcsr), &mxcsr, sizeof(mxcsr));
}

TEST(Sse, unmasked_exceptions_are_those_of_the_host) {
  VectorBench bench;
  const Forms forms(bench);
  std::mt19937_64 random(21);
  Reports reports;
  for (unsigned round = 0; round < kRounds; ++round) {
    for (const Form& form : forms.all()) {
      if (has_inner_steps(form.decoded.zy.mnemonic)) continue;
      const Form with = forms.with_immediate(form, static_cast<uint8_t>(random()));
      BenchState start = bench.random_state(random);
      const auto mxcsr = static_cast<uint32_t>(random() & (kMxcsrValid & ~kMxcsrFlags));
      std::memcpy(start.fx + offsetof(FxImage, mxcsr), &mxcsr, sizeof(mxcsr));
      reports.add(check(bench, with, start, forget_precision));
    }
  }
}

TEST(Sse, every_immediate_gives_what_the_host_gives) {
  VectorBench bench;
  const Forms forms(bench);
  std::mt19937_64 random(22);
  Reports reports;
  for (const Form& form : forms.all()) {
    for (unsigned immediate = 0; form.has_immediate && immediate < 256; ++immediate) {
      const Form with = forms.with_immediate(form, static_cast<uint8_t>(immediate));
      reports.add(check(bench, with, bench.random_state(random)));
    }
  }
}

}  // namespace
}  // namespace trapeze::soft::exec
