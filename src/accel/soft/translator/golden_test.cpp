// The code that is emitted, against golden.txt: a worse translation shows in review. After a change
// that is meant, TRAPEZE_UPDATE_GOLDEN=1 writes the file anew.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "accel/soft/testing/machine.h"

namespace trapeze::soft {
namespace {

struct Snippet {
  const char* text;
  std::vector<uint8_t> bytes;
};

const Snippet kSnippets[] = {
    {"add rax, rbx", {0x48, 0x01, 0xd8}},
    {"add ecx, r9d", {0x44, 0x01, 0xc9}},
    {"add r10, rax", {0x49, 0x01, 0xc2}},
    {"mov r9, r11", {0x4d, 0x89, 0xd9}},
    {"mov r11d, ecx", {0x41, 0x89, 0xcb}},
    {"mov al, ch", {0x88, 0xe8}},
    {"shl rdx, cl", {0x48, 0xd3, 0xe2}},
    {"lea rax, [rbx+rcx*4+8]", {0x48, 0x8d, 0x44, 0x8b, 0x08}},
    {"lea r9, [r10+rax]", {0x4d, 0x8d, 0x0c, 0x02}},
    {"mov rax, [rbx]", {0x48, 0x8b, 0x03}},
    {"mov rax, [rbx+8]", {0x48, 0x8b, 0x43, 0x08}},
    {"mov eax, [rbx+rcx*4]", {0x8b, 0x04, 0x8b}},
    {"mov rax, [r9+16]", {0x49, 0x8b, 0x41, 0x10}},
    {"mov r9, [rbx]", {0x4c, 0x8b, 0x0b}},
    {"mov rax, [rip+0x1000]", {0x48, 0x8b, 0x05, 0x00, 0x10, 0x00, 0x00}},
    {"mov rax, fs:[0]", {0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0}},
    {"mov [rbx+8], rax", {0x48, 0x89, 0x43, 0x08}},
    {"mov byte [rsi], 1", {0xc6, 0x06, 0x01}},
    {"add [rdi], rax", {0x48, 0x01, 0x07}},
    {"lock xadd [rdi], rax", {0xf0, 0x48, 0x0f, 0xc1, 0x07}},
    {"mov rax, [rbx]; mov rdx, [rbx+24]", {0x48, 0x8b, 0x03, 0x48, 0x8b, 0x53, 0x18}},
    {"push rbx", {0x53}},
    {"push rbp; push rbx; sub rsp, 8", {0x55, 0x53, 0x48, 0x83, 0xec, 0x08}},
    {"pop rbx; pop rbp; ret", {0x5b, 0x5d, 0xc3}},
    {"call +0", {0xe8, 0, 0, 0, 0}},
    {"call rax", {0xff, 0xd0}},
    {"call [rbx+8]", {0xff, 0x53, 0x08}},
    {"jmp rax", {0xff, 0xe0}},
    {"ret", {0xc3}},
    {"cmp eax, 1; jz +16", {0x83, 0xf8, 0x01, 0x74, 0x10}},
    {"dec eax; jnz back", {0xff, 0xc8, 0x75, 0xfc}},
    {"movaps xmm0, [rbx]", {0x0f, 0x28, 0x03}},
    {"movups xmm0, [rbx+4]", {0x0f, 0x10, 0x43, 0x04}},
    {"addsd xmm1, xmm2", {0xf2, 0x0f, 0x58, 0xca}},
    {"bts [rbx], rax", {0x48, 0x0f, 0xab, 0x03}},
    {"cmpxchg16b [rsi]", {0x48, 0x0f, 0xc7, 0x0e}},
    {"pushfq", {0x9c}},
    {"cli", {0xfa}},
    {"swapgs", {0x0f, 0x01, 0xf8}},
    {"mov eax, ss", {0x8c, 0xd0}},
    {"cpuid", {0x0f, 0xa2}},
};

std::string emit(const Snippet& snippet) {
  TestMachine machine;
  machine.use_translator();
  std::vector<uint8_t> bytes = snippet.bytes;
  bytes.insert(bytes.end(), {0xeb, 0x00});  // a jump ends the translation
  machine.code(std::span(bytes));
  machine.translate_here();
  const std::string text = machine.emitted_code();
  const size_t begin = text.find('\n') + 1;
  return text.substr(begin, text.find("code for", begin) - begin);
}

TEST(Golden, emitted_code_is_as_before) {
  std::string now;
  for (const Snippet& snippet : kSnippets)
    now += std::string("== ") + snippet.text + "\n" + emit(snippet);
  if (std::getenv("TRAPEZE_UPDATE_GOLDEN") != nullptr) {
    std::ofstream(TRAPEZE_GOLDEN_FILE) << now;
    GTEST_SKIP() << "written: " << TRAPEZE_GOLDEN_FILE;
  }
  std::ifstream file(TRAPEZE_GOLDEN_FILE);
  std::stringstream before;
  before << file.rdbuf();
  std::istringstream old_lines(before.str()), new_lines(now);
  std::string snippet, old_line, new_line;
  while (std::getline(new_lines, new_line)) {
    if (new_line.starts_with("==")) snippet = new_line;
    ASSERT_TRUE(std::getline(old_lines, old_line)) << "golden.txt ends at " << snippet;
    ASSERT_EQ(new_line, old_line) << snippet;
  }
  EXPECT_FALSE(std::getline(old_lines, old_line)) << "golden.txt goes on: " << old_line;
}

}  // namespace
}  // namespace trapeze::soft
