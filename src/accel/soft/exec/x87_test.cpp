// Every x87 instruction on random registers, tags and control words against the host CPU.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "accel/soft/exec/vector_bench.h"

namespace trapeze::soft::exec {
namespace {

using Bytes = std::vector<uint8_t>;

// Instructions that move the pointers to the last instruction to or from memory; these differ
// between processors and have their own tests.
bool has_pointers(ZydisMnemonic mnemonic) {
  switch (static_cast<unsigned>(mnemonic)) {
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FNSAVE:
      return true;
    default:
      return false;
  }
}

struct Form {
  Bytes bytes;
  Decoded decoded;
};

std::vector<Form> all_forms(const VectorBench& bench) {
  std::vector<Form> forms;
  const auto add = [&](const Bytes& bytes) {
    Form form{bytes, {}};
    if (bench.decode(bytes, form.decoded) && !has_pointers(form.decoded.zy.mnemonic))
      forms.push_back(form);
  };
  for (unsigned opcode = 0xd8; opcode <= 0xdf; ++opcode) {
    const auto first = static_cast<uint8_t>(opcode);
    for (unsigned modrm = 0xc0; modrm <= 0xff; ++modrm) add({first, static_cast<uint8_t>(modrm)});
    for (unsigned reg = 0; reg < 8; ++reg)
      add({first, static_cast<uint8_t>(0x46 | reg << 3), 16});  // [rsi + 16]
  }
  add({0x9b});
  return forms;
}

std::string name_of(const Form& form) {
  std::string text = ZydisMnemonicGetString(form.decoded.zy.mnemonic);
  for (const uint8_t byte : form.bytes) text += fmt::format(" {:02x}", byte);
  return text;
}

FxImage image_of(const BenchState& state) {
  FxImage image;
  std::memcpy(&image, state.fx, sizeof(image));
  return image;
}
void set_image(BenchState& state, const FxImage& image) {
  std::memcpy(state.fx, &image, sizeof(image));
}

std::string check(VectorBench& bench, const Form& form, const BenchState& start) {
  BenchState native = start;
  BenchState interpreted = start;
  const Outcome here = bench.interpret(form.decoded, interpreted);
  if (here == Outcome::NotBound) return name_of(form) + ": not bound\n";
  if (here != Outcome::Done) return name_of(form) + ": fault\n";
  bench.run_natively(form.bytes, native);
  const std::string text = VectorBench::difference(native, interpreted);
  const FxImage image = image_of(start);
  return text.empty() ? text
                      : fmt::format("{} from fcw {:x} fsw {:x} tags {:x}\n{}", name_of(form),
                                    image.fcw, image.fsw, image.tags, text);
}

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

TEST(X87, every_instruction_gives_what_the_host_gives) {
  VectorBench bench;
  const std::vector<Form> forms = all_forms(bench);
  std::mt19937_64 random(30);
  Reports reports;
  for (unsigned round = 0; round < kRounds; ++round) {
    for (const Form& form : forms) reports.add(check(bench, form, bench.random_state(random)));
  }
  EXPECT_GE(forms.size(), 450U);
}

TEST(X87, unmasked_exceptions_stay_pending_as_on_the_host) {
  VectorBench bench;
  const std::vector<Form> forms = all_forms(bench);
  std::mt19937_64 random(31);
  Reports reports;
  for (unsigned round = 0; round < kRounds; ++round) {
    for (const Form& form : forms) {
      BenchState start = bench.random_state(random);
      FxImage image = image_of(start);
      image.fcw = static_cast<uint16_t>(0x40 | (random() & 0xf3f));
      // Nothing is pending yet: only masked exceptions have been raised.
      image.fsw = static_cast<uint16_t>(image.fsw & (~kFswFlags | image.fcw));
      set_image(start, image);
      // Words that would unmask a pending exception would stop the native run.
      if (form.decoded.zy.mnemonic == ZYDIS_MNEMONIC_FWAIT) continue;
      reports.add(check(bench, form, start));
    }
  }
}

}  // namespace
}  // namespace trapeze::soft::exec
