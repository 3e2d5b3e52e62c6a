"""The rows as an SVG chart: how many times slower than native, on a logarithmic axis. It brings
its own ground, and a dark one for readers who want that: so it can be read on any page."""

import math
from html import escape

# machine, name, class, where its column of numbers ends, where the dot before its name is
SERIES = (("trapeze", "Trapeze", "ours", 748, 684), ("qemu tcg", "QEMU TCG", "peer", 844, 759))
LEFT, RIGHT, TOP, BOTTOM = 236, 190, 76, 40
ROW, WIDTH, GROUP_GAP = 24, 860, 30

STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, sans-serif; fill: #24292f }
  .ground { fill: #ffffff }
  .title { font-size: 16px; font-weight: 600 }
  .minor { fill: #57606a; font-size: 12px }
  .head { font-weight: 600; font-size: 12px }
  .number { font-variant-numeric: tabular-nums; text-anchor: end }
  .grid { stroke: #d0d7de; stroke-width: 1 }
  .fine { stroke: #d0d7de; stroke-width: 0.5 }
  .native { stroke: #57606a; stroke-width: 1.5 }
  .span { stroke: #afb8c1; stroke-width: 2 }
  .ours { fill: #0969da } .peer { fill: #bc4c00 }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #0d1117 } text { fill: #e6edf3 } .minor { fill: #9198a1 }
    .grid, .fine { stroke: #30363d } .native { stroke: #9198a1 } .span { stroke: #484f58 }
    .ours { fill: #58a6ff } .peer { fill: #f0883e }
  }
"""


def decades(ratios):
    """The axis, from a power of ten at or below the smallest and 1 to one above the largest."""
    low = math.floor(math.log10(min([1.0, *ratios])))
    high = math.ceil(math.log10(max([10.0, *ratios])))
    return low, high


def shown(ratio):
    return f"{ratio:,.0f}×" if ratio >= 100 else f"{ratio:.1f}×" if ratio >= 10 else f"{ratio:.2f}×"


def tick(power):
    return f"{10 ** power:,}×" if power >= 0 else f"{10.0 ** power:g}×"


class Chart:
    def __init__(self, groups, subtitle):
        """`groups`: (heading, [(label, {machine: times native})])."""
        self.groups, self.parts = groups, []
        self.low, self.high = decades([ratio for _, rows in groups for _, ratios in rows
                                       for ratio in ratios.values() if ratio])
        rows = sum(len(rows) for _, rows in groups)
        self.bottom = TOP + ROW * rows + GROUP_GAP * len(groups)
        self.height = self.bottom + BOTTOM
        self.text(16, 26, "Times slower than native", "title")
        self.text(16, 46, subtitle, "minor")

    def x(self, ratio):
        share = (math.log10(ratio) - self.low) / (self.high - self.low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def text(self, x, y, text, kind="", anchor=None):
        anchored = f' text-anchor="{anchor}"' if anchor else ""
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}"{anchored}>'
                          f'{escape(text)}</text>')

    def line(self, x1, y1, x2, y2, kind):
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
                          f'class="{kind}"/>')

    def dot(self, x, y, kind):
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" class="{kind}"/>')

    def axis(self):
        for power in range(self.low, self.high):
            for step in (2, 5):
                x = self.x(step * 10.0 ** power)
                self.line(x, TOP, x, self.bottom, "fine")
        for power in range(self.low, self.high + 1):
            x = self.x(10.0 ** power)
            self.line(x, TOP, x, self.bottom, "native" if power == 0 else "grid")
            self.text(x, self.bottom + 20, "native" if power == 0 else tick(power), "minor",
                      "middle")

    def legend(self):
        for _, name, kind, column, dot in SERIES:
            self.text(column, TOP - 8, name, "head", "end")
            self.dot(dot, TOP - 12, kind)

    def row(self, y, label, ratios):
        self.text(LEFT - 12, y + 4, label, "", "end")
        at = [self.x(ratio) for ratio in ratios.values() if ratio]
        if len(at) > 1:
            self.line(min(at), y, max(at), y, "span")
        for machine, _, kind, column, _ in reversed(SERIES):
            if ratio := ratios.get(machine):
                self.dot(self.x(ratio), y, kind)
                self.text(column, y + 4, shown(ratio), "number")

    def svg(self):
        self.axis()
        self.legend()
        y = TOP
        for heading, rows in self.groups:
            y += GROUP_GAP
            self.text(16, y - 8, heading, "head")
            for label, ratios in rows:
                self.row(y + ROW / 2, label, ratios)
                y += ROW
        return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" '
                f'width="{WIDTH}" height="{self.height}" role="img" '
                f'aria-label="Times slower than native: Trapeze and QEMU TCG">\n'
                f"<style>{STYLE}</style>\n"
                f'<rect width="{WIDTH}" height="{self.height}" rx="6" class="ground"/>\n'
                + "\n".join(self.parts) + "\n</svg>\n")


def draw(figures, means, subtitle):
    """`figures`: rows.RowFigure; `means`: rows.means of them."""
    def ratios(figure):
        return {machine: figure.ratio(machine, "native") for machine, *_ in SERIES}

    groups = [(heading, [(figure.label, ratios(figure)) for figure in figures
                         if figure.is_compute == is_compute])
              for heading, is_compute in (("Computing", True), ("The kernel's services", False))]
    groups.append(("Geometric means", [
        (what.removeprefix("geometric mean, "), {"trapeze": ours, "qemu tcg": peer})
        for what, ours, peer, _ in means]))
    return Chart([group for group in groups if group[1]], subtitle).svg()
