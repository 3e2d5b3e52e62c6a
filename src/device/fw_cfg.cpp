#include "device/fw_cfg.h"

namespace trapeze {
namespace {

// Keys (QEMU docs/specs/fw_cfg). An item is at most 8 bytes here; what follows reads 0.
constexpr uint16_t kKeySignature = 0x00;
constexpr uint16_t kKeyInterface = 0x01;
constexpr uint16_t kKeyRamSize = 0x03;
constexpr uint16_t kKeyVcpus = 0x05;
constexpr uint16_t kKeyMaxVcpus = 0x0f;

constexpr uint64_t kSignature = 0x554d4551;  // "QEMU"
constexpr uint64_t kTraditionalInterface = 1;

}  // namespace

uint64_t FwCfg::item(uint16_t key) const {
  switch (key) {
    case kKeySignature:
      return kSignature;
    case kKeyInterface:
      return kTraditionalInterface;
    case kKeyRamSize:
      return config_.ram_size_bytes;
    case kKeyVcpus:
    case kKeyMaxVcpus:
      return config_.vcpus;
    default:
      return 0;  // among them the file directory: no files
  }
}

uint8_t FwCfg::next_byte() {
  if (state_.offset >= 8) return 0;
  return static_cast<uint8_t>(item(state_.selected) >> (8 * state_.offset++));
}

uint64_t FwCfg::read(uint64_t offset, Width width) {
  if (offset != 1 || width != Width::Byte) return all_ones(width);
  const std::lock_guard lock(mutex_);
  return next_byte();
}

void FwCfg::write(uint64_t offset, Width width, uint64_t value) {
  if (offset != 0 || width != Width::Word) return;
  const std::lock_guard lock(mutex_);
  state_ = {.selected = static_cast<uint16_t>(value), .offset = 0};
}

FwCfgState FwCfg::save() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

void FwCfg::restore(const FwCfgState& state) {
  const std::lock_guard lock(mutex_);
  state_ = state;
}

}  // namespace trapeze
