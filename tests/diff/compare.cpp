#include "diff/compare.h"

#include <fmt/format.h>

#include <cstring>

namespace trapeze::diff {
namespace {

constexpr const char* kNames[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                    "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

template <typename T>
T field(const Registers& registers, size_t at) {
  T value;
  std::memcpy(&value, registers.fx.data() + at, sizeof(value));
  return value;
}

std::string bytes_of(const uint8_t* bytes, size_t size) {
  std::string text;
  for (size_t i = size; i-- > 0;) text += fmt::format("{:02x}", bytes[i]);
  return text;
}

class Report {
 public:
  template <typename T>
  void value(std::string_view name, T native, T guest) {
    if (native != guest) text += fmt::format("  {}: native {:x}, here {:x}\n", name, native, guest);
  }
  void bytes(std::string_view name, size_t i, const uint8_t* native, const uint8_t* guest,
             size_t size) {
    if (std::memcmp(native, guest, size) == 0) return;
    text += fmt::format("  {}{}: native {}, here {}\n", name, i, bytes_of(native, size),
                        bytes_of(guest, size));
  }
  std::string text;
};

// The arithmetic flags, DF and AC. RF, set in the flags a fault pushes, is not the program's.
constexpr uint64_t kComparedFlags = 0x8d5 | 0x400 | 0x4'0000;
constexpr uint16_t kTop = 7 << 11;
// The last page of the lower half counts as the kernel's.
constexpr uint64_t kKernelAddresses = 0x7fff'ffff'f000;

// Did the program end as it should, at one of the HLTs?
bool ended_well(const Case& test, const Outcome& outcome) {
  const uint64_t at = outcome.end.rip - test.start.rip;
  if (outcome.vector != kVectorGp || (outcome.end.rip & ~(kPage - 1)) != kCodePage) return false;
  return at >= test.code_bytes || test.code[at] == kHltOpcode;
}

// x87 registers by their own numbers, without TOP and tags.
void compare_physical(const Registers& native, const Registers& guest, Report& report) {
  const auto fsw_native = field<uint16_t>(native, kFxFsw);
  const auto fsw_guest = field<uint16_t>(guest, kFxFsw);
  report.value("fsw without TOP", fsw_native & ~kTop, fsw_guest & ~kTop);
  for (size_t i = 0; i < 8; ++i) {
    const size_t in_native = (i - (fsw_native >> 11)) & 7;
    const size_t in_guest = (i - (fsw_guest >> 11)) & 7;
    report.bytes("r", i, native.fx.data() + kFxSt + 16 * in_native,
                 guest.fx.data() + kFxSt + 16 * in_guest, 10);
  }
}

void compare_x87(const Registers& native, const Registers& guest, Report& report) {
  report.value("fsw", field<uint16_t>(native, kFxFsw), field<uint16_t>(guest, kFxFsw));
  report.value("tags", field<uint8_t>(native, kFxTags), field<uint8_t>(guest, kFxTags));
  for (size_t i = 0; i < 8; ++i) {
    const size_t at = kFxSt + 16 * i;
    report.bytes("st", i, native.fx.data() + at, guest.fx.data() + at, 10);
  }
}

void compare_fx(const Registers& native, const Registers& guest, Report& report) {
  for (size_t i = 0; i < 16; ++i) {
    report.bytes("ymm's upper half ", i, native.ymm_high.data() + 16 * i,
                 guest.ymm_high.data() + 16 * i, 16);
  }
  report.value("fcw", field<uint16_t>(native, kFxFcw), field<uint16_t>(guest, kFxFcw));
  for (size_t i = 0; i < 16; ++i) {
    const size_t at = kFxXmm + 16 * i;
    report.bytes("xmm", i, native.fx.data() + at, guest.fx.data() + at, 16);
  }
}

// `skip`: address of 8 bytes that are not compared.
void compare_memory(const Outcome& native, const Outcome& guest, uint64_t skip, Report& report) {
  unsigned lines = 0;
  for (size_t at = 0; at < kChangingBytes && lines < 8; at += 16) {
    const uint8_t* expected = native.memory.data() + at;
    const uint8_t* actual = guest.memory.data() + at;
    if (std::memcmp(expected, actual, 16) == 0) continue;
    const uint64_t address = at < 2 * kPage ? kData + at : kStack + at - 2 * kPage;
    bool differs = false;
    for (size_t i = 0; i < 16; ++i) {
      differs = differs || (expected[i] != actual[i] && address + i - skip >= 8);
    }
    if (!differs) continue;
    report.text += fmt::format("  [{:x}]: native {}, here {}\n", address, bytes_of(expected, 16),
                               bytes_of(actual, 16));
    ++lines;
  }
}

void compare_page_fault(const Outcome& native, const Outcome& guest, const Tolerance& tolerance,
                        Report& report) {
  const uint64_t told = tolerance.cr2_in_page ? ~(kPage - 1) : ~uint64_t{0};
  report.value("cr2", native.cr2 & told, guest.cr2 & told);
  // Linux sets P for addresses of the kernel, so as to tell nothing about them.
  const uint32_t present = native.cr2 >= kKernelAddresses ? 1 : 0;
  report.value("error code", native.error_code | present, guest.error_code | present);
}

}  // namespace

Differences compare(const Case& test, const Outcome& native, const Outcome& guest,
                    const Tolerance& tolerance) {
  Report report;
  if (native.vector == kNoVector) return {"  the host process died of it or hangs\n"};
  const bool faulted = !ended_well(test, native);
  report.value("vector", native.vector, guest.vector);
  report.value("rip", native.end.rip, guest.end.rip);
  if (native.vector == guest.vector && native.vector == kVectorPf) {
    compare_page_fault(native, guest, tolerance, report);
  } else {
    report.value("error code", native.error_code, guest.error_code);
  }
  for (size_t i = 0; i < 16; ++i) report.value(kNames[i], native.end.gpr[i], guest.end.gpr[i]);
  const uint64_t flags = kComparedFlags & ~tolerance.flags;
  report.value("rflags", native.end.rflags & flags, guest.end.rflags & flags);
  // Which flags lie beside that of an unmasked exception cannot be told without taking it.
  const uint32_t untold = tolerance.sum_flags ? 0x3fU : 0x20U;
  const uint32_t mxcsr = native.vector == kVectorXm ? ~untold : ~0U;
  report.value("mxcsr", field<uint32_t>(native.end, kFxMxcsr) & mxcsr,
               field<uint32_t>(guest.end, kFxMxcsr) & mxcsr);
  compare_fx(native.end, guest.end, report);
  if (faulted && tolerance.fpu_stack) {
    compare_physical(native.end, guest.end, report);
  } else {
    compare_x87(native.end, guest.end, report);
  }
  const bool skips = faulted && tolerance.below_stack;
  compare_memory(native, guest, skips ? native.end.gpr[4] - 8 : 0, report);
  return {report.text};
}

std::string describe(const Registers& registers) {
  std::string text;
  for (size_t i = 0; i < 16; ++i) {
    text += fmt::format("  {:>3} {:016x}{}", kNames[i], registers.gpr[i], i % 4 == 3 ? "\n" : "");
  }
  text += fmt::format("  rip {:x} rflags {:x} fcw {:x} fsw {:x} tags {:x} mxcsr {:x}\n",
                      registers.rip, registers.rflags, field<uint16_t>(registers, kFxFcw),
                      field<uint16_t>(registers, kFxFsw), field<uint8_t>(registers, kFxTags),
                      field<uint32_t>(registers, kFxMxcsr));
  for (size_t i = 0; i < 8; ++i) {
    text += fmt::format("  st{} {}", i, bytes_of(registers.fx.data() + kFxSt + 16 * i, 10));
    if (i % 4 == 3) text += "\n";
  }
  for (size_t i = 0; i < 16; ++i) {
    text += fmt::format("  xmm{} {}", i, bytes_of(registers.fx.data() + kFxXmm + 16 * i, 16));
    if (i % 2 == 1) text += "\n";
  }
  for (size_t i = 0; i < 16; ++i) {
    text += fmt::format("  ymm{}h {}", i, bytes_of(registers.ymm_high.data() + 16 * i, 16));
    if (i % 2 == 1) text += "\n";
  }
  return text;
}

}  // namespace trapeze::diff
