#include "irq/chip/apic_message.h"

namespace trapeze {

// SDM 3A 11.11.1: address 0xfee in bits 31:20, destination ID 19:12, redirection hint 3,
// destination mode 2; 11.11.2: data: trigger mode 15, level 14, delivery mode 10:8, vector 7:0.
static constexpr uint64_t kMsiBase = 0xfee0'0000;
static constexpr uint64_t kMsiBaseMask = ~uint64_t{0xf'ffff};

std::optional<ApicMessage> parse_msi(const MsiMessage& msi) {
  if ((msi.address & kMsiBaseMask) != kMsiBase) return std::nullopt;
  ApicMessage message;
  message.destination = static_cast<uint32_t>(msi.address >> 12) & 0xffU;
  message.one_target = (msi.address & (1U << 3)) != 0;
  message.logical = (msi.address & (1U << 2)) != 0;
  message.vector = static_cast<uint8_t>(msi.data);
  message.mode = static_cast<DeliveryMode>((msi.data >> 8) & 7U);
  message.level_triggered = (msi.data & (1U << 15)) != 0;
  message.asserted = (msi.data & (1U << 14)) != 0;
  return message;
}

MsiMessage to_msi(const ApicMessage& message) {
  MsiMessage msi;
  msi.address = kMsiBase | uint64_t{message.destination & 0xffU} << 12;
  if (message.one_target) msi.address |= 1U << 3;
  if (message.logical) msi.address |= 1U << 2;
  msi.data = message.vector | static_cast<uint32_t>(message.mode) << 8;
  if (message.level_triggered) msi.data |= 1U << 15;
  if (message.asserted) msi.data |= 1U << 14;
  return msi;
}

}  // namespace trapeze
