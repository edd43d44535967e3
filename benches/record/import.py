#!/usr/bin/env python3
"""Adds the output of a bench to the record.

    cargo bench -- get put | python3 benches/record/import.py MACHINE DATE [NOTE]

reads Markdown tables from standard input and appends their cells to benches/record/MACHINE/DATE.csv. Each table
must stand under a heading (`### title`). The columns of the CSV are row, contender, value, unit, note; a row reads
`title > detail`. A machine without a folder gets one, with the facts that the output begins with. `just report`
renders the pages afterwards.
"""
import csv
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
HEAD = ["row", "contender", "value", "unit", "note"]
# Units that a column's header names.
UNITS = {
    "thousand/s": "thousand/s",
    "MB/s": "MB/s",
    "puts/s": "puts/s",
    "writes/s": "writes/s",
    "without": "writes/s",
    "passes": "passes",
    "seconds to rest": "s",
    "amplification": "x user bytes",
}
# Headers of columns that hold a multiple of the live bytes.
OF_LIVE = {"most under load", "at rest", "loaded", "closed", "all overwritten once"}
# The table of versions and modes. It has words where others have numbers.
STORES = "The stores"
# The facts in front of the tables that describe the machine.
FACTS = ("machine:", "kernel:", "file system:", "regime:")
NUMBER = re.compile(r"^-?[\d,]+(\.\d+)?$")


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def tables(text):
    """Yields title, headers and rows of every table."""
    title, block = "", []
    for line in text.splitlines() + [""]:
        if line.startswith("|"):
            block.append(cells(line))
            continue
        if block:
            yield title, block[0], block[2:]
            block = []
        if line.startswith("#"):
            title = line.lstrip("# ").strip()


def unit_of(title, header):
    """Returns the title without its unit, and the unit."""
    named = re.search(r",? (?:in |)(milliseconds|microseconds|seconds|bytes per key)(?=[,;]|$)", title)
    bare = title.replace(named.group(0), "", 1) if named else title
    # The text behind a semicolon explains the columns.
    bare = bare.replace(", by the number of keys", "").split(";")[0]
    short = {"milliseconds": "ms", "microseconds": "us", "seconds": "s", "bytes per key": "bytes per key"}
    unit = short[named.group(1)] if named else ""
    for name in ("MiB/s", "KiB", "MB"):
        if re.search(rf"\b{name}\b", header):
            unit = name
    if bare.startswith("bytes that an open reads"):
        unit = "bytes"
    if header in OF_LIVE and not unit:
        unit = "x live bytes"
    return bare, UNITS.get(header, unit)


def records(text, note):
    for title, headers, rows in tables(text):
        is_race = headers[2:] == ["least to greatest", "ratio"]
        for row in rows:
            if is_race:
                about = "; ".join(filter(None, [f"{row[2]}, ratio {row[3]}", note]))
                yield [title, row[0], row[1], headers[1], about]
                continue
            for header, value in list(zip(headers, row))[1:]:
                if title == STORES:
                    yield [f"{title} > {header}", row[0], value, "", note]
                    continue
                if not NUMBER.match(value):
                    continue
                bare, unit = unit_of(title, header)
                if NUMBER.match(row[0]):
                    yield [f"{bare} > {headers[0]}: {row[0]}", header, value, unit, note]
                else:
                    yield [f"{bare} > {header}", f"{headers[0]} {row[0]}".strip(), value, unit, note]


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    machine, date = sys.argv[1:3]
    note = sys.argv[3] if len(sys.argv) == 4 else ""
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", date):
        sys.exit(f"{date} is not a date; write it as 2026-11-26")
    folder = HERE / machine
    text = sys.stdin.read()
    found = list(records(text, note))
    if not found:
        sys.exit("there is no table on standard input")
    if not (folder / "machine.txt").is_file():
        about = [line[2:] for line in text.splitlines() if line.startswith("- ") and line[2:].startswith(FACTS)]
        if not about:
            sys.exit(f"{folder / 'machine.txt'} is missing; describe the machine there first")
        folder.mkdir(exist_ok=True)
        (folder / "machine.txt").write_text("".join(f"{line}\n" for line in about))
    path = folder / f"{date}.csv"
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(HEAD)
        writer.writerows(found)
    print(f"{len(found)} values added to {path}")


if __name__ == "__main__":
    main()
