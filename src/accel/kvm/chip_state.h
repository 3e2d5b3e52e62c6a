// Between KVM's structures for its 8259s, I/O APIC and 8254 and those of irq/chip: pure functions,
// so that every rule has a unit test. No kvm_* struct leaves accel/kvm.
#pragma once

#include <linux/kvm.h>

#include "irq/chip/irq_chips.h"

namespace trapeze::kvm {

// `is_primary`: its input 2 is the other chip, which the canonical state does not have as a wire.
Pic8259State from_kvm(const kvm_pic_state& chip, bool is_primary);
// `current` is KVM's own answer, for what is fixed there. The primary's input 0 is the 8254, which
// KVM pulses: were the wire high, the first pulse would be no edge, and KVM waits for its EOI
// before it sends another.
kvm_pic_state to_kvm(const Pic8259State& chip, const kvm_pic_state& current, bool is_primary);

// KVM says which pins ask and have not been served: an edge that has been delivered is no asserted
// pin any more.
IoApicState from_kvm(const kvm_ioapic_state& chip);
kvm_ioapic_state to_kvm(const IoApicState& chip);

// KVM tells the phase of channels 1 and 2 only, and takes none: channel 0 begins its count anew, so
// that a period is up to twice as long once, and a one-shot that has fired fires again.
PitState from_kvm(const kvm_pit_state2& pit, uint64_t now_ns);
kvm_pit_state2 to_kvm(const PitState& pit);

}  // namespace trapeze::kvm
