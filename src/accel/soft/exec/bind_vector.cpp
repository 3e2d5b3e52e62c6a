#include "accel/soft/exec/dispatch.h"
#include "accel/soft/exec/vector_classes.h"

namespace trapeze::soft::exec {

Handler bind_vector(Decoded& decoded) {
  // The most frequent classes first. bind_sse_mmx comes before bind_mmx, which takes what has an
  // MMX register.
  constexpr Handler (*kClasses[])(Decoded&) = {
      bind_sse_move,   bind_sse_integer, bind_sse_float, bind_sse_immediate, bind_sse_convert,
      bind_sse_string, bind_x87,         bind_fxsave,    bind_sse_mmx,       bind_mmx,
      bind_xsave,
  };
  for (const auto bind : kClasses) {
    if (const Handler found = bind(decoded)) return found;
  }
  return nullptr;
}

}  // namespace trapeze::soft::exec
