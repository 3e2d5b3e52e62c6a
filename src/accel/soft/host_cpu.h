// What a CPU model needs of the host's CPU.
#pragma once

#include <string>

#include "arch/x86/cpuid/cpu_model.h"

namespace trapeze::soft {

// The features of the model whose instructions are run by the host's own, and that the host lacks
// (or its kernel does not switch on), as "avx2, bmi2"; empty: the model runs here.
std::string missing_host_features(const CpuModel& model);

}  // namespace trapeze::soft
