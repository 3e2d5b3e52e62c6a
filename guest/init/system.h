// What a freshly booted kernel lacks: file systems, modules, a host name, the loopback interface;
// and the way out. Failures are told on the console and are not fatal unless said otherwise.
#pragma once

#include <cstddef>
#include <span>

namespace trapeze::guest {

void mount_file_systems();
// Loads what /lib/modules/<release>/trapeze.boot lists, one path a line, in that order. No such
// file: the kernel is another one than the kit's, its drivers have to be built in.
void load_boot_modules();
void set_up_network();  // host name and loopback
void credit_entropy(std::span<const unsigned char> seed);

// One line on the console, "init: <what>: <errno text>"; os_error 0 leaves the reason out.
void complain(const char* what, int os_error);
[[noreturn]] void power_off();

}  // namespace trapeze::guest
