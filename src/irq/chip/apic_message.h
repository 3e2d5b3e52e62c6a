// ApicMessage: one interrupt message between APICs (SDM 3A 11.6, 11.11): an IPI, an I/O APIC
// message, or an MSI once its address and data are taken apart. ApicMessageSink is where the
// models send them: ApicBus for the software engine, KVM_SIGNAL_MSI with a split irqchip.
#pragma once

#include <cstdint>
#include <optional>

#include "irq/interrupt_sink.h"

namespace trapeze {

enum class DeliveryMode : uint8_t {
  Fixed = 0,
  LowestPriority = 1,
  Smi = 2,
  Reserved = 3,
  Nmi = 4,
  Init = 5,
  StartUp = 6,
  ExtInt = 7,
};

enum class Shorthand : uint8_t { None = 0, Self = 1, AllIncludingSelf = 2, AllExcludingSelf = 3 };

struct ApicMessage {
  DeliveryMode mode = DeliveryMode::Fixed;
  Shorthand shorthand = Shorthand::None;
  uint8_t vector = 0;
  bool level_triggered = false;
  bool asserted = true;          // ICR "level"; only an INIT level de-assert looks at it
  bool logical = false;          // destination mode
  bool one_target = false;       // MSI redirection hint: like LowestPriority, picks one of many
  bool wide = false;             // destination has 32 bits (x2APIC ICR), broadcast is 0xffffffff
  uint32_t destination = 0;      // 8 bits unless `wide`, broadcast is 0xff
  uint32_t source = 0xffffffff;  // APIC ID of the sender, for shorthands
  bool operator==(const ApicMessage&) const = default;
};

class ApicMessageSink {
 public:
  virtual ~ApicMessageSink() = default;
  // True when at least one local APIC took it. Any thread; must not call back into its caller.
  virtual bool send(const ApicMessage& message) = 0;
};

// SDM 3A 11.11: nullopt when the address is outside 0xfee00000..0xfeefffff.
std::optional<ApicMessage> parse_msi(const MsiMessage& msi);
// The reverse, for messages without shorthand and with an 8-bit destination (an I/O APIC's).
MsiMessage to_msi(const ApicMessage& message);

}  // namespace trapeze
