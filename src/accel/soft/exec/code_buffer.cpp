#include "accel/soft/exec/code_buffer.h"

#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"

namespace trapeze::soft {

Result<CodeBuffer> CodeBuffer::create(size_t size_bytes) {
  const Fd fd(::memfd_create("trapeze-code", MFD_CLOEXEC));
  if (fd.get() < 0) return fail_errno("cannot make a memory file for translated code");
  if (::ftruncate(fd.get(), static_cast<off_t>(size_bytes)) != 0) {
    return fail_errno("cannot size the memory file for translated code");
  }
  auto write = TRY(Mapping::create(size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0,
                                   "translated code"));
  auto exec = TRY(Mapping::create(size_bytes, PROT_READ | PROT_EXEC, MAP_SHARED, fd.get(), 0,
                                  "running translated code"));
  return CodeBuffer(std::move(write), std::move(exec));
}

}  // namespace trapeze::soft
