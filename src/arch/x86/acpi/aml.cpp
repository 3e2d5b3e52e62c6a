#include "arch/x86/acpi/aml.h"

#include <algorithm>
#include <cctype>
#include <string>

#include "base/check.h"

namespace trapeze::acpi::aml {
namespace {

// Opcodes (ACPI 6.4 table 20.1 onwards).
enum : uint8_t {
  kNameOp = 0x08,
  kBytePrefix = 0x0a,
  kWordPrefix = 0x0b,
  kDwordPrefix = 0x0c,
  kStringPrefix = 0x0d,
  kQwordPrefix = 0x0e,
  kScopeOp = 0x10,
  kBufferOp = 0x11,
  kPackageOp = 0x12,
  kMethodOp = 0x14,
  kDualNamePrefix = 0x2e,
  kMultiNamePrefix = 0x2f,
  kExtOpPrefix = 0x5b,
  kRootChar = 0x5c,
  kArg0Op = 0x68,
  kOrOp = 0x7d,
  kExtDeviceOp = 0x82,
  kCreateDwordFieldOp = 0x8a,
  kLEqualOp = 0x93,
  kIfOp = 0xa0,
  kElseOp = 0xa1,
  kReturnOp = 0xa4,
};

// Resource descriptor tags (§6.4.2, §6.4.3), with the length where it is part of the tag.
enum : uint8_t {
  kIrqTag = 0x22,
  kIoTag = 0x47,
  kEndTag = 0x79,
  kMemory32FixedTag = 0x86,
  kDwordSpaceTag = 0x87,
  kWordSpaceTag = 0x88,
  kQwordSpaceTag = 0x8a,
};
enum : uint8_t { kSpaceMemory = 0, kSpaceIo = 1, kSpaceBus = 2 };
constexpr uint8_t kWindowFlags = 0x0c;   // producer, both ends fixed
constexpr uint8_t kMemoryReadWrite = 1;  // not cacheable
constexpr uint8_t kIoEntireRange = 3;

template <typename T>
void put(Bytes& to, T value) {
  for (unsigned i = 0; i < sizeof(T); ++i) {
    to.push_back(static_cast<uint8_t>(static_cast<uint64_t>(value) >> (8 * i)));
  }
}

void put(Bytes& to, const Bytes& more) { to.insert(to.end(), more.begin(), more.end()); }

Bytes joined(Terms terms) {
  Bytes all;
  for (const Bytes& term : terms) put(all, term);
  return all;
}

// PkgLength (§20.2.4) counts itself: one byte up to 63, else four bits and one to three bytes.
Bytes with_length(const Bytes& body) {
  Bytes out;
  if (body.size() + 1 < 64) {
    out.push_back(static_cast<uint8_t>(body.size() + 1));
  } else {
    unsigned extra = 1;
    while ((body.size() + 1 + extra) >> (4 + 8 * extra) != 0) ++extra;
    CHECK(extra <= 3);
    const size_t length = body.size() + 1 + extra;
    out.push_back(static_cast<uint8_t>(extra << 6 | (length & 0xf)));
    for (unsigned i = 0; i < extra; ++i) out.push_back(static_cast<uint8_t>(length >> (4 + 8 * i)));
  }
  put(out, body);
  return out;
}

Bytes block(std::initializer_list<uint8_t> opcode, const Bytes& head, Terms terms) {
  Bytes body = head;
  put(body, joined(terms));
  Bytes out(opcode);
  put(out, with_length(body));
  return out;
}

template <typename T>
Bytes window(uint8_t tag, uint8_t space, uint8_t space_flags, T first, T last) {
  Bytes fields{space, kWindowFlags, space_flags};
  put(fields, T{0});  // granularity
  put(fields, first);
  put(fields, last);
  put(fields, T{0});  // translation
  put(fields, static_cast<T>(last - first + 1));
  Bytes out{tag};
  put(out, static_cast<uint16_t>(fields.size()));
  put(out, fields);
  return out;
}

uint8_t hex_digit(char c) {
  if (c >= '0' && c <= '9') return static_cast<uint8_t>(c - '0');
  const int lower = std::tolower(static_cast<unsigned char>(c));
  CHECK(lower >= 'a' && lower <= 'f');
  return static_cast<uint8_t>(lower - 'a' + 10);
}

}  // namespace

Bytes integer(uint64_t value) {
  if (value <= 1) return {static_cast<uint8_t>(value)};  // ZeroOp, OneOp
  Bytes out;
  if (value <= 0xff) {
    out.push_back(kBytePrefix);
    put(out, static_cast<uint8_t>(value));
  } else if (value <= 0xffff) {
    out.push_back(kWordPrefix);
    put(out, static_cast<uint16_t>(value));
  } else if (value <= 0xffff'ffff) {
    out.push_back(kDwordPrefix);
    put(out, static_cast<uint32_t>(value));
  } else {
    out.push_back(kQwordPrefix);
    put(out, value);
  }
  return out;
}

Bytes string(std::string_view text) {
  Bytes out{kStringPrefix};
  for (const char c : text) out.push_back(static_cast<uint8_t>(c));  // GCC 12 warns of insert()
  out.push_back(0);
  return out;
}

Bytes buffer(std::span<const uint8_t> bytes) {
  Bytes body = integer(bytes.size());
  body.insert(body.end(), bytes.begin(), bytes.end());
  return block({kBufferOp}, body, {});
}

Bytes package(std::span<const Bytes> elements) {
  CHECK(elements.size() <= 0xff);
  Bytes body{static_cast<uint8_t>(elements.size())};
  for (const Bytes& element : elements) put(body, element);
  return block({kPackageOp}, body, {});
}

// Three letters of five bits and four hexadecimal digits, most significant byte first (§19.3.4).
Bytes eisa_id(std::string_view id) {
  CHECK(id.size() == 7);
  uint32_t value = 0;
  for (const char letter : id.substr(0, 3)) {
    CHECK(letter >= 'A' && letter <= 'Z');
    value = value << 5 | static_cast<uint32_t>(letter - 'A' + 1);
  }
  for (const char digit : id.substr(3)) value = value << 4 | hex_digit(digit);
  return integer(__builtin_bswap32(value));
}

// The first three fields are little-endian (§19.6.142, ToUUID).
Bytes uuid(std::string_view text) {
  CHECK(text.size() == 36);
  constexpr uint8_t kOrder[16] = {6, 4, 2, 0, 11, 9, 16, 14, 19, 21, 24, 26, 28, 30, 32, 34};
  Bytes bytes;
  for (const uint8_t at : kOrder) {
    bytes.push_back(static_cast<uint8_t>(hex_digit(text[at]) << 4 | hex_digit(text[at + 1U])));
  }
  return buffer(bytes);
}

Bytes argument(unsigned index) {
  CHECK(index <= 6);
  return {static_cast<uint8_t>(kArg0Op + index)};
}

Bytes path(std::string_view text) {
  Bytes out;
  if (!text.empty() && text.front() == '\\') {
    out.push_back(kRootChar);
    text.remove_prefix(1);
  }
  Bytes segments;
  unsigned count = 0;
  while (!text.empty()) {
    const std::string_view segment = text.substr(0, text.find('.'));
    CHECK(!segment.empty() && segment.size() <= 4);
    for (unsigned i = 0; i < 4; ++i) {
      segments.push_back(i < segment.size() ? static_cast<uint8_t>(segment[i]) : uint8_t{'_'});
    }
    ++count;
    text.remove_prefix(std::min(text.size(), segment.size() + 1));
  }
  CHECK(count >= 1 && count <= 0xff);
  if (count == 2) out.push_back(kDualNamePrefix);
  if (count > 2) {
    out.push_back(kMultiNamePrefix);
    out.push_back(static_cast<uint8_t>(count));
  }
  put(out, segments);
  return out;
}

Bytes name(std::string_view text, const Bytes& value) {
  Bytes out{kNameOp};
  put(out, path(text));
  put(out, value);
  return out;
}

Bytes scope(std::string_view text, Terms terms) { return block({kScopeOp}, path(text), terms); }

Bytes device(std::string_view text, Terms terms) {
  return block({kExtOpPrefix, kExtDeviceOp}, path(text), terms);
}

Bytes method(std::string_view text, unsigned arguments, Terms terms) {
  CHECK(arguments <= 7);
  Bytes head = path(text);
  // Serialized: two callers at once would create its named objects twice.
  constexpr unsigned kSerialized = 1U << 3;
  head.push_back(static_cast<uint8_t>(arguments | kSerialized));
  return block({kMethodOp}, head, terms);
}

Bytes if_equal(const Bytes& left, const Bytes& right, Terms terms) {
  Bytes predicate{kLEqualOp};
  put(predicate, left);
  put(predicate, right);
  return block({kIfOp}, predicate, terms);
}

Bytes otherwise(Terms terms) { return block({kElseOp}, {}, terms); }

Bytes give(const Bytes& value) {
  Bytes out{kReturnOp};
  put(out, value);
  return out;
}

Bytes create_dword_field(const Bytes& source, uint64_t byte_index, std::string_view text) {
  Bytes out{kCreateDwordFieldOp};
  put(out, source);
  put(out, integer(byte_index));
  put(out, path(text));
  return out;
}

Bytes or_into(std::string_view target, const Bytes& value) {
  Bytes out{kOrOp};
  put(out, path(target));
  put(out, value);
  put(out, path(target));
  return out;
}

Bytes resources(Terms descriptors) {
  Bytes all = joined(descriptors);
  all.push_back(kEndTag);
  all.push_back(0);  // checksum 0: not used
  return buffer(all);
}

Bytes io_ports(uint16_t first, uint8_t count) {
  Bytes out{kIoTag, 1};  // decodes 16 bits
  put(out, first);
  put(out, first);
  out.push_back(1);  // alignment
  out.push_back(count);
  return out;
}

Bytes irq(unsigned isa_irq) {
  CHECK(isa_irq < 16);
  Bytes out{kIrqTag};
  put(out, static_cast<uint16_t>(1U << isa_irq));
  return out;
}

Bytes memory32_fixed(uint32_t start, uint32_t size_bytes) {
  Bytes out{kMemory32FixedTag};
  put(out, uint16_t{9});
  out.push_back(kMemoryReadWrite);
  put(out, start);
  put(out, size_bytes);
  return out;
}

Bytes bus_window(uint16_t first, uint16_t last) {
  return window(kWordSpaceTag, kSpaceBus, 0, first, last);
}

Bytes io_window(uint16_t first, uint16_t last) {
  return window(kWordSpaceTag, kSpaceIo, kIoEntireRange, first, last);
}

Bytes memory_window32(uint32_t first, uint32_t last) {
  return window(kDwordSpaceTag, kSpaceMemory, kMemoryReadWrite, first, last);
}

Bytes memory_window64(uint64_t first, uint64_t last) {
  return window(kQwordSpaceTag, kSpaceMemory, kMemoryReadWrite, first, last);
}

}  // namespace trapeze::acpi::aml
