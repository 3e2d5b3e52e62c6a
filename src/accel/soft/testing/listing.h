// Emitted code as text that is the same in every run: state and tables by name, jumps by distance.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "accel/soft/core/translator_state.h"

namespace trapeze::soft {

// One instruction a line. Jumps out of `code` lead to "cold".
std::string list_code(std::span<const std::byte> code, const TranslatorTables& tables);

}  // namespace trapeze::soft
