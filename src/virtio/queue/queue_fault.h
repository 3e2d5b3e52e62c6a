// QueueFault: how a driver broke the rules of a virtqueue. The queue stops, the device asks for a
// reset; neither the VMM nor other devices of the guest are touched.
#pragma once

#include <cstdint>
#include <string_view>

namespace trapeze {

enum class QueueFault : uint8_t {
  None,
  BadSize,             // 0, no power of two, or more than the device allows
  MisalignedRing,      // virtio 1.2 §2.7: 16, 2 and 4 bytes
  RingOutsideRam,      // a ring is not wholly inside one range of RAM
  AvailIndexTooFar,    // avail.idx claims more buffers than the ring has entries
  HeadOutOfRange,      // an available entry names no descriptor
  NextOutOfRange,      // a descriptor's next names none
  ChainTooLong,        // more descriptors than the queue has: a loop
  ChainTooManyBytes,   // 4 GiB or more in one chain (§2.7.5.2)
  BufferOutsideRam,    // a descriptor's bytes are not RAM
  WritableFirst,       // a device-readable descriptor after a writable one (§2.7.4.2)
  IndirectNotAllowed,  // not negotiated, nested, or together with NEXT (§2.7.5.3.1)
  BadIndirectTable,    // empty, not a multiple of 16 bytes, too large, or not RAM
  WrongDirection,      // no device-writable bytes in a queue that the device fills
};

constexpr std::string_view to_string(QueueFault fault) {
  switch (fault) {
    case QueueFault::None:
      return "no fault";
    case QueueFault::BadSize:
      return "bad queue size";
    case QueueFault::MisalignedRing:
      return "misaligned ring";
    case QueueFault::RingOutsideRam:
      return "ring outside of RAM";
    case QueueFault::AvailIndexTooFar:
      return "avail.idx is more than one ring ahead";
    case QueueFault::HeadOutOfRange:
      return "head index outside of the descriptor table";
    case QueueFault::NextOutOfRange:
      return "next index outside of the descriptor table";
    case QueueFault::ChainTooLong:
      return "descriptor chain too long or looping";
    case QueueFault::ChainTooManyBytes:
      return "descriptor chain of 4 GiB or more";
    case QueueFault::BufferOutsideRam:
      return "buffer outside of RAM";
    case QueueFault::WritableFirst:
      return "readable buffer after a writable one";
    case QueueFault::IndirectNotAllowed:
      return "indirect descriptor where none is allowed";
    case QueueFault::BadIndirectTable:
      return "bad indirect descriptor table";
    case QueueFault::WrongDirection:
      return "buffer that the device cannot fill";
  }
  return "unknown fault";
}

}  // namespace trapeze
