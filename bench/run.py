#!/usr/bin/env python3
"""Trapeze against QEMU's TCG, side by side: peer, we, peer, we, ...

    python3 bench/run.py build/trapeze [--runs 5] [--only boot,idle,programs]

Prints a table and writes every sample, with facts about the host, to build/bench.json. The status
is 0 when everything could be measured, whether the requirements are met or not.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time

import host
import process
import workloads
from machines import MEMORY_MIB, QEMU_CPU, QEMU_MACHINE, Qemu, Trapeze
from report import Figure, table

GROUPS = ("boot", "idle", "programs")
SETTLE_S, IDLE_S = 2, 10  # what the kernel does right after its boot is not idling
MEMORY_PARTS_SHOWN = 10


def progress(text):
    if sys.stderr.isatty():
        print("\r\033[K" + text, end="", file=sys.stderr, flush=True)


class Bench:
    def __init__(self, ours, peer, runs):
        self.ours, self.peer, self.runs = ours, peer, runs
        self.figures, self.errors, self.memory_parts = [], [], []

    def figure(self, *args, **options):
        self.figures.append(Figure(*args, **options))
        return self.figures[-1]

    def repeat(self, what, measure):
        """measure(machine, samples_of) for each machine in turn. What fails is noted; the rest
        goes on."""
        for i in range(self.runs):
            for machine in (self.peer, self.ours):
                progress(f"{what}: {machine.name}, {i + 1} of {self.runs}")
                samples = (lambda f: f.ours) if machine is self.ours else (lambda f: f.peer)
                try:
                    measure(machine, samples)
                except Exception as error:  # any failure of a machine is a result
                    self.errors.append(f"{what}, {machine.name}, run {i + 1}: {error}")
        progress("")

    def boot(self):
        init = self.figure("boot to init", "s", max_ratio=4)
        init_cpu = self.figure("boot to init, CPU time", "s")
        whole_cpu = self.figure("boot, echo, power-off, CPU time", "s")
        count = self.figure("guest instructions of that", "million")
        speed = self.figure("guest instructions a CPU second", "million")

        def measure(machine, samples):
            run = machine.run(["echo", "up"])
            samples(init).append(run.init_s)
            samples(init_cpu).append(run.init_cpu_s)
            samples(whole_cpu).append(run.cpu_s)
            if run.instructions:
                samples(count).append(run.instructions / 1e6)
                samples(speed).append(run.instructions / 1e6 / run.cpu_s)

        self.repeat("boot", measure)

    def idle(self):
        cpu = self.figure("idle guest", "% of a core", max_ours=1)
        beyond = self.figure("memory beyond the guest's pages", "MiB", max_ours=24)
        guest = self.figure("the guest's touched pages", "MiB")

        def measure(machine, samples):
            def observe(pid, _data):
                time.sleep(SETTLE_S)
                before, start = process.cpu_seconds(pid), time.monotonic()
                time.sleep(IDLE_S)
                used, took = process.cpu_seconds(pid) - before, time.monotonic() - start
                samples(cpu).append(100 * used / took)
                memory = process.memory(pid, MEMORY_MIB << 20)
                samples(beyond).append(memory.beyond_guest / 2**20)
                samples(guest).append(memory.guest / 2**20)
                if machine is self.ours:
                    self.memory_parts = memory.parts

            machine.run(["sh", "-c", f"echo up; sleep {SETTLE_S + IDLE_S + 3}"], on_output=observe)

        self.repeat("idle", measure)

    def programs(self):
        figures = {mark: (self.figure(name, "s"), self.figure("  CPU time", "s"))
                   for mark, name in workloads.PARTS.items()}
        stdin = workloads.make_stdin()

        def measure(machine, samples):
            watch = workloads.Stopwatch(
                lambda pid: (time.monotonic(), process.cpu_seconds(pid)))
            run = machine.run(["sh", "-c", workloads.SCRIPT], stdin=stdin, on_output=watch)
            workloads.check(run.stdout, stdin)
            for mark, times in watch.durations().items():
                for figure, seconds in zip(figures[mark], times):
                    samples(figure).append(seconds)

        self.repeat("programs", measure)


def find_kit(binary, wanted):
    """The kit to boot; made if there is none."""
    if wanted:
        return wanted
    path = subprocess.run([binary, "kit", "path"], check=True, capture_output=True,
                          text=True).stdout.strip()
    if not os.path.exists(os.path.join(path, "kit.json")):
        subprocess.run([binary, "kit", "build"], check=True, stdout=sys.stderr)
    return path


def show(bench, facts):
    loads = " ".join(f"{load:.1f}" for load in facts["load_average"])
    print(f"\n{facts['cpu']}, {facts['cores']} cores"
          f"{' (a virtual machine)' if facts['virtual_machine'] else ''}, Linux {facts['kernel']}, "
          f"load average {loads}")
    print(f"Guests with 1 vCPU and {MEMORY_MIB} MiB; median (smallest-largest) "
          f"of {bench.runs} runs each.\n")
    print(table(bench.figures))
    if facts["load_average"][0] > facts["cores"]:
        print("\nThe host was busy with other work: wall times and their ratios are doubtful.")
    if bench.memory_parts:
        print("\nMemory beyond the guest's pages, largest parts (KiB):")
        for size, name in bench.memory_parts[:MEMORY_PARTS_SHOWN]:
            print(f"{size >> 10:8}  {name}")
    for error in bench.errors:
        print(f"NOT MEASURED: {error}")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trapeze", help="the binary to measure")
    parser.add_argument("--kit", default=os.environ.get("TRAPEZE_KIT"), help="folder of the kit")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default=",".join(GROUPS), help="groups, separated by commas")
    parser.add_argument("--output", default="build/bench.json")
    options = parser.parse_args()
    groups = options.only.split(",")
    unknown = [group for group in groups if group not in GROUPS]
    if unknown or options.runs < 1:
        parser.error(f"--only takes {', '.join(GROUPS)}; --runs at least 1")
    if shutil.which("qemu-system-x86_64") is None:
        sys.exit("bench: there is no qemu-system-x86_64 to compare with (make setup installs it)")

    try:
        kit = find_kit(options.trapeze, options.kit)
        ours = Trapeze(options.trapeze, kit)
        peer = Qemu(kit, ours.kernel_arguments())
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        sys.exit(f"bench: {error}")
    bench = Bench(ours, peer, options.runs)
    before = host.facts()
    for group in groups:
        getattr(bench, group)()

    show(bench, before)
    os.makedirs(os.path.dirname(options.output) or ".", exist_ok=True)
    with open(options.output, "w", encoding="utf-8") as file:
        json.dump({
            "host": before, "load_average_after": os.getloadavg(),
            "versions": {"trapeze": ours.version(), "peer": peer.version()},
            "peer_configuration": {"machine": QEMU_MACHINE, "cpu": QEMU_CPU, "accel": "tcg",
                                   "kernel_arguments": peer.kernel_arguments},
            "guest_memory_mib": MEMORY_MIB, "runs": options.runs,
            "figures": [figure.to_json() for figure in bench.figures],
            "memory_parts": [{"bytes": size, "name": name} for size, name in bench.memory_parts],
            "errors": bench.errors,
        }, file, indent=2)
        file.write("\n")
    print(f"\nAll samples: {options.output}")
    return 1 if bench.errors else 0


if __name__ == "__main__":
    sys.exit(main())
