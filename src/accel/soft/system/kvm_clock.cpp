#include "accel/soft/system/kvm_clock.h"

#include <atomic>

#include "accel/soft/core/env.h"
#include "accel/soft/system/msr.h"
#include "base/fence.h"
#include "memory/guest_memory.h"

namespace trapeze::soft {
namespace {

// Layouts from Linux' asm/pvclock-abi.h.
struct VcpuTimeInfo {
  uint32_t version = 0;  // odd while an update is under way
  uint32_t pad0 = 0;
  uint64_t tsc_timestamp = 0;
  uint64_t system_time = 0;
  uint32_t tsc_to_system_mul = 0;
  int8_t tsc_shift = 0;
  uint8_t flags = 0;
  uint8_t pad[2] = {};
};
static_assert(sizeof(VcpuTimeInfo) == 32);

struct WallClock {
  uint32_t version = 0;
  uint32_t sec = 0;
  uint32_t nsec = 0;
};
static_assert(sizeof(WallClock) == 12);

constexpr uint8_t kTscStable = 1U << 0;
constexpr uint64_t kEnable = 1;
constexpr uint64_t kNsPerS = 1'000'000'000;

// Nanoseconds since a TSC that nobody moved was 0.
uint64_t tsc_base(const Cpu& cpu) { return cpu.env->clock->monotonic_ns() - cpu.env->tsc_zero_ns; }

// The version protocol: odd, then the data, then even, each visible in that order. Readers are
// other vCPUs' threads and this one; x86 keeps stores in order, the fences keep the compiler.
template <typename T>
void publish(GuestMemory& memory, Gpa gpa, T info) {
  const auto seen = memory.load<uint32_t>(gpa);
  if (!seen) return;  // no RAM there: the guest's own fault, nothing to tell
  info.version = (*seen & ~1U) + 1;
  if (!memory.store(gpa, info.version)) return;
  store_fence();
  if (!memory.store(gpa, info)) return;
  store_fence();
  memory.store(gpa, info.version + 1);
}

}  // namespace

void update_kvm_clock(Cpu& cpu) {
  if ((cpu.kvm_system_time & kEnable) == 0) return;
  VcpuTimeInfo info;
  const uint64_t base = tsc_base(cpu);
  info.system_time = base + cpu.env->kvm_clock_offset_ns;
  info.tsc_timestamp = base + cpu.tsc_offset;
  // 1 GHz: (delta << 1) * 2^31 >> 32 = delta, exactly.
  info.tsc_to_system_mul = 0x8000'0000U;
  info.tsc_shift = 1;
  // "Stable" promises one TSC for all vCPUs; a guest that moved this one has broken that.
  info.flags = cpu.tsc_offset == 0 ? kTscStable : 0;
  publish(*cpu.env->memory, Gpa(cpu.kvm_system_time & ~kEnable), info);
}

void write_kvm_wall_clock(Cpu& cpu) {
  const uint64_t boot_ns =
      cpu.env->clock->realtime_ns() - tsc_base(cpu) - cpu.env->kvm_clock_offset_ns;
  WallClock wall;
  wall.sec = static_cast<uint32_t>(boot_ns / kNsPerS);
  wall.nsec = static_cast<uint32_t>(boot_ns % kNsPerS);
  publish(*cpu.env->memory, Gpa(cpu.kvm_wall_clock), wall);
}

}  // namespace trapeze::soft
