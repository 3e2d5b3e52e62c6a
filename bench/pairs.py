"""What the benchmarks of devices have in common: their options, the rounds in which Trapeze and QEMU alternate from
row to row, the table and the file of samples."""

import argparse
import json
import math
import os
import statistics

import guests
import host
from run import find_kit


def parse(doc, name, program, add_more=None):
    """Options of the command line; `program` runs in the guests, `.program` has its bytes."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trapeze", help="the binary to measure")
    parser.add_argument("--kit", default=os.environ.get("TRAPEZE_KIT"),
                        help="folder of the kit; made by this binary, for its init is QEMU's too")
    parser.add_argument("--program", dest="program_path", default=f"build/tests/guest/{program}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", help="names, comma-separated; all unless told")
    parser.add_argument("--no-qemu", action="store_true")
    parser.add_argument("--output", default=f"build/bench-{name}.json")
    guests.add_options(parser)
    if add_more:
        add_more(parser)
    options = parser.parse_args()
    options.kit = find_kit(options.trapeze, options.kit)
    with open(options.program_path, "rb") as file:
        options.program = file.read()
    return options


def chosen(options, rows):
    """The rows that were asked for, in the order of `rows`."""
    wanted = options.rows.split(",") if options.rows else list(rows)
    if unknown := set(wanted) - set(rows):
        raise SystemExit(f"no rows: {', '.join(sorted(unknown))}; there are {', '.join(rows)}")
    return [row for row in rows if row in wanted]


class Samples:
    """By row and machine, a sample for each round."""

    def __init__(self):
        self.of = {}

    def measure(self, rows, line_of, machines, rounds):
        """Each round measures each row on one machine after the other. `line_of(row, machine)`: the order."""
        for _ in range(rounds):
            for row in rows:
                for machine in machines:
                    sample = machine.measure(line_of(row, machine))
                    self.of.setdefault(row, {}).setdefault(machine.name, []).append(sample)

    def median(self, row, machine, key):
        found = self.of.get(row, {}).get(machine, [])
        return statistics.median(getattr(sample, key) for sample in found) if found else None

    def ratio(self, row, key):
        """Of ours to the peer's, the median over the rounds: what else the host does changes slowly."""
        of_row = self.of.get(row, {})
        pairs = zip(of_row.get("trapeze", []), of_row.get("qemu", []))
        ratios = [getattr(ours, key) / getattr(peer, key) for ours, peer in pairs if getattr(peer, key)]
        return statistics.median(ratios) if ratios else None

    def to_json(self):
        return {row: {machine: [vars(sample) for sample in found] for machine, found in machines.items()}
                for row, machines in self.of.items()}


def number(value, width, digits=0):
    return f"{value:{width},.{digits}f}" if value is not None else "-".rjust(width)


def table(samples, rows, accel, unit_of=lambda row: ("/s", 1)):
    """`unit_of(row)`: the unit, and how many of the program's amounts one of it has."""
    peer = "qemu " + {"soft": "tcg"}.get(accel, accel)
    lines = [f"{'':42}{'trapeze':>14}{peer:>14}{'ratio':>8}   {'CPU us each':>12}{peer:>12}{'ratio':>8}"]
    for row, name in rows.items():
        unit, amounts = unit_of(row)
        cells = []
        for key, factor, text, width, digits in (("amount_s", 1 / amounts, unit.ljust(5), 9, 0),
                                                 ("cpu_us", amounts, "", 12, 1)):
            for machine in ("trapeze", "qemu"):
                median = samples.median(row, machine, key)
                cells.append(number(None if median is None else median * factor, width, digits) + text)
            cells.append(number(samples.ratio(row, key), 8, 2) + "   ")
        lines.append(f"{name:42}{''.join(cells)}".rstrip())
    return "\n".join([*lines, summary([samples.ratio(row, "amount_s") for row in rows])])


def summary(ratios):
    if not ratios or None in ratios:
        return ""
    mean = math.exp(statistics.fmean(map(math.log, ratios)))
    return (f"\ngeometric mean of the speeds' ratios (higher is better): {mean:.2f}; "
            f"smallest: {min(ratios):.2f}")


def report(options, samples, rows, more=None, **of_table):
    """Prints the table and writes the samples. `more`: what else goes into the file."""
    facts = host.facts()
    loads = " ".join(f"{load:.1f}" for load in facts["load_average"])
    print(f"\n{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}, load average {loads}; medians "
          f"of {options.rounds} rounds, ratios of the pairs of a round\n")
    print(table(samples, rows, options.accel, **of_table), flush=True)
    os.makedirs(os.path.dirname(options.output) or ".", exist_ok=True)
    with open(options.output, "w", encoding="utf-8") as file:
        json.dump({"host": facts, "accel": options.accel, "rows": rows, "samples": samples.to_json(),
                   "speed_ratios": {row: samples.ratio(row, "amount_s") for row in rows},
                   "trapeze_options": options.trapeze_option, **(more or {})}, file, indent=2)
        file.write("\n")
