// A small AML encoder (ACPI 6.4 chapter 20): functions from terms to their bytes, nested as the ASL
// would be. Wrong names or sizes are bugs of the caller (CHECK).
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string_view>
#include <vector>

namespace trapeze::acpi::aml {

using Bytes = std::vector<uint8_t>;
using Terms = std::initializer_list<Bytes>;

// Data.
Bytes integer(uint64_t value);
Bytes string(std::string_view text);  // ASCII
Bytes buffer(std::span<const uint8_t> bytes);
Bytes package(std::span<const Bytes> elements);
Bytes eisa_id(std::string_view id);  // "PNP0A08"
Bytes uuid(std::string_view text);   // "33db4d5b-1ff7-401c-9657-7441c03dd766"
Bytes argument(unsigned index);      // Arg0 to Arg6

// Names: "_HID", "\\_SB", "\\_SB.PCI0". Segments may be shorter than four characters.
Bytes path(std::string_view text);
Bytes name(std::string_view text, const Bytes& value);
Bytes scope(std::string_view text, Terms terms);
Bytes device(std::string_view text, Terms terms);
Bytes method(std::string_view text, unsigned arguments, Terms terms);

// Statements and operators.
Bytes if_equal(const Bytes& left, const Bytes& right, Terms terms);
Bytes otherwise(Terms terms);
Bytes give(const Bytes& value);  // Return
Bytes create_dword_field(const Bytes& source, uint64_t byte_index, std::string_view text);
Bytes or_into(std::string_view target, const Bytes& value);  // target |= value

// Resource descriptors (§6.4), and the buffer that holds a list of them.
Bytes resources(Terms descriptors);
Bytes io_ports(uint16_t first, uint8_t count);
Bytes irq(unsigned isa_irq);  // edge-triggered, active high, not shared
Bytes memory32_fixed(uint32_t start, uint32_t size_bytes);
// Windows that a host bridge passes on.
Bytes bus_window(uint16_t first, uint16_t last);
Bytes io_window(uint16_t first, uint16_t last);
Bytes memory_window32(uint32_t first, uint32_t last);
Bytes memory_window64(uint64_t first, uint64_t last);

}  // namespace trapeze::acpi::aml
