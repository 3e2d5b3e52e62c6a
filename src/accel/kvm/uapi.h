// Tables of the KVM interface that end in an array. <linux/kvm.h> declares those by a macro that
// holds an empty struct, which has a size in C++ and none in C: there the structures, and so the
// ioctl numbers made from their sizes, are wrong (seen with the headers of Linux 6.1). Private to
// accel/kvm.
#pragma once

#include <linux/kvm.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

namespace trapeze::kvm {

// A 32-bit count, 32 bits more, and the entries, as kvm_cpuid2, kvm_msrs and kvm_irq_routing.
template <typename Entry>
class KvmTable {
 public:
  struct Header {
    uint32_t count = 0;
    uint32_t other = 0;
  };
  static_assert(sizeof(Header) == 8);

  explicit KvmTable(size_t capacity) : bytes_(sizeof(Header) + capacity * sizeof(Entry)) {
    header()->count = static_cast<uint32_t>(capacity);
  }
  explicit KvmTable(std::span<const Entry> entries) : KvmTable(entries.size()) {
    if (!entries.empty()) {
      std::memcpy(bytes_.data() + sizeof(Header), entries.data(), entries.size_bytes());
    }
  }
  Header* header() { return reinterpret_cast<Header*>(bytes_.data()); }
  // As many as the kernel says, and as there is room for.
  std::span<const Entry> entries() {
    const size_t room = (bytes_.size() - sizeof(Header)) / sizeof(Entry);
    return {reinterpret_cast<const Entry*>(bytes_.data() + sizeof(Header)),
            std::min<size_t>(header()->count, room)};
  }

 private:
  std::vector<std::byte> bytes_;
};

using CpuidTable = KvmTable<kvm_cpuid_entry2>;
using MsrTable = KvmTable<kvm_msr_entry>;
using RoutingTable = KvmTable<kvm_irq_routing_entry>;

inline constexpr size_t kXsaveBytes = 4096;  // kvm_xsave without its open end
struct XsaveRegion {
  std::byte bytes[kXsaveBytes];
};
struct MsrListHeader {
  uint32_t count;
};

inline constexpr unsigned long kGetSupportedCpuid = _IOWR(KVMIO, 0x05, CpuidTable::Header);
inline constexpr unsigned long kSetCpuid2 = _IOW(KVMIO, 0x90, CpuidTable::Header);
inline constexpr unsigned long kGetMsrIndexList = _IOWR(KVMIO, 0x02, MsrListHeader);
inline constexpr unsigned long kGetMsrs = _IOWR(KVMIO, 0x88, MsrTable::Header);
inline constexpr unsigned long kSetMsrs = _IOW(KVMIO, 0x89, MsrTable::Header);
inline constexpr unsigned long kSetGsiRouting = _IOW(KVMIO, 0x6a, RoutingTable::Header);
inline constexpr unsigned long kGetXsave = _IOR(KVMIO, 0xa4, XsaveRegion);
inline constexpr unsigned long kSetXsave = _IOW(KVMIO, 0xa5, XsaveRegion);
inline constexpr unsigned long kGetXsave2 = _IOR(KVMIO, 0xcf, XsaveRegion);

}  // namespace trapeze::kvm
