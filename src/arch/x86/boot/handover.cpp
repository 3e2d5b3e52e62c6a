#include "arch/x86/boot/handover.h"

#include <array>
#include <vector>

#include "base/bytes.h"
#include "base/check.h"

namespace trapeze::boot {
namespace {

// 16-bit: push ax; mov al, 0x20; out 0x20, al; pop ax; iret -- the tick's handler acknowledges it.
constexpr std::array<uint8_t, 7> kTickHandler = {0x50, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf};
constexpr uint64_t kIretOffset = kTickHandler.size() - 1;  // all other vectors: its last byte
constexpr uint64_t kCodeOffset = 16;
constexpr uint8_t kTickVector = 8;

struct PortWrite {
  uint8_t port;
  uint8_t value;
};
// 8259s: ICW1 to ICW4 with vectors 8 and 0x70, then masks with only IRQ 0 open; 8254: channel 0 in
// mode 2 with the largest divisor.
constexpr PortWrite kPortWrites[] = {
    {0x20, 0x11}, {0xa0, 0x11}, {0x21, kTickVector}, {0xa1, 0x70}, {0x21, 0x04},
    {0xa1, 0x02}, {0x21, 0x01}, {0xa1, 0x01},        {0x21, 0xfe}, {0xa1, 0xff},
    {0x43, 0x34}, {0x40, 0x00}, {0x40, 0x00},
};

void put32(std::vector<uint8_t>& code, uint32_t value) {
  for (unsigned shift = 0; shift < 32; shift += 8) {
    code.push_back(static_cast<uint8_t>(value >> shift));
  }
}

}  // namespace

Gpa write_handover(Gpa at, uint32_t entry, uint32_t eax, GuestMemory& memory) {
  std::vector<uint8_t> bytes(kTickHandler.begin(), kTickHandler.end());
  bytes.resize(kCodeOffset, 0x90);
  for (const PortWrite& write : kPortWrites) {
    bytes.insert(bytes.end(),
                 {0xb0, write.value, 0xe6, write.port});  // mov al, value; out port, al
  }
  bytes.push_back(0xb8);  // mov eax, imm32
  put32(bytes, eax);
  bytes.push_back(0xb9);  // mov ecx, imm32
  put32(bytes, entry);
  bytes.insert(bytes.end(), {0xff, 0xe1});  // jmp ecx
  CHECK(bytes.size() <= kHandoverBytes && at.raw() + kHandoverBytes <= 0x10000);

  std::array<uint32_t, 256> vectors;
  vectors.fill(static_cast<uint32_t>(at.raw() + kIretOffset));
  vectors[kTickVector] = static_cast<uint32_t>(at.raw());
  const bool in_ram = memory.write(Gpa{0}, std::as_bytes(std::span(vectors))) &&
                      memory.write(at, std::as_bytes(std::span(bytes)));
  CHECK(in_ram);  // claimed
  return at + kCodeOffset;
}

}  // namespace trapeze::boot
