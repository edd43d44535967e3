#!/usr/bin/env python3
"""Draws the figures of a comparison: `just draw MACHINE DATE`.

    python3 benches/record/draw.py MACHINE DATE

reads benches/record/MACHINE/DATE.csv, to which import.py adds the output of `just compare`, and writes the figures
to docs/figures: compare.svg (operations a second), ordered.svg (ordered keyspaces and transactions), durable.svg
(durable puts by the number of threads), threads.svg (gets by the number of threads), open.svg (opens after a kill by
the number of keys), growth.svg (disk space under overwrites) and latency.svg (durations of a put). The same file
gives the same figures.
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
ORDERED_PANELS = [
    ("ordered put of new keys", "put"),
    ("ordered get of keys that are there", "get"),
    ("ordered overwrite in random order", "overwrite"),
    ("ordered scan of all keys and values", "scan, keys"),
    ("ordered ranges of 100 keys and values, keys read", "ranges of 100, keys"),
    ("ordered YCSB E: 95 % ranges of up to 100 keys, 5 % new keys, threads: 2", "95 % ranges, 5 % new keys, 2 threads"),
    ("transaction: read and write one of all keys, threads: 2", "transactions, all keys, 2 threads"),
    ("transaction: move between two of 100 accounts, threads: 2", "transactions, 100 accounts, 2 threads"),
]
DURABLE = "durable put, threads: "
THREADS = "get of popular keys, threads: "
OPENS = "open after a kill to the first value, page cache warm > keys: "
GROWTH = "disk space under overwrites > percent overwritten: "
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
    return "map" if name in ("std HashMap", "hashbrown, foldhash", "std BTreeMap") else "bar"


class Record:
    """The values of one machine and date."""

    def __init__(self, path):
        self.rows = {}
        with path.open(newline="") as file:
            for line in csv.DictReader(file):
                if not line["value"].replace(",", "").replace(".", "", 1).isdigit():
                    continue
                # The last one counts: a row may have been measured twice on a day.
                self.rows.setdefault(line["row"], {})[line["contender"]] = float(line["value"].replace(",", ""))
        lost = self.rows.get(LOST, {})
        self.losers = {name for name, count in lost.items() if count > 0}

    def label(self, name):
        return name + (" *" if name in self.losers else "")


def bars(record, panels, title_of_all):
    columns, width, gap, line = 2, 430, 16, 19
    panels = [(title, record.rows[row]) for row, title in panels if row in record.rows]
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
    return svg(columns * (width + gap) + 8, height, title_of_all, body)


class Axis:
    """A scale from values to coordinates, linear or logarithmic."""

    def __init__(self, least, most, start, length, is_log):
        self.least, self.most, self.start, self.length, self.is_log = least, most, start, length, is_log

    def place(self, value):
        if self.is_log:
            share = math.log(max(value, self.least) / self.least) / math.log(self.most / self.least)
        else:
            share = (value - self.least) / (self.most - self.least)
        return self.start + share * self.length

    def ticks(self):
        if not self.is_log:
            return [self.least + (self.most - self.least) * share / 4 for share in range(5)]
        low, high = math.floor(math.log10(self.least)), math.ceil(math.log10(self.most))
        return [10.0**power for power in range(low, high + 1) if self.least <= 10.0**power <= self.most]


def lines(title, by_name, marks, is_log=False, even=False):
    """Draws a line for each name through its points. `marks` are the labels below, by value.

    With `even` the marks have the same distance.
    """
    values = [value for points in by_name.values() for _, value in points]
    left, top, width, height = 60, 40, 560, 300
    least = 10 ** math.floor(math.log10(min(values))) if is_log else 0
    up = Axis(least, max(values), top + height, -height, is_log)
    counts = sorted(marks)
    if even:
        across = {count: left + at / max(1, len(counts) - 1) * width for at, count in enumerate(counts)}
    else:
        most = max(count for points in by_name.values() for count, _ in points)
        across = {count: left + count / most * width for points in by_name.values() for count, _ in points}
        across.update({count: left + count / most * width for count in counts})

    body = text(8, 18, title, "title")
    for tick in up.ticks():
        y = up.place(tick)
        body += f'<line class="grid" x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}"/>\n'
        body += text(left - 8, y + 4, f"{tick:g}" if is_log else (number(tick) if tick else "0"), "small end")
    for count in counts:
        body += text(across[count], top + height + 18, marks[count], "small mid")
    labels = []
    for name, points in by_name.items():
        kind = "our-line" if name == "mapcask" else "line"
        path = " ".join(f"{across[count]:.1f},{up.place(value):.1f}" for count, value in points)
        body += f'<polyline class="{kind}" points="{path}"/>\n'
        labels.append([up.place(points[-1][1]) + 4, f"{name} {number(points[-1][1])}", kind])
    # Labels that would cover each other move up; the lowest stays above the axis.
    labels.sort(reverse=True)
    for at in range(1, len(labels)):
        labels[at][0] = min(labels[at][0], labels[at - 1][0] - 14)
    for y, label, kind in labels:
        body += text(left + width + 8, y, label, "title" if kind == "our-line" else "small")
    return svg(left + width + 150, top + height + 34, title, body)


def by_number(record, prefix):
    """Returns the points of the rows whose titles end in a number: by contender, `(number, value)`."""
    by_name = {}
    for count in sorted(int(row[len(prefix) :]) for row in record.rows if row.startswith(prefix)):
        for name, value in record.rows[f"{prefix}{count}"].items():
            by_name.setdefault(record.label(name) if name in record.losers else name, []).append((count, value))
    return by_name


def counts_of(by_name):
    return sorted({count for points in by_name.values() for count, _ in points})


def draw_lines(record):
    """Yields the name of a file and a figure, for each kind of lines that the record has."""
    durable = by_number(record, DURABLE)
    if durable:
        marks = {count: str(count) for count in counts_of(durable)}
        yield "durable.svg", lines("durable puts, thousand a second, by the number of threads", durable, marks, even=True)
    threads = by_number(record, THREADS)
    if threads:
        marks = {count: str(count) for count in counts_of(threads)}
        yield "threads.svg", lines("gets, thousand a second, by the number of threads", threads, marks, even=True)
    opens = by_number(record, OPENS)
    if opens:
        marks = {count: f"{count:,} keys" for count in counts_of(opens)}
        title = "open after a kill to the first value, in milliseconds (the scale is logarithmic)"
        yield "open.svg", lines(title, opens, marks, is_log=True, even=True)
    growth = by_number(record, GROWTH)
    if growth:
        marks = {count: f"{count} %" for count in counts_of(growth) if count % 200 == 0}
        title = "disk space, as a multiple of all keys and values, while keys are overwritten in random order"
        yield "growth.svg", lines(title, growth, marks)


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
    if not any(row in record.rows for row, _ in PANELS + ORDERED_PANELS):
        sys.exit("the file has no row of `just compare`")
    FIGURES.mkdir(parents=True, exist_ok=True)
    for name, panels, title in [
        ("compare.svg", PANELS, "mapcask beside other stores, operations a second"),
        ("ordered.svg", ORDERED_PANELS, "ordered keyspaces and transactions beside other stores, a second"),
    ]:
        if any(row in record.rows for row, _ in panels):
            (FIGURES / name).write_text(bars(record, panels, title))
    for name, figure in draw_lines(record):
        (FIGURES / name).write_text(figure)
    if any(row.startswith(LATENCY) for row in record.rows):
        (FIGURES / "latency.svg").write_text(latency(record))


if __name__ == "__main__":
    main()
