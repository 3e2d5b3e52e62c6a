"""The rows of the guest program (guest/bench): what they are called, how the program is driven, and
what their samples amount to."""

import contextlib
import math
import statistics
from dataclasses import dataclass, field

# name in the program: (what it is shown as; one operation, is it a compute row)
ROWS = {
    "alu": ("integer ALU, iteration", True),
    "calls": ("direct call (recursion)", True),
    "indirect": ("indirect call", True),
    "random": ("random memory, 32 MiB, line", True),
    "rmw": ("read-modify-write, 8 bytes", True),
    "memcpy": ("memcpy, 1 MiB", True),
    "movsb": ("rep movsb, 1 MiB", True),
    "sha256": ("SHA-256, 1 KiB", True),
    "sse-int": ("SSE2 integer, 16 bytes", True),
    "sse-fp": ("SSE2 floating point, iteration", True),
    "scalar-fp": ("scalar floating point, iteration", True),
    "gzip": ("gzip -9, 1 KiB", True),
    "x87": ("x87 floating point, iteration", True),
    "getpid": ("getpid", False),
    "pipe": ("pipe, two processes, round trip", False),
    "fork": ("fork, wait", False),
    "exec": ("fork, exec, wait", False),
    "fault": ("page fault (with its mmap)", False),
    "mmap": ("mmap, munmap", False),
    "switch": ("switch between threads", False),
}
# Beside those that the means and what is required of them are about.
EXTRAS = ("x87",)
PARALLEL = "parallel"  # the program's row for several vCPUs: wall time, so not one of the table

ENOUGH_S = 0.1   # a measurement at least, and
GOAL_S = 0.15    # what is aimed at
MAX_GROWTH = 1000
ROUNDS = 5       # of measurements of a row, in which the machines alternate
QUIET_SHARE = 0.2   # of one core; /proc/stat counts in 10 ms, so that much is noise


def next_units(units, used_s, goal_s=GOAL_S):
    """How many to try when `units` took too short a time."""
    wanted = units * goal_s / max(used_s, 1e-6)
    return max(2 * units, math.ceil(min(wanted, units * MAX_GROWTH)))


@dataclass
class Sample:
    ns: float       # per operation
    operations: int
    checksum: str
    others: float = 0.0  # what others used meanwhile, as a share of one core


@dataclass
class Clocks:
    """What is read at a moment, in seconds."""

    wall: float
    cpu: float   # of the machine's process
    busy: float  # of the whole host


def own_cpu(answer, _before, _after):
    """On the host: the program's own, with its children's."""
    return int(answer[4]) / 1e6


def machine_cpu(_answer, before, after):
    """Of a guest: what its machine's process used."""
    return after.cpu - before.cpu


def wall(_answer, before, after):
    return after.wall - before.wall


def script(names, cpu, time=None, enough_s=ENOUGH_S, turn=None):
    """Yields orders and is sent (fields of the answer, clocks before it, clocks after it); returns
    the samples, ROUNDS of each row, of CPU time as `cpu` finds it, or of `time`. Each measurement
    has a turn of its own: the clock of a shared machine changes from second to second, so what is
    compared must lie close together."""
    turn, samples = turn or contextlib.nullcontext(), {}
    for name in names:
        with turn:
            yield f"prepare {name}"
            units = yield from find_units(time or cpu, enough_s)
        samples[name] = []
        for _ in range(ROUNDS):
            with turn:
                samples[name].append((yield from measured(units, cpu, time or cpu)))
        with turn:
            yield "finish"
    return samples


def find_units(time, enough_s):
    """How many units take long enough; the tries warm caches of code."""
    units, tries = 1, 0
    while True:
        used_s = time(*(yield f"run {units}"))
        tries += 1
        if used_s >= enough_s and tries > 1:
            return units
        units = next_units(units, used_s, goal_s=enough_s * GOAL_S / ENOUGH_S)


def measured(units, cpu, time):
    answer, before, after = yield f"run {units}"
    others_s = after.busy - before.busy - cpu(answer, before, after)
    _, _, operations, checksum, _ = answer
    return Sample(time(answer, before, after) * 1e9 / int(operations), int(operations), checksum,
                  max(0.0, others_s) / (after.wall - before.wall))


class Dialogue:
    """Drives `bench serve` by its lines. The clocks are read when an answer is there and before the
    next order goes out. In between the program waits, so what is read is the cost of the work
    alone, whoever else the machine is shared with, and a clock inside the guest does not matter."""

    def __init__(self, orders, clocks):
        self.orders, self.clocks = orders, clocks
        self.tail, self.before, self.samples = b"", None, None

    def __call__(self, pid, data):
        now = self.clocks(pid)
        self.tail += data
        if b"\n" not in self.tail:
            return b""
        line, self.tail = self.tail.split(b"\n", 1)
        answer = line.decode().split()
        if answer[:1] == ["failed"]:
            raise RuntimeError(line.decode())
        try:
            order = (next(self.orders) if answer == ["serving"]
                     else self.orders.send((answer, self.before, now)))
        except StopIteration as end:
            self.samples, order = end.value, "quit"
        self.before = self.clocks(pid)
        return order.encode() + b"\n"


MACHINES = ("native", "trapeze", "qemu tcg")


def median_ns(samples):
    return statistics.median(sample.ns for sample in samples) if samples else None


@dataclass
class RowFigure:
    name: str
    samples: dict = field(default_factory=lambda: {machine: [] for machine in MACHINES})

    @property
    def label(self):
        return ROWS[self.name][0]

    @property
    def is_compute(self):
        return ROWS[self.name][1]

    def median(self, machine):
        return median_ns(self.samples[machine])

    def ratio(self, machine, to):
        """How many times slower `machine` is than `to`: the median over the pairs of one round."""
        pairs = list(zip(self.samples[machine], self.samples[to]))
        return statistics.median(above.ns / below.ns for above, below in pairs) if pairs else None

    @property
    def checksums(self):
        return {sample.checksum for samples in self.samples.values() for sample in samples}

    def to_json(self):
        return {"name": self.name, "label": self.label, "compute": self.is_compute,
                "ns_per_operation": {machine: [sample.ns for sample in samples]
                                     for machine, samples in self.samples.items()},
                "median_ns": {machine: self.median(machine) for machine in MACHINES},
                "trapeze_to_native": self.ratio("trapeze", "native"),
                "tcg_to_native": self.ratio("qemu tcg", "native"),
                "tcg_to_trapeze": self.ratio("qemu tcg", "trapeze"),
                "others_share_of_a_core": {machine: [round(sample.others, 2) for sample in samples]
                                           for machine, samples in self.samples.items()},
                "checksums": sorted(self.checksums)}


def geometric_mean(ratios):
    """None unless all are there: a mean of some rows is not that of all."""
    if not ratios or any(ratio is None for ratio in ratios):
        return None
    return math.exp(statistics.fmean(math.log(ratio) for ratio in ratios))


def means(figures):
    """(what, trapeze to native, TCG to native, TCG to trapeze): all rows but the extras, and the compute
    rows."""
    figures = [figure for figure in figures if figure.name not in EXTRAS]
    result = []
    for what, chosen in (("all rows", figures),
                         ("compute rows", [figure for figure in figures if figure.is_compute])):
        pairs = (("trapeze", "native"), ("qemu tcg", "native"), ("qemu tcg", "trapeze"))
        result.append((f"geometric mean, {what}",
                       *(geometric_mean([figure.ratio(*pair) for figure in chosen])
                         for pair in pairs)))
    return result


def requirements(figures):
    """(what is required, what was found, is it met), once all rows have been measured."""
    (_, _, _, every), (_, compute, _, _) = means(figures)
    if len(figures) < len(ROWS) or every is None:
        return []
    slower = [figure.name for figure in figures if figure.ratio("qemu tcg", "trapeze") < 1]
    return [("no row slower than TCG", ", ".join(slower) or "none is", not slower),
            ("TCG's time at least 4 times ours, geometric mean", show_ratio(every), every >= 4),
            ("compute rows at most 2.0 times native, geometric mean", show_ratio(compute),
             compute <= 2)]


def show_ns(ns):
    if ns is None:
        return "-"
    return f"{ns:,.0f}" if ns >= 1000 else f"{ns:.3g}"


def show_ratio(ratio):
    if ratio is None:
        return "-"
    return f"{ratio:.0f}" if ratio >= 100 else f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2f}"


HEADER = ("ns of CPU time for one", "native", "trapeze", "qemu tcg", "trapeze/native",
          "tcg/native", "tcg/trapeze")


def lines(figures):
    """The table's cells, header first."""
    result = [HEADER]
    for figure in figures:
        result.append((figure.label, *(show_ns(figure.median(machine)) for machine in MACHINES),
                       show_ratio(figure.ratio("trapeze", "native")),
                       show_ratio(figure.ratio("qemu tcg", "native")),
                       show_ratio(figure.ratio("qemu tcg", "trapeze"))))
    for what, *ratios in means(figures):
        result.append((what, "", "", "", *map(show_ratio, ratios)))
    return result


def table(figures):
    rows = lines(figures)
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    return "\n".join("  ".join([row[0].ljust(widths[0])] + [
        cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]).rstrip() for row in rows)


def markdown(figures):
    """The same for docs/benchmarks.md."""
    head, *rest = lines(figures)
    return "\n".join("| " + " | ".join(row) + " |"
                     for row in [head, ("---",) + ("---:",) * (len(head) - 1), *rest])
