// The AML of the DSDT: what the guest cannot find by probing.
#pragma once

#include <cstdint>
#include <vector>

#include "arch/x86/acpi/tables.h"

namespace trapeze::acpi {

std::vector<uint8_t> dsdt_aml(const AcpiConfig& config);

}  // namespace trapeze::acpi
