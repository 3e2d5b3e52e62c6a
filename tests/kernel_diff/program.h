// Program: a random kernel, as items that can be left out one by one when a failure is shrunk.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace trapeze::kernel_diff {

// One or a few instructions. The same item always gives the same instructions, wherever it lies.
struct Item {
  uint64_t seed = 0;
};

struct Program {
  uint64_t seed = 0;    // of the start state
  bool level3 = false;  // has the instructions of x86-64-v3
  bool smap = false;
  bool pcids = false;
  bool global_pages = false;  // all but the window
  std::vector<Item> items;
};

struct Image {
  std::vector<uint8_t> code;
  std::vector<uint16_t> skips;  // for each byte: the offset of the next item
};

Program random_program(uint64_t seed);
Image assemble(const Program& program);
// The seed and what is special.
std::string describe(const Program& program);
std::string disassemble(const Image& image);

}  // namespace trapeze::kernel_diff
