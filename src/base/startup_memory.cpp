#include "base/startup_memory.h"

#include <link.h>
#include <malloc.h>
#include <sys/mman.h>

#include "base/units.h"

namespace trapeze {
namespace {

// Segments that are never written show the file as it is, so that dropping their pages loses
// nothing. Those that are (data, and what the dynamic linker has relocated) stay.
int drop_segments(dl_phdr_info* info, size_t /*size*/, void* /*data*/) {
  for (unsigned i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr)& segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_LOAD || (segment.p_flags & PF_W) != 0) continue;
    const uint64_t start = align_down(info->dlpi_addr + segment.p_vaddr, kPageSize);
    const uint64_t end = align_up(info->dlpi_addr + segment.p_vaddr + segment.p_memsz, kPageSize);
    // Fails for the vDSO, which is no file: nothing is lost.
    ::madvise(reinterpret_cast<void*>(start), end - start, MADV_DONTNEED);
  }
  return 0;
}

}  // namespace

void release_startup_memory() {
  ::malloc_trim(0);
  ::dl_iterate_phdr(drop_segments, nullptr);
}

}  // namespace trapeze
