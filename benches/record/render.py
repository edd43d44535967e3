#!/usr/bin/env python3
"""Renders benches/record/README.md and benches/README.md from the CSV files here: `just report`.

Each machine has a folder with a machine.txt and one CSV file per date. The columns are row, contender, value, unit
and note; a row reads `title > detail`. The newest date of a row comes first. The same files give the same page.
"""
import csv
import pathlib
import re

import comparison

HERE = pathlib.Path(__file__).resolve().parent
PAGE = HERE / "README.md"
# Units in which more is better, so that contenders compare.
RATES = ("thousand/s", "MB/s")
# Words in the names of maps in memory.
MAPS = ("HashMap", "hashbrown", "BTreeMap")

HEAD = """# Results

<!-- Written by render.py from the CSV files of this folder; edit those. -->

Every figure names its machine and its date. It describes the version of that date.

- A contender is compared only with the contenders of its own row and date. They ran in turn in one process.
- A ratio in a note is the median of the rounds' ratios to the first contender. Above 1 is faster.
- `x std HashMap` is such a ratio where only the ratio was kept.
- `a to b` in a note is the range over the rounds.

To add figures, pipe a bench into the record and render this page:

```sh
cargo bench -- get put | python3 benches/record/import.py MACHINE DATE
just compare | python3 benches/record/import.py MACHINE DATE
just report
just draw MACHINE DATE
```

The figures show the newest comparison with other stores. The rows of its date have the values.

![Operations a second of mapcask, other stores and maps in memory](../../docs/figures/compare.svg)

![Durable puts a second by the number of threads](../../docs/figures/durable.svg)

![Durations of a put](../../docs/figures/latency.svg)
"""


def read(machine):
    """Returns all values of a machine, the newest date first."""
    values = []
    for path in sorted(machine.glob("*.csv"), reverse=True):
        with path.open(newline="") as file:
            for line in csv.DictReader(file):
                title, _, detail = line["row"].partition(" > ")
                values.append({**line, "title": title, "detail": detail, "date": path.stem})
    return values


def ordered(items):
    """Returns the items without repetitions, in order of first appearance."""
    return list(dict.fromkeys(items))


def ratio_of(value, of_row):
    """Returns the ratio to the first contender: as noted, or of the two figures of one run."""
    noted = re.search(r"\bratio (\d+\.\d+)", value["note"])
    if noted:
        return float(noted.group(1))
    same_run = [other for other in of_row if (other["date"], other["note"]) == (value["date"], value["note"])]
    return float(value["value"]) / float(same_run[0]["value"])


def losses(values):
    """Returns the rows in which mapcask is slower than the first contender, by their newest figures."""
    found = []
    for row in ordered(value["row"] for value in values):
        of_row = [value for value in values if value["row"] == row]
        first, seen = of_row[0], set()
        for value in of_row:
            name, unit = value["contender"], value["unit"]
            if value["date"] != first["date"] or not name.startswith("mapcask") or name in seen:
                continue
            seen.add(name)
            if unit.startswith("x std"):
                against, ratio = unit[2:], float(value["value"])
            elif unit in RATES and not first["contender"].startswith("mapcask"):
                against, ratio = first["contender"], ratio_of(value, of_row)
            else:
                continue
            if ratio < 1:
                found.append([value["title"], name, against, f"{ratio:.2f}", value["date"], value["note"]])
        found += [[first["title"], "mapcask", *rest] for rest in ahead(of_row)]
    return found


def is_other(name):
    """Returns False for maps in memory, and for other ways of using mapcask."""
    return not (name.startswith("mapcask,") or any(word in name for word in MAPS))


def ahead(of_row):
    """Returns the other stores that are faster than mapcask in the newest run of a row."""
    date, note_of = of_row[0]["date"], lambda value: value["note"].rpartition("; ")[2]
    ours = [value for value in of_row if value["contender"] == "mapcask" and value["unit"] in RATES]
    if not ours or ours[0]["date"] != date:
        return
    for value in of_row[1:]:
        same_run = value["date"] == date and note_of(value) == note_of(ours[0])
        if same_run and is_other(value["contender"]) and float(value["value"]) > float(ours[0]["value"]):
            ratio = float(ours[0]["value"]) / float(value["value"])
            yield [value["contender"], f"{ratio:.2f}", date, value["note"]]


def table(headers, right, rows):
    rule = ["---:" if header in right else "---" for header in headers]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in [headers, rule, *rows]) + "\n"


def pivot(values, down, across):
    """Returns a table with rows by one field, the newest date first, and columns by the other."""
    columns = ordered(value[across] for value in values)
    units = {column: ordered(v["unit"] for v in values if v[across] == column) for column in columns}

    def header(column):
        unit = units[column][0] if len(units[column]) == 1 else ""
        is_named = not unit or unit in re.split(r"[ ,:]+", column)
        return column if is_named else f"{column}, {unit}"

    rows = []
    for name in ordered(value[down] for value in values):
        of_name = [value for value in values if value[down] == name]
        for date, note in ordered((value["date"], value["note"]) for value in of_name):
            cells = [name]
            for column in columns:
                found = [
                    value["value"] + ("" if len(units[column]) == 1 else f" {value['unit']}")
                    for value in of_name
                    if (value["date"], value["note"], value[across]) == (date, note, column)
                ]
                cells.append(", ".join(found))
            rows.append([*cells, date, note])
    headers = [header(column) for column in columns]
    return table(["", *headers, "date", "note"], headers, rows)


def section(title, values):
    """Returns the table of one title."""
    values = [value for value in values if value["title"] == title]
    details = ordered(value["detail"] for value in values)
    heading = f"### {title[0].upper()}{title[1:]}\n\n"
    if details == [""]:
        rows = []
        for contender in ordered(value["contender"] for value in values):
            of_it = [value for value in values if value["contender"] == contender]
            rows += [[contender, v["value"], v["unit"], v["date"], v["note"]] for v in of_it]
        return heading + table(["", "value", "unit", "date", "note"], ["value"], rows)
    # `keys: 1000` and the like are parameters; any other detail names the measured value.
    if all(detail.rpartition(": ")[2].isdigit() for detail in details):
        return heading + pivot(values, "detail", "contender")
    return heading + pivot(values, "contender", "detail")


def facts(machine):
    """Returns the lines that describe a machine."""
    return [line for line in (HERE / machine / "machine.txt").read_text().splitlines() if line]


def render():
    page = HEAD + "\n"
    machines = {}
    for machine in sorted(path for path in HERE.iterdir() if (path / "machine.txt").is_file()):
        values = read(machine)
        machines[machine.name] = values
        page += f"## Machine {machine.name}\n\n"
        page += "".join(f"- {line}\n" for line in facts(machine.name)) + "\n"
        # The page of the comparison shows these.
        values = [value for value in values if not value["row"].startswith(comparison.STORES)]
        slower = losses(values)
        if slower:
            page += "**Losses.** mapcask is slower than the contender it is compared with in these rows.\n\n"
            page += table(["row", "contender", "against", "ratio", "date", "note"], ["ratio"], slower)
        for title in ordered(value["title"] for value in values):
            page += section(title, values)
    PAGE.write_text(page.rstrip("\n") + "\n")
    comparison.render(machines, facts)


if __name__ == "__main__":
    render()
