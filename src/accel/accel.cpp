#include "accel/accel.h"

namespace trapeze {

Result<void> check_tsc_speed(uint32_t saved_khz, uint32_t here_khz) {
  // A host measures its TSC anew at each boot; Linux' own tolerance for a guest
  // (kvm.tsc_tolerance_ppm).
  constexpr uint64_t kTolerancePpm = 250;
  if (saved_khz == 0 || here_khz == 0) return {};
  const uint64_t difference =
      saved_khz > here_khz ? uint64_t{saved_khz} - here_khz : uint64_t{here_khz} - saved_khz;
  if (difference * 1'000'000 <= kTolerancePpm * saved_khz) return {};
  return fail(
      "VM state: the guest's TSC runs at {} kHz, here it would at {} kHz: its clock would go wrong",
      saved_khz, here_khz);
}

}  // namespace trapeze
