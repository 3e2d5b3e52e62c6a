#!/usr/bin/env python3
"""Shared folders: Trapeze against QEMU's TCG with virtiofsd, side by side: peer, we, peer, we, ...

    python3 bench/fs.py build/trapeze [--runs 3] [--files 10000]

Both give one guest of the kit the same folder of the host by virtio-fs. What the guest does there is
tests/guest/programs/fs_load.cpp. virtiofsd runs as QEMU's packages have it, with its defaults; it
needs root. Prints a table and writes every sample to build/bench-fs.json. At the end: the command
`true` with the host's folders as root against the bare boot. docs/benchmarks.md says more.
"""

import argparse
import contextlib
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import host
from machines import MEMORY_MIB, QEMU_CPU, QEMU_MACHINE, Trapeze
from process import cpu_seconds
from run import find_kit

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../tests/guest"))
import agent_peer  # noqa: E402

VIRTIOFSD = ["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"]
LIMIT_S = 600
DATA_MIB = 128
ROWS = {
    "create": "create a file",
    "stat": "stat a file, cold",
    "unlink": "unlink a file",
    "tree": "walk of a source tree, cold",
    "warm": "the same again, warm",
    "read": "sequential read, 1 MiB",
    "write": "sequential write, 1 MiB, fsync",
}
SCRIPT = ("mount | grep -q ' /s ' || {{ modprobe virtiofs; mkdir /s; mount -t virtiofs share0 /s; }}; "
          "cat > /tmp/load && chmod +x /tmp/load && exec /tmp/load /s {} {}")


class Watch:
    """Reads the program's lines as they come, with the CPU time of the machine's processes."""

    def __init__(self, pids):
        self.pids, self.rest, self.begin_cpu, self.samples = pids, b"", 0.0, {}

    def cpu(self):
        return sum(cpu_seconds(pid) for pid in self.pids())

    def __call__(self, data):
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            word, row, *numbers = line.decode().split()
            if word == "begin":
                self.begin_cpu = self.cpu()
            elif word == "end":
                operations, took_ns = map(int, numbers)
                self.samples[row] = {"operations_s": operations / (took_ns / 1e9),
                                     "cpu_us": (self.cpu() - self.begin_cpu) * 1e6 / operations}


def children_of(pid):
    found = []
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        for child in file.read().split():
            found += [int(child), *children_of(int(child))]
    return found


def measure_trapeze(options, folder, program, script):
    command = [options.trapeze, "run", "--kit", options.kit, "--memory", f"{MEMORY_MIB}M",
               "--accel", "soft", "--share", f"{folder}:/s", "--timeout", str(LIMIT_S),
               *options.trapeze_option, "--", "sh", "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        watch = Watch(lambda: [process.pid])
        process.stdin.write(program)
        process.stdin.close()
        while data := os.read(process.stdout.fileno(), 65536):
            watch(data)
    if process.returncode != 0:
        raise RuntimeError(f"trapeze ended with status {process.returncode}")
    return watch.samples


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
            yield process, path
        finally:
            process.terminate()
            shutil.rmtree(os.path.dirname(path))


def measure_qemu(options, folder, program, script):
    with virtiofsd(options, folder) as (daemon, path):
        peer = agent_peer.Peer(
            options.kit, memory=f"{MEMORY_MIB}M", machine=QEMU_MACHINE, cpu_model=QEMU_CPU,
            kernel_arguments=options.kernel_arguments,
            devices=["-object", f"memory-backend-memfd,id=mem,size={MEMORY_MIB}M,share=on",
                     "-numa", "node,memdev=mem", "-chardev", f"socket,id=fs,path={path}",
                     "-device", "vhost-user-fs-pci,chardev=fs,tag=share0,queue-size=1024"])
        watch = Watch(lambda: [peer.process.pid, daemon.pid, *children_of(daemon.pid)])
        try:
            peer.wait_ready()
            outcome = peer.run_command(["sh", "-c", script], stdin=program, timeout=LIMIT_S,
                                       on_output=lambda _, data: watch(data))
        finally:
            peer.close()
    if outcome.status != 0:
        raise RuntimeError(f"qemu: status {outcome.status}: {outcome.stderr.decode()}")
    return watch.samples


def measure_start(options, root):
    command = [options.trapeze, "run", "--kit", options.kit, "--accel", "soft",
               *options.trapeze_option, *root, "--", "true"]
    start = time.monotonic()
    subprocess.run(command, check=True, timeout=LIMIT_S)
    return (time.monotonic() - start) * 1000


def ratio_text(ratio):
    return f"{ratio:8.2f}" if ratio else "       -"


def show(samples, starts, facts, runs):
    loads = " ".join(f"{load:.1f}" for load in facts["load_average"])
    print(f"\n{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}, load average {loads}; "
          f"medians of {runs} runs\n")
    print(f"{'':32}{'trapeze':>12}{'qemu tcg':>12}{'ratio':>9}   "
          f"{'CPU us/op':>10}{'qemu':>10}{'ratio':>9}")
    ratios = []
    for row, name in ROWS.items():
        medians = {}
        for machine in ("trapeze", "qemu"):
            for key in ("operations_s", "cpu_us"):
                values = [sample[row][key] for sample in samples[machine] if row in sample]
                medians[machine, key] = statistics.median(values) if values else 0
        ours, peer = medians["trapeze", "operations_s"], medians["qemu", "operations_s"]
        our_cpu, peer_cpu = medians["trapeze", "cpu_us"], medians["qemu", "cpu_us"]
        ratio = ours / peer if peer else 0
        ratios.append(ratio)
        print(f"{name:32}{ours:10.0f}/s{peer:10.0f}/s {ratio_text(ratio)}   {our_cpu:10.1f}"
              f"{peer_cpu:10.1f} {ratio_text(our_cpu / peer_cpu if peer_cpu else 0)}")
    if all(ratios):
        mean = math.exp(statistics.fmean(map(math.log, ratios)))
        print(f"\ngeometric mean of the speed ratios (higher is better): {mean:.2f}; "
              f"smallest: {min(ratios):.2f}")
    bare, root = (statistics.median(starts[name]) for name in ("bare", "rootfs"))
    print(f"\n`true`: bare boot {bare:.0f} ms, --rootfs / {root:.0f} ms: {root / bare:.2f} times")


def make_folder(folder):
    """A source tree, our own so often that there are some thousand files, and data without holes."""
    for i in range(5):
        shutil.copytree(os.path.join(HERE, "..", "src"), os.path.join(folder, "tree", str(i)))
    with open(os.path.join(folder, "data"), "wb") as file:
        for _ in range(DATA_MIB):
            file.write(os.urandom(1 << 20))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trapeze", help="the binary to measure")
    parser.add_argument("--kit", default=os.environ.get("TRAPEZE_KIT"), help="folder of the kit")
    parser.add_argument("--program", default="build/tests/guest/fs_load")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--starts", type=int, default=7, help="runs of `true`")
    parser.add_argument("--files", type=int, default=10000)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--folder", help="where the shared folder is made (default: TMPDIR)")
    parser.add_argument("--virtiofsd", default=next(filter(os.path.exists, VIRTIOFSD), None))
    parser.add_argument("--virtiofsd-option", action="append", default=[], metavar="--OPTION=VALUE")
    parser.add_argument("--trapeze-option", action="append", default=[], metavar="--OPTION=VALUE")
    parser.add_argument("--output", default="build/bench-fs.json")
    options = parser.parse_args()
    options.kit = find_kit(options.trapeze, options.kit)
    options.kernel_arguments = Trapeze(options.trapeze, options.kit).kernel_arguments()
    with open(options.program, "rb") as file:
        program = file.read()
    script = SCRIPT.format(options.files, options.rows.replace(",", " "))
    samples, starts = {"trapeze": [], "qemu": []}, {"bare": [], "rootfs": []}
    facts = host.facts()
    with tempfile.TemporaryDirectory(prefix="trapeze-bench-", dir=options.folder) as folder:
        make_folder(folder)
        for _ in range(options.runs):
            if options.virtiofsd:
                samples["qemu"].append(measure_qemu(options, folder, program, script))
            samples["trapeze"].append(measure_trapeze(options, folder, program, script))
    for _ in range(options.starts):
        starts["bare"].append(measure_start(options, []))
        starts["rootfs"].append(measure_start(options, ["--rootfs", "/"]))
    show(samples, starts, facts, options.runs)
    os.makedirs(os.path.dirname(options.output) or ".", exist_ok=True)
    with open(options.output, "w", encoding="utf-8") as file:
        json.dump({"host": facts, "rows": ROWS, "samples": samples, "starts_ms": starts,
                   "virtiofsd_options": options.virtiofsd_option,
                   "trapeze_options": options.trapeze_option}, file, indent=2)
        file.write("\n")


if __name__ == "__main__":
    main()
