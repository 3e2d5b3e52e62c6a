#include "accel/soft/exec/dispatch.h"
#include "accel/soft/exec/vector_classes.h"

namespace trapeze::soft::exec {

Handler bind_vector(Decoded& decoded) {
  if (const Handler run = bind_sse_move(decoded)) return run;
  if (const Handler run = bind_sse_integer(decoded)) return run;
  if (const Handler run = bind_fxsave(decoded)) return run;
  return nullptr;
}

}  // namespace trapeze::soft::exec
