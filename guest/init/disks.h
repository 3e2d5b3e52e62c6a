// Disks of the guest: their driver, the root file system that the host names on the kernel's
// command line, and file systems left in order at power-off.
#pragma once

namespace trapeze::guest {

// Loads the drivers of the virtio devices that are there: disks and sockets.
void load_device_drivers();

// With "trapeze.root=DEVICE:TYPE:MODE" on the kernel's command line: mounts that file system, moves
// /proc, /sys and /dev there and makes it this process's root. MODE is rw, ro, or layer (read-only,
// with a layer in memory for what is written). False, with a complaint, when that cannot be done.
bool enter_root();

// Mounts the virtio-fs of that tag at an absolute path, whose folders are made as needed. 0, or an
// errno value.
int mount_share(const char* tag, const char* path, bool is_read_only);

// Whether something the guest has written may be in its memory alone, and sync() worth the wait:
// what it wrote to shared folders is with the host already, and waiting for the host's storage is
// for those who ask.
bool has_storage();

// Ends all other processes and makes the file systems on disks read-only: what a clean shutdown
// does, so that the next mount finds nothing to repair.
void settle_disks();

}  // namespace trapeze::guest
