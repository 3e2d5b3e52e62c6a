#!/usr/bin/env python3
"""Trapeze against QEMU's TCG and the host itself, row by row: native, we, peer, native, we, ...

    python3 bench/run.py build/trapeze [--runs 5] [--only boot,gzip,pipe] [--executor interpreter]

Prints tables, writes every sample, with facts about the host, to build/bench.json, and draws the
rows beside it, in build/bench.svg. The status is 0 when everything could be measured, whether the
requirements are met or not.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import chart
import host
import process
import rows
import workloads
from machines import MEMORY_MIB, QEMU_CPU, QEMU_MACHINE, Native, Qemu, Trapeze
from report import Figure, table
from turns import Turns

GROUPS = ("rows", "boot", "parallel", "idle", "programs")
BY_DEFAULT = ("rows", "boot", "parallel", "idle")
SETTLE_S, IDLE_S = 2, 10  # what the kernel does right after its boot is not idling
MEMORY_PARTS_SHOWN = 10


def progress(text):
    if sys.stderr.isatty():
        print("\r\033[K" + text, end="", file=sys.stderr, flush=True)


class Bench:
    def __init__(self, ours, peer, program, runs, wanted_rows):
        self.ours, self.peer, self.program, self.runs = ours, peer, program, runs
        self.figures, self.errors, self.memory_parts = [], [], []
        self.row_figures = [rows.RowFigure(name) for name in wanted_rows]
        self.disturbances = {}  # by group: how much others used of a core, in each measurement

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

    def quietly(self, what, measure):
        result, share = host.quietest(measure)
        self.disturbances.setdefault(what, []).append(share)
        return result

    def in_guest(self, machine, orders, cpus=1):
        """What the orders to the program give in a fresh guest, into which it comes by stdin."""
        with open(self.program, "rb") as file:
            program = file.read()
        dialogue = rows.Dialogue(orders, read_clocks)
        machine.run(["sh", "-c", f"head -c {len(program)} >/tmp/bench; chmod +x /tmp/bench; "
                     "exec /tmp/bench serve"],
                    stdin=program, on_output=dialogue, stays_open=True, cpus=cpus)
        return dialogue.samples

    def on_host(self, orders):
        dialogue = rows.Dialogue(orders, read_clocks)
        Native.run([os.path.abspath(self.program), "serve"], dialogue)
        return dialogue.samples

    def rows(self):
        for i in range(self.runs):
            progress(f"rows: {i + 1} of {self.runs}")
            host.wait_until_quiet()
            machines = (Native, self.ours, self.peer)
            turns = Turns(machine.name for machine in machines)
            threads = [threading.Thread(target=self.rows_of, args=(machine, turns, i))
                       for machine in machines]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self.disturbances["rows"] = [sample.others for figure in self.row_figures
                                     for samples in figure.samples.values() for sample in samples]
        for figure in self.row_figures:
            if len(figure.checksums) > 1:
                self.errors.append(f"{figure.name}: the checksums differ: {figure.checksums}")
        progress("")

    def rows_of(self, machine, turns, i):
        """A thread: one machine of those that measure each row in turn."""
        names = [figure.name for figure in self.row_figures]
        turn = turns.of(machine.name)
        try:
            samples = (self.on_host(rows.script(names, rows.own_cpu, turn=turn))
                       if machine is Native
                       else self.in_guest(machine, rows.script(names, rows.machine_cpu, turn=turn)))
            for figure in self.row_figures:
                figure.samples[machine.name] += samples[figure.name]
        except Exception as error:  # any failure of a machine is a result
            self.errors.append(f"rows, {machine.name}, run {i + 1}: {error}")
        finally:
            turns.leave(machine.name)

    def parallel(self):
        """Two threads' work on one vCPU and on two: the only row by wall time."""
        single = self.figure("parallel job, 1 vCPU", "ns")
        double = self.figure("parallel job, 2 vCPUs", "ns")
        share = self.figure("2 vCPUs' time of 1's", "", max_ours=0.6)

        def measure(machine, samples):
            times = []
            for cpus, figure in ((1, single), (2, double)):
                found = self.quietly("parallel", lambda: self.in_guest(
                    machine, rows.script([rows.PARALLEL], rows.machine_cpu, rows.wall,
                                         enough_s=1.0), cpus))
                times.append(rows.median_ns(found[rows.PARALLEL]))
                samples(figure).append(times[-1])
            samples(share).append(times[1] / times[0])

        self.repeat("parallel", measure)

    def boot(self):
        init = self.figure("boot to init", "s", max_ratio=0.5)
        init_cpu = self.figure("boot to init, CPU time", "s")
        whole_cpu = self.figure("boot, echo, power-off, CPU time", "s")
        count = self.figure("guest instructions of that", "million")
        speed = self.figure("guest instructions a CPU second", "million")

        def measure(machine, samples):
            run = self.quietly("boot", lambda: machine.run(["echo", "up"]))
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


def read_clocks(pid):
    return rows.Clocks(time.monotonic(), process.cpu_seconds(pid), host.busy_seconds())


def find_kit(binary, wanted):
    """The kit to boot; made by this binary, for an older one's init would be the peer's."""
    if wanted:
        return wanted
    return subprocess.run([binary, "kit", "build"], check=True, stdout=subprocess.PIPE,
                          text=True).stdout.strip()


def show(bench, groups, facts):
    loads = " ".join(f"{load:.1f}" for load in facts["load_average"])
    print(f"\n{facts['cpu']}, {facts['cores']} cores"
          f"{' (a virtual machine)' if facts['virtual_machine'] else ''}, Linux {facts['kernel']}, "
          f"load average {loads}")
    print(f"Guests with 1 vCPU and {MEMORY_MIB} MiB; median (smallest-largest) "
          f"of {bench.runs} runs each (of rows: {rows.ROUNDS} rounds a run; ratios: of a round's "
          f"pairs).\n")
    if "rows" in groups:
        print(rows.table(bench.row_figures) + "\n")
        for wanted, found, is_met in rows.requirements(bench.row_figures):
            print(f"{'met' if is_met else 'NOT MET'}: {wanted} ({found})")
        print()
    if bench.figures:
        print(table(bench.figures))
    for what, shares in bench.disturbances.items():
        disturbed = [share for share in shares if share > rows.QUIET_SHARE]
        if disturbed:
            print(f"\n{what}: in {len(disturbed)} of {len(shares)} measurements others used more "
                  f"than {rows.QUIET_SHARE:g} of a core, up to {max(shares):.2f}.")
    if facts["load_average"][0] > facts["cores"]:
        print("\nThe host was busy with other work: wall times and their ratios are doubtful.")
    if bench.memory_parts:
        print("\nMemory beyond the guest's pages, largest parts (KiB):")
        for size, name in bench.memory_parts[:MEMORY_PARTS_SHOWN]:
            print(f"{size >> 10:8}  {name}")
    for error in bench.errors:
        print(f"NOT MEASURED: {error}")


def chosen(only):
    """Groups and rows of what stands behind --only; None when there is something unknown."""
    wanted = only.split(",")
    if any(name not in GROUPS and name not in rows.ROWS for name in wanted):
        return None
    single = [name for name in rows.ROWS if name in wanted]
    groups = [group for group in GROUPS if group in wanted or (group == "rows" and single)]
    return groups, list(rows.ROWS) if "rows" in wanted else single


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trapeze", help="the binary to measure")
    parser.add_argument("--kit", default=os.environ.get("TRAPEZE_KIT"), help="folder of the kit")
    parser.add_argument("--program", help="the guest program (default: as built beside trapeze)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default=",".join(BY_DEFAULT),
                        help=f"of {', '.join(GROUPS)}, or rows: {', '.join(rows.ROWS)}")
    parser.add_argument("--executor", choices=("interpreter", "translator"),
                        help="what trapeze is told by --soft-exec (default: nothing)")
    parser.add_argument("--output", default="build/bench.json",
                        help="the samples; the chart goes beside it, as .svg")
    options = parser.parse_args()
    options.chosen = chosen(options.only)
    if options.chosen is None or options.runs < 1:
        parser.error(f"--only takes {', '.join(GROUPS)} and {', '.join(rows.ROWS)}; "
                     "--runs at least 1")
    if options.program is None:
        options.program = os.path.join(os.path.dirname(options.trapeze), "guest/bench/bench")
    return options


def write_json(options, bench, facts):
    os.makedirs(os.path.dirname(options.output) or ".", exist_ok=True)
    with open(options.output, "w", encoding="utf-8") as file:
        json.dump({
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "host": facts, "load_average_after": os.getloadavg(),
            "versions": {"trapeze": bench.ours.version(), "peer": bench.peer.version()},
            "trapeze_options": bench.ours.options,
            "peer_configuration": {"machine": QEMU_MACHINE, "cpu": QEMU_CPU, "accel": "tcg",
                                   "kernel_arguments": bench.peer.kernel_arguments},
            "guest_memory_mib": MEMORY_MIB, "runs": options.runs,
            "rows": [figure.to_json() for figure in bench.row_figures],
            "means": [{"name": what, "trapeze_to_native": ours, "tcg_to_native": peer,
                       "tcg_to_trapeze": ratio}
                      for what, ours, peer, ratio in rows.means(bench.row_figures)],
            "requirements": [{"required": wanted, "found": found, "met": is_met} for
                             wanted, found, is_met in rows.requirements(bench.row_figures)],
            "figures": [figure.to_json() for figure in bench.figures],
            "others_share_of_a_core": bench.disturbances,
            "memory_parts": [{"bytes": size, "name": name} for size, name in bench.memory_parts],
            "errors": bench.errors,
        }, file, indent=1)
        file.write("\n")
    print(f"\nAll samples: {options.output}")


def write_chart(options, bench, facts):
    path = os.path.splitext(options.output)[0] + ".svg"
    subtitle = (f"CPU time, the same static program; medians of {bench.runs} paired runs; "
                f"{facts['cpu']}, {time.strftime('%Y-%m-%d', time.gmtime())}")
    with open(path, "w", encoding="utf-8") as file:
        file.write(chart.draw(bench.row_figures, rows.means(bench.row_figures), subtitle))
    print(f"Chart: {path}")


def main():
    options = parse_options()
    groups, names = options.chosen
    if shutil.which("qemu-system-x86_64") is None:
        sys.exit("bench: there is no qemu-system-x86_64 to compare with (make setup installs it)")
    try:
        kit = find_kit(options.trapeze, options.kit)
        ours = Trapeze(options.trapeze, kit, options.executor)
        peer = Qemu(kit, ours.kernel_arguments())
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        sys.exit(f"bench: {error}")
    bench = Bench(ours, peer, options.program, options.runs, names)
    before = host.facts()
    for group in groups:
        getattr(bench, group)()

    show(bench, groups, before)
    write_json(options, bench, before)
    if names:
        write_chart(options, bench, before)
    return 1 if bench.errors else 0


if __name__ == "__main__":
    sys.exit(main())
