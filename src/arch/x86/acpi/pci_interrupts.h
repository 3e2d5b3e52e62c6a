// Which GSI a pin of a PCI slot is wired to. The DSDT's _PRT announces it, bus/pci drives it.
#pragma once

#include "arch/x86/layout.h"
#include "base/strong.h"

namespace trapeze {

// Four wires for the bus; they rotate with the slot, so that neighbours do not share one. `pin` 0
// is INTA#.
constexpr Gsi pci_intx_gsi(unsigned slot, unsigned pin) {
  return Gsi{layout::kPciIntxBase.raw() + (slot + pin) % 4};
}

}  // namespace trapeze
