#!/usr/bin/env python3
"""Disks: Trapeze against QEMU's TCG, side by side on the same image: peer, we, peer, we, ...

    python3 bench/block.py build/trapeze [--runs 3] [--seconds 2]

Both give one guest of the kit one virtio-blk disk on the same raw file, which lies in the host's
page cache: what is measured is the way to it, not the host's storage. The guest reads and writes
past its own cache (tests/guest/programs/disk_load.cpp). Prints a table and writes every sample to
build/bench-block.json. docs/benchmarks.md says more.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile

import host
from machines import MEMORY_MIB, QEMU_CPU, QEMU_MACHINE, Trapeze
from process import cpu_seconds
from run import find_kit

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/guest"))
import agent_peer  # noqa: E402

IMAGE_MIB = 256
LIMIT_S = 300
ROWS = {
    "read,rand,4096,1": "random read, 4 KiB, depth 1",
    "read,rand,4096,32": "random read, 4 KiB, depth 32",
    "write,rand,4096,1": "random write, 4 KiB, depth 1",
    "write,rand,4096,32": "random write, 4 KiB, depth 32",
    "read,seq,1048576,4": "sequential read, 1 MiB, depth 4",
    "write,seq,1048576,4": "sequential write, 1 MiB, depth 4",
}
SCRIPT = "cat > /tmp/load && chmod +x /tmp/load && exec /tmp/load /dev/vda {} {}"


class Watch:
    """Reads the program's lines as they come, with the machine's CPU time at each."""

    def __init__(self):
        self.rest, self.begin_cpu, self.samples = b"", 0.0, {}

    def __call__(self, pid, data):
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            word, row, *numbers = line.decode().split()
            if word == "begin":
                self.begin_cpu = cpu_seconds(pid)
            elif word == "end":
                operations, took_ns = map(int, numbers)
                self.samples[row] = {
                    "operations_s": operations / (took_ns / 1e9),
                    "cpu_us": (cpu_seconds(pid) - self.begin_cpu) * 1e6 / operations}


def measure_trapeze(options, image, program, script):
    watch = Watch()
    command = [options.trapeze, "run", "--kit", options.kit, "--memory", f"{MEMORY_MIB}M",
               "--disk", image, "--timeout", str(LIMIT_S), *options.trapeze_option, "--",
               "sh", "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(program)
        process.stdin.close()
        while data := os.read(process.stdout.fileno(), 65536):
            watch(process.pid, data)
    if process.returncode != 0:
        raise RuntimeError(f"trapeze ended with status {process.returncode}")
    return watch.samples


def measure_qemu(options, image, program, script):
    watch = Watch()
    peer = agent_peer.Peer(
        options.kit, memory=f"{MEMORY_MIB}M", machine=QEMU_MACHINE, cpu_model=QEMU_CPU,
        kernel_arguments=options.kernel_arguments,
        devices=["-object", "iothread,id=io", "-drive",
                 f"if=none,id=disk,format=raw,file={image},cache=writeback,aio={options.qemu_aio}",
                 "-device", "virtio-blk-pci,drive=disk,iothread=io"])
    try:
        peer.wait_ready()
        outcome = peer.run_command(["sh", "-c", script], stdin=program, timeout=LIMIT_S,
                                   on_output=lambda p, data: watch(p.process.pid, data))
    finally:
        peer.close()
    if outcome.status != 0:
        raise RuntimeError(f"qemu: status {outcome.status}: {outcome.stderr.decode()}")
    return watch.samples


def ratio_text(ratio):
    return f"{ratio:8.2f}" if ratio else "       -"


def show(samples, facts, runs):
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


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trapeze", help="the binary to measure")
    parser.add_argument("--kit", default=os.environ.get("TRAPEZE_KIT"), help="folder of the kit")
    parser.add_argument("--program", default="build/tests/guest/disk_load")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2, help="for each row")
    parser.add_argument("--qemu-aio", default="io_uring", help="io_uring, threads or native")
    parser.add_argument("--trapeze-option", action="append", default=[], metavar="--OPTION=VALUE")
    parser.add_argument("--output", default="build/bench-block.json")
    options = parser.parse_args()
    options.kit = find_kit(options.trapeze, options.kit)
    options.kernel_arguments = Trapeze(options.trapeze, options.kit).kernel_arguments()
    with open(options.program, "rb") as file:
        program = file.read()
    script = SCRIPT.format(options.seconds, " ".join(ROWS))
    samples, facts = {"trapeze": [], "qemu": []}, host.facts()
    with tempfile.TemporaryDirectory(prefix="trapeze-bench-") as folder:
        image = os.path.join(folder, "disk.img")
        with open(image, "wb") as file:  # no holes: they would be read for nothing
            for _ in range(IMAGE_MIB):
                file.write(os.urandom(1 << 20))
        for _ in range(options.runs):
            samples["qemu"].append(measure_qemu(options, image, program, script))
            samples["trapeze"].append(measure_trapeze(options, image, program, script))
    show(samples, facts, options.runs)
    os.makedirs(os.path.dirname(options.output) or ".", exist_ok=True)
    with open(options.output, "w", encoding="utf-8") as file:
        json.dump({"host": facts, "rows": ROWS, "samples": samples,
                   "qemu_aio": options.qemu_aio, "trapeze_options": options.trapeze_option},
                  file, indent=2)
        file.write("\n")


if __name__ == "__main__":
    main()
