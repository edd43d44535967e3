#!/usr/bin/env python3
"""Draws the figures of a comparison: `just draw MACHINE DATE`.

    python3 benches/record/draw.py MACHINE DATE

reads benches/record/MACHINE/DATE.csv, to which import.py adds the output of `just compare`, and writes the figures
to docs/figures: compare.svg (operations a second), durable.svg (durable puts by the number of threads) and
latency.svg (durations of a put). The same file gives the same figures.
"""
import csv
import html
import math
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
FIGURES = HERE.parent.parent / "docs" / "figures"
# The panels of the first figure: the beginning of a row's title, and the text above the panel.
PANELS = [
    ("put of new keys", "put"),
    ("get of keys that are there", "get"),
    ("get of absent keys", "get, absent keys"),
    ("overwrite of all keys in random order", "overwrite"),
    ("remove of all keys in random order", "remove"),
    ("iterate over all keys and values", "iterate"),
    ("YCSB A: half reads, half updates, threads: 2", "half reads, half updates, 2 threads"),
    ("YCSB B: 95 % reads, 5 % updates, threads: 2", "95 % reads, 5 % updates, 2 threads"),
]
DURABLE = "durable put, threads: "
LATENCY = "duration of a put of a new key > "
LOST = "open to the first value, page cache warm > puts that the kill lost"

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 13px }
.small { font-size: 11px }
.end { text-anchor: end }
.mid { text-anchor: middle }
.bar { fill: #afb8c1 }
.map { fill: #d0d7de }
.ours { fill: #0969da }
.grid { stroke: #d0d7de }
.line { fill: none; stroke: #818b98; stroke-width: 1.5 }
.our-line { fill: none; stroke: #0969da; stroke-width: 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .bar { fill: #656c76 } .map { fill: #3d444d } .ours { fill: #4493f8 } .our-line { stroke: #4493f8 }
  .grid { stroke: #3d444d } .line { stroke: #9198a1 }
}
"""


def number(value):
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def text(x, y, content, kind=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{html.escape(content)}</text>\n'


def svg(width, height, title, body):
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{html.escape(title)}">\n<title>{html.escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n{body}</svg>\n"
    )


def kind_of(name):
    if name == "mapcask":
        return "ours"
    return "map" if name in ("std HashMap", "hashbrown, foldhash") else "bar"


class Record:
    """The values of one machine and date."""

    def __init__(self, path):
        self.rows = {}
        with path.open(newline="") as file:
            for line in csv.DictReader(file):
                # The last one counts: a row may have been measured twice on a day.
                self.rows.setdefault(line["row"], {})[line["contender"]] = float(line["value"].replace(",", ""))
        lost = self.rows.get(LOST, {})
        self.losers = {name for name, count in lost.items() if count > 0}

    def label(self, name):
        return name + (" *" if name in self.losers else "")


def bars(record):
    columns, width, gap, line = 2, 430, 16, 19
    panels = [(title, record.rows[row]) for row, title in PANELS if row in record.rows]
    if not panels:
        sys.exit("the file has no row of `just compare`")
    high = max(len(values) for _, values in panels) * line + 44
    body = ""
    for at, (title, values) in enumerate(panels):
        left, top = (at % columns) * (width + gap) + 8, (at // columns) * high + 20
        body += text(left, top, f"{title}, thousand a second", "title")
        most = max(values.values())
        for row, (name, value) in enumerate(sorted(values.items(), key=lambda item: -item[1])):
            y = top + 10 + row * line
            length = max(1.0, value / most * (width - 215))
            body += text(left + 138, y + 12, record.label(name), "end")
            body += f'<rect class="{kind_of(name)}" x="{left + 144}" y="{y}" width="{length:.1f}" height="14"/>\n'
            body += text(left + 150 + length, y + 12, number(value), "small")
    height = math.ceil(len(panels) / columns) * high + (20 if record.losers else 0)
    if record.losers:
        body += text(8, height - 8, "* lost acknowledged puts when its process was killed", "small")
    return svg(columns * (width + gap) + 8, height, "mapcask beside other stores, operations a second", body)


def lines(record):
    counts = sorted(int(row[len(DURABLE) :]) for row in record.rows if row.startswith(DURABLE))
    by_name = {}
    for count in counts:
        for name, value in record.rows[f"{DURABLE}{count}"].items():
            by_name.setdefault(name, []).append((count, value))
    most = max(value for points in by_name.values() for _, value in points)
    left, top, width, height = 60, 40, 560, 300

    def place(count, value):
        across = counts.index(count) / max(1, len(counts) - 1) * width
        return left + across, top + height - value / most * height

    body = text(8, 18, "durable puts, thousand a second, by the number of threads", "title")
    for share in range(5):
        y = top + height - share / 4 * height
        body += f'<line class="grid" x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}"/>\n'
        body += text(left - 8, y + 4, number(most * share / 4) if share else "0", "small end")
    for count in counts:
        body += text(place(count, 0)[0], top + height + 18, str(count), "small mid")
    labels = []
    for name, points in by_name.items():
        kind = "our-line" if name == "mapcask" else "line"
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        body += f'<polyline class="{kind}" points="{path}"/>\n'
        labels.append([place(*points[-1])[1] + 4, f"{name} {number(points[-1][1])}", kind])
    # Labels that would cover each other move up.
    labels.sort(reverse=True)
    for at in range(1, len(labels)):
        labels[at][0] = min(labels[at][0], labels[at - 1][0] - 14)
    for y, label, kind in labels:
        body += text(left + width + 8, y, label, "title" if kind == "our-line" else "small")
    return svg(left + width + 150, top + height + 34, "durable puts by the number of threads", body)


def latency(record):
    shares = ["p50, us", "p99, us", "p99.9, us", "p99.99, us"]
    values = {share: record.rows.get(LATENCY + share, {}) for share in shares}
    names = [name for name in values[shares[0]] if all(name in values[share] for share in shares)]
    names.sort(key=lambda name: values["p99.9, us"][name])
    least, most = 0.05, max(value for of_share in values.values() for value in of_share.values())
    left, width, line, top = 150, 560, 22, 52

    def place(value):
        return left + math.log(max(value, least) / least) / math.log(most / least) * width

    height = top + len(names) * line + 10
    body = text(8, 18, "duration of a put: from p50 over p99 and p99.9 (the bar's marks) to p99.99", "title")
    power = -1
    while 10**power <= most:
        x = place(10**power)
        body += f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 8}" y2="{height}"/>\n'
        unit = f"{10**power:g} us" if power < 3 else f"{10 ** (power - 3):g} ms"
        body += text(x, top - 14, unit, "small mid")
        power += 1
    for row, name in enumerate(names):
        y = top + row * line
        points = [place(values[share][name]) for share in shares]
        body += text(left - 8, y + 12, record.label(name), "end")
        body += (
            f'<rect class="{kind_of(name)}" x="{points[0]:.1f}" y="{y}" '
            f'width="{max(1.0, points[3] - points[0]):.1f}" height="14" opacity="0.6"/>\n'
        )
        for point in points[1:3]:
            body += f'<rect class="{kind_of(name)}" x="{point - 2:.1f}" y="{y - 2}" width="4" height="18"/>\n'
    return svg(left + width + 40, height + 4, "durations of a put", body)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    path = HERE / sys.argv[1] / f"{sys.argv[2]}.csv"
    if not path.is_file():
        sys.exit(f"{path} is missing; add the output of `just compare` with import.py first")
    record = Record(path)
    FIGURES.mkdir(parents=True, exist_ok=True)
    (FIGURES / "compare.svg").write_text(bars(record))
    if any(row.startswith(DURABLE) for row in record.rows):
        (FIGURES / "durable.svg").write_text(lines(record))
    if any(row.startswith(LATENCY) for row in record.rows):
        (FIGURES / "latency.svg").write_text(latency(record))


if __name__ == "__main__":
    main()
