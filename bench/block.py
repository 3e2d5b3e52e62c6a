#!/usr/bin/env python3
"""Disks: Trapeze against QEMU, side by side: peer, we, peer, we, ...

    python3 bench/block.py build/trapeze [--rounds 3] [--seconds 2] [--accel soft|kvm]

Each gives one guest of the kit one virtio-blk disk on a raw file of its own, which lies in the host's
page cache: what is measured is the way to it, not the host's storage. The guests read and write
past their own caches (tests/guest/programs/disk_load.cpp). Prints a table and writes every sample to
build/bench-block.json. docs/benchmarks.md says more.
"""

import contextlib
import os
import tempfile

import guests
import pairs

# As disk_load takes them, with colons: --rows has commas between them.
ROWS = {
    "read:rand:4096:1": "random read, 4 KiB, depth 1",
    "read:rand:4096:32": "random read, 4 KiB, depth 32",
    "write:rand:4096:1": "random write, 4 KiB, depth 1",
    "write:rand:4096:32": "random write, 4 KiB, depth 32",
    "read:seq:1048576:4": "sequential read, 1 MiB, depth 4",
    "write:seq:1048576:4": "sequential write, 1 MiB, depth 4",
}


def add_options(parser):
    parser.add_argument("--seconds", type=float, default=2, help="for each row")
    parser.add_argument("--image-mib", type=int, default=256)
    parser.add_argument("--folder", help="where the images are made (default: TMPDIR)")
    parser.add_argument("--qemu-aio", default="io_uring", help="io_uring, threads or native")


def make_image(path, mib):
    with open(path, "wb") as file:  # no holes: they would be read for nothing
        for _ in range(mib):
            file.write(os.urandom(1 << 20))
    return path


def qemu_devices(options, image):
    return ["-object", "iothread,id=io", "-drive",
            f"if=none,id=disk,format=raw,file={image},cache=writeback,aio={options.qemu_aio}",
            "-device", "virtio-blk-pci,drive=disk,iothread=io"]


def main():
    options = pairs.parse(__doc__, "block", "disk_load", add_options)
    names = pairs.chosen(options, ROWS)
    samples = pairs.Samples()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="trapeze-bench-", dir=options.folder))
        images = [make_image(os.path.join(folder, name), options.image_mib) for name in ("ours", "peers")]
        ours = stack.enter_context(guests.trapeze(options, ["--disk", images[0]]))
        machines = [ours]
        if not options.no_qemu:
            machines.insert(0, stack.enter_context(guests.qemu(
                options, guests.kernel_arguments(ours), qemu_devices(options, images[1]))))
        samples.measure(names, lambda row, _: f"/tmp/load /dev/vda {options.seconds} {row.replace(':', ',')}", machines,
                        options.rounds)
    pairs.report(options, samples, {row: ROWS[row] for row in names}, {"qemu_aio": options.qemu_aio})


if __name__ == "__main__":
    main()
