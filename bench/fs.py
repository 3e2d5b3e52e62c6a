#!/usr/bin/env python3
"""Shared folders: Trapeze against QEMU with virtiofsd, side by side: peer, we, peer, we, ...

    python3 bench/fs.py build/trapeze [--rounds 3] [--files 10000] [--accel soft|kvm]

Each gives one guest of the kit a folder of the host by virtio-fs. What the guest does there is
tests/guest/programs/fs_load.cpp. virtiofsd runs as QEMU's packages have it, with its defaults; it
needs root. Prints a table and writes every sample to build/bench-fs.json. At the end: the command
`true` with the host's folders as root against the bare boot. docs/benchmarks.md says more.
"""

import contextlib
import os
import shutil
import statistics
import subprocess
import tempfile
import time

import guests
import pairs

HERE = os.path.dirname(os.path.abspath(__file__))
VIRTIOFSD = ["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"]
ROWS = {
    "create": "create a file",
    "stat": "stat a file, cold",
    "unlink": "unlink a file",
    "tree": "walk of a source tree, cold",
    "warm": "the same again, warm",
    "read": "sequential read, 1 MiB",
    "write": "sequential write, 1 MiB, fsync",
}
MOUNT = ("mount | grep -q ' /s ' || "
         "{ modprobe virtiofs; mkdir /s; mount -t virtiofs share0 /s; }")


def add_options(parser):
    parser.add_argument("--starts", type=int, default=7, help="runs of `true`")
    parser.add_argument("--files", type=int, default=10000)
    parser.add_argument("--data-mib", type=int, default=128)
    parser.add_argument("--tree", default=os.path.join(HERE, "../src"), help="which is copied, five times")
    parser.add_argument("--folder", help="where the shared folder is made (default: TMPDIR)")
    parser.add_argument("--virtiofsd", default=next(filter(os.path.exists, VIRTIOFSD), None))
    parser.add_argument("--virtiofsd-option", action="append", default=[], metavar="--OPTION=VALUE")


def make_folder(folder, options):
    """A source tree, our own so often that there are some thousand files, and data without holes."""
    for i in range(5):
        shutil.copytree(options.tree, os.path.join(folder, "tree", str(i)))
    with open(os.path.join(folder, "data"), "wb") as file:
        for _ in range(options.data_mib):
            file.write(os.urandom(1 << 20))
    return folder


@contextlib.contextmanager
def virtiofsd(options, folder):
    path = os.path.join(tempfile.mkdtemp(prefix="trapeze-virtiofsd-"), "socket")
    with subprocess.Popen(
            [options.virtiofsd, f"--socket-path={path}", "-o", f"source={folder}",
             *options.virtiofsd_option], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 10
            while not os.path.exists(path):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("virtiofsd did not start")
                time.sleep(0.02)
            yield process.pid, path
        finally:
            process.terminate()
            shutil.rmtree(os.path.dirname(path))


def qemu_devices(options, path):
    return ["-object", f"memory-backend-memfd,id=mem,size={options.memory}M,share=on",
            "-numa", "node,memdev=mem", "-chardev", f"socket,id=fs,path={path}",
            "-device", "vhost-user-fs-pci,chardev=fs,tag=share0,queue-size=1024"]


def measure_start(options, root):
    command = [options.trapeze, "run", "--kit", options.kit, "--accel", options.accel,
               *options.trapeze_option, *root, "--", "true"]
    start = time.monotonic()
    subprocess.run(command, check=True, timeout=guests.LIMIT_S)
    return (time.monotonic() - start) * 1000


def measure_starts(options):
    starts = {"bare": [], "rootfs": []}
    for _ in range(options.starts):
        starts["bare"].append(measure_start(options, []))
        starts["rootfs"].append(measure_start(options, ["--rootfs", "/"]))
    return starts


def main():
    options = pairs.parse(__doc__, "fs", "fs_load", add_options)
    names = pairs.chosen(options, ROWS)
    samples = pairs.Samples()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="trapeze-bench-", dir=options.folder))
        folders = [make_folder(os.path.join(folder, name), options) for name in ("ours", "peers")]
        ours = stack.enter_context(guests.trapeze(options, ["--share", f"{folders[0]}:/s"]))
        machines = [ours]
        if options.virtiofsd and not options.no_qemu:
            daemon, path = stack.enter_context(virtiofsd(options, folders[1]))
            machines.insert(0, stack.enter_context(guests.qemu(
                options, guests.kernel_arguments(ours), qemu_devices(options, path), [daemon])))
        for machine in machines:
            machine.tell(MOUNT)
        samples.measure(names, lambda row, _: f"/tmp/load /s {options.files} {row}", machines, options.rounds)
    starts = measure_starts(options)
    pairs.report(options, samples, {row: ROWS[row] for row in names},
                 {"starts_ms": starts, "virtiofsd_options": options.virtiofsd_option})
    if options.starts:
        bare, root = (statistics.median(starts[name]) for name in ("bare", "rootfs"))
        print(f"\n`true`: bare boot {bare:.0f} ms, --rootfs / {root:.0f} ms: {root / bare:.2f} times")


if __name__ == "__main__":
    main()
