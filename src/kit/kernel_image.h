// What a kit changes in the kernel that it takes out of a bzImage.
#pragma once

#include <cstddef>
#include <span>

namespace trapeze::kit {

// Makes the segments of a 64-bit ELF file say that the zeros at their end are not in the file: a
// third of a Linux kernel is BSS that stands in the image. Guest RAM is the file mapped, and for
// these pages fresh memory costs less than a page of the file that is copied when it is cleared.
// Whole pages only, so that the rest is still mapped. Anything but a sound ELF file is left alone.
void trim_trailing_zeros(std::span<std::byte> vmlinux);

}  // namespace trapeze::kit
