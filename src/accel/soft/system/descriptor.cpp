#include "accel/soft/system/descriptor.h"

#include "accel/soft/mmu/access.h"

namespace trapeze::soft {
namespace {

constexpr uint64_t kAccessedBit = uint64_t{1} << 40;
constexpr uint64_t kBusyBit = uint64_t{1} << 41;

}  // namespace

bool find_descriptor(const Cpu& cpu, uint16_t selector, unsigned size, uint64_t& linear) {
  const uint64_t offset = selector & 0xfff8U;
  if ((selector & 4U) != 0) {
    if (!is_usable(cpu.ldtr) || is_null_selector(cpu.ldtr.selector)) return false;
    if (offset + size - 1 > cpu.ldtr.limit) return false;
    linear = cpu.ldtr.base + offset;
  } else {
    if (offset + size - 1 > cpu.gdtr.limit) return false;
    linear = cpu.gdtr.base + offset;
  }
  if (!is_long_mode(cpu)) linear &= 0xffff'ffffU;
  return true;
}

bool read_descriptor(Cpu& cpu, uint16_t selector, uint8_t vector, Descriptor& descriptor) {
  uint64_t linear = 0;
  if (!find_descriptor(cpu, selector, 8, linear))
    return fault(cpu, vector, selector_error(selector));
  descriptor.high = 0;
  return read_system(cpu, linear, descriptor.low);
}

bool read_system_descriptor(Cpu& cpu, uint16_t selector, uint8_t vector, Descriptor& descriptor) {
  if (!is_long_mode(cpu)) return read_descriptor(cpu, selector, vector, descriptor);
  uint64_t linear = 0;
  if (!find_descriptor(cpu, selector, 16, linear))
    return fault(cpu, vector, selector_error(selector));
  return read_system(cpu, linear, descriptor.low) && read_system(cpu, linear + 8, descriptor.high);
}

bool mark_accessed(Cpu& cpu, uint16_t selector, Descriptor& descriptor) {
  if ((descriptor.low & kAccessedBit) != 0) return true;
  uint64_t linear = 0;
  if (!find_descriptor(cpu, selector, 8, linear)) return true;  // checked by read_descriptor
  descriptor.low |= kAccessedBit;
  const auto type = static_cast<uint8_t>(descriptor.low >> 40);
  return write_system(cpu, linear + 5, &type, sizeof(type));
}

bool mark_busy(Cpu& cpu, uint16_t selector, bool busy) {
  uint64_t linear = 0;
  if (!find_descriptor(cpu, selector, 8, linear)) return fault(cpu, kTS, selector_error(selector));
  uint64_t low = 0;
  if (!read_system(cpu, linear, low)) return false;
  low = busy ? low | kBusyBit : low & ~kBusyBit;
  const auto type = static_cast<uint8_t>(low >> 40);
  return write_system(cpu, linear + 5, &type, sizeof(type));
}

}  // namespace trapeze::soft
