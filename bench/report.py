"""Figures, the requirements they are held against, and how they are shown."""

import statistics
from dataclasses import dataclass, field


@dataclass
class Figure:
    """One row: samples of both machines; of one only where the other has no such thing."""

    name: str
    unit: str
    ours: list = field(default_factory=list)
    peer: list = field(default_factory=list)
    # At most one of them, and it is a maximum.
    max_ours: float | None = None
    max_ratio: float | None = None

    @property
    def ours_median(self):
        return statistics.median(self.ours) if self.ours else None

    @property
    def peer_median(self):
        return statistics.median(self.peer) if self.peer else None

    @property
    def ratio(self):
        if not self.ours or not self.peer or self.peer_median == 0:
            return None
        return self.ours_median / self.peer_median

    @property
    def requirement(self):
        if self.max_ours is not None:
            return f"at most {self.max_ours:g} {self.unit}".rstrip()
        return f"at most {self.max_ratio:g} x" if self.max_ratio is not None else ""

    @property
    def is_met(self):
        """None when nothing is required."""
        if self.max_ours is not None:
            return bool(self.ours) and self.ours_median <= self.max_ours
        if self.max_ratio is not None:
            return self.ratio is not None and self.ratio <= self.max_ratio
        return None

    def to_json(self):
        return {"name": self.name, "unit": self.unit, "trapeze": self.ours, "peer": self.peer,
                "trapeze_median": self.ours_median, "peer_median": self.peer_median,
                "ratio": self.ratio, "requirement": self.requirement or None, "met": self.is_met}


def show_samples(samples):
    if not samples:
        return "-"
    low, high = min(samples), max(samples)
    digits = 3 if high < 1 else 2 if high < 10 else 1
    text = f"{statistics.median(samples):.{digits}f}"
    return text if len(samples) == 1 else f"{text} ({low:.{digits}f}-{high:.{digits}f})"


def verdict(figure):
    return {None: "", True: "met", False: "NOT MET"}[figure.is_met]


def table(figures):
    """Median (smallest-largest) of each machine, ratio of the medians."""
    rows = [("", "unit", "trapeze", "qemu tcg", "ratio", "required", "")]
    for figure in figures:
        ratio = f"{figure.ratio:.2f}" if figure.ratio is not None else "-"
        rows.append((figure.name, figure.unit, show_samples(figure.ours),
                     show_samples(figure.peer), ratio, figure.requirement, verdict(figure)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
                     for row in rows)
