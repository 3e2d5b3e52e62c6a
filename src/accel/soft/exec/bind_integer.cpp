// bind_integer: asks each class of integer instructions for a handler.
#include "accel/soft/exec/operand.h"

namespace trapeze::soft::exec {

Handler bind_integer(Decoded& decoded) {
  // The most frequent classes first.
  constexpr Handler (*kClasses[])(Decoded&) = {bind_mov,    bind_alu,       bind_branch, bind_stack,
                                               bind_shift,  bind_condition, bind_string, bind_bit,
                                               bind_muldiv, bind_cmpxchg,   bind_misc,   bind_bcd};
  for (const auto bind : kClasses) {
    if (const Handler found = bind(decoded)) return found;
  }
  return nullptr;
}

}  // namespace trapeze::soft::exec
