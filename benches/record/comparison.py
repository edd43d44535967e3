"""Renders benches/README.md, the comparison with other stores, from the record. render.py calls it."""
import pathlib
import re

PAGE = pathlib.Path(__file__).resolve().parent.parent / "README.md"
MAPS = ("std HashMap", "hashbrown, foldhash", "std BTreeMap")
# The maps that rows are compared with: the first one that takes part in a row.
STD_MAPS = ("std HashMap", "std BTreeMap")
# Contenders that show a limit of the machine.
LIMITS = ("raw reads of 4 KiB", "copy into a mapped file")
NO_STORES = MAPS + LIMITS
OURS = "mapcask"
# Units of which more is better. Of all others, less is.
RATES = ("thousand/s", "MB/s")
LOST = "open to the first value, page cache warm > puts that the kill lost"
STORES = "The stores > "
# The row that every comparison has.
FIRST = "put of new keys"
FIRST_ORDERED = "ordered put of new keys"
# Figures with more lines than a table shows well, and details of a figure.
LEFT_OUT = ("disk space under overwrites", "open after a kill to the first value")
DURATIONS = "duration of a put of a new key"
# The tables of the verdict: a heading, and the beginnings of its rows.
GROUPS = [
    ("Reads", ("get ", "get,", "iterate")),
    ("Writes", ("put", "overwrite", "remove", "duration")),
    ("Durable writes", ("durable",)),
    ("Mixed loads (YCSB)", ("YCSB",)),
    ("Opening, memory and disk", ("open", "anonymous", "disk")),
    ("Ordered keyspaces", ("ordered",)),
    ("Transactions", ("transaction",)),
]

HEAD = """# mapcask beside other stores

<!-- Written by record/render.py from the CSV files in record/. -->

[record](record/README.md) has every figure of every date, and the benches of mapcask alone.

All contenders run in one process, in turn, with the same keys in the same order. Figures are medians. Each store
runs in its fastest mode whose writes survive `kill -9`. Another harness, machine or size gives other figures. One
command measures yours and writes this page for it:

```sh
just compare-record MACHINE --keys 200000   # MACHINE: a name of your choice; takes about an hour
just compare-record MACHINE read open       # only these rows
just features=rocksdb compare-record MACHINE --keys 200000
```

They need the build tools of the other stores: a C compiler, and for RocksDB a C++ compiler and libclang. RocksDB
builds for half an hour. The row `beyond` needs root and control groups, and runs where it is named.

Ten rows compare ordered keyspaces with an ordered map in memory and with stores whose keys are in order, and
transactions with those of other stores. The last column names the keys or steps of a round.

| row | measures | keys or steps of a round |
| --- | --- | --- |
| `ordered_put` | single puts and batches of 1000 in random order; single puts in ascending order | all; all; a quarter |
| `ordered_get` | gets of keys that are there and of absent ones, in one read transaction | a quarter |
| `ordered_overwrite` | single overwrites in random order | an eighth |
| `ordered_scan` | all keys and values, in one read transaction | all |
| `ordered_range` | ranges of 10, 100 and 10,000 keys, and prefixes of about 1000, in one read transaction | a half; all; twice all; all |
| `ordered_ends` | the first key, each time in its own read transaction | a tenth |
| | a queue of 1000 keys: remove the first, put a last | a 200th |
| | counts of ranges of 1000 keys, in one read transaction | all |
| `ordered_mix` | YCSB E, and gets beside a thread that overwrites; each read has its own transaction | a 40th; a quarter |
| `ordered_memory` | anonymous memory after a load in random and in ascending order, in batches | all |
| `ordered_open` | an open after a close, to the first get and to the first 100 keys of a range | |
| `transactions` | reads and writes of one key of all, of one counter, and of two of 100 accounts | a 40th |

- The keys of `ordered_range` begin with two bytes that about 1000 of them share. Other keys are random.
- The line `mapcask` has reads that borrow from a view. `mapcask, owned values` has values that outlive the view.
  `mapcask, without order` is a keyspace with a hash index.
- RocksDB has one iterator instead of a read transaction, and places it anew for each range. fjall opens a snapshot
  for each range.
- mapcask, redb and sled remove the first key with one call, and LMDB in a transaction. fjall and RocksDB read the
  first key and then remove it. That is right for one consumer. Each removed key makes their next step slower.
- No transaction waits for the disk. mapcask, fjall and RocksDB try a transaction again after a conflict. In LMDB,
  redb and sled, transactions exclude each other.
- All contenders of a table must read the same bytes and leave the same values. Otherwise the run ends with an error.
"""

FIGURES = [
    ("compare", "Bars: operations a second"),
    ("ordered", "Bars: operations a second on ordered keys, and transactions"),
    ("threads", "Lines: gets by the number of threads"),
    ("durable", "Lines: durable puts by the number of threads"),
    ("latency", "Bars: durations of a put"),
    ("open", "Lines: opens after a kill by the number of keys"),
    ("growth", "Lines: disk space while keys are overwritten"),
]


def ordered(items):
    return list(dict.fromkeys(items))


def table(headers, rows):
    rule = ["---"] + ["---:"] * (len(headers) - 1)
    return "".join("| " + " | ".join(cells) + " |\n" for cells in [headers, rule, *rows]) + "\n"


def is_other_store(name):
    """Returns False for maps, limits of the machine, mapcask, and other ways of using mapcask."""
    return name not in NO_STORES and name.partition(",")[0] != OURS


def run_of(note):
    """Returns the part of a note that names the run: what stands behind the ratio."""
    return note.rpartition("; ")[2] if "ratio " in note else note


def newest(machines, first):
    """Returns the machine, the date, the run and the values of the newest comparison that has a row."""
    found = []
    for machine, values in machines.items():
        for value in values:
            if value["row"] == first and value["contender"] == "LMDB":
                found.append((value["date"], machine, run_of(value["note"])))
    if not found:
        return None
    date, machine, run = max(found)
    of_run = [
        value for value in machines[machine] if value["date"] == date and run_of(value["note"]) == run
    ]
    return machine, date, run, of_run


def name_of(row):
    """Returns a row's title for the reader, and its unit if the title has it."""
    title, _, detail = row.partition(" > ")
    bare, _, unit = detail.rpartition(", ")
    if unit in ("ms", "us"):
        return f"{title}: {bare}", unit
    return f"{title}: {detail}" if detail else title, ""


class Row:
    """The values of one row, by contender; the last one counts."""

    def __init__(self, row, values):
        self.row = row
        self.text, unit = name_of(row)
        self.unit = values[-1]["unit"] or unit
        self.of = {value["contender"]: float(value["value"].replace(",", "")) for value in values}

    def ratio(self, name):
        """Returns how much better mapcask is: 2 is twice as fast, or half as long."""
        ours, theirs = self.of["mapcask"], self.of[name]
        if min(ours, theirs) == 0:
            return 1.0 if ours == theirs else 0.0 if ours else 99.0
        return ours / theirs if self.unit in RATES else theirs / ours

    def best(self):
        """Returns the best store other than mapcask."""
        others = [name for name in self.of if is_other_store(name)]
        return min(others, key=self.ratio) if others else None

    def number(self, name):
        value = self.of[name]
        return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"

    def unit_text(self):
        return {"thousand/s": "thousand/s", "x live bytes": "x the data"}.get(self.unit, self.unit)


def rows_of(values):
    """Returns the rows in which mapcask and another store have figures."""
    rows = []
    for row in ordered(value["row"] for value in values):
        of_row = [value for value in values if value["row"] == row]
        if row == LOST or row.startswith((STORES, *LEFT_OUT)) or "mapcask" not in {v["contender"] for v in of_row}:
            continue
        if row.startswith(DURATIONS) and "p99.9," not in row:
            continue
        made = Row(row, of_row)
        if made.best():
            rows.append(made)
    return rows


def shown(ratio):
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


def verdicts(rows):
    ahead = [row for row in rows if row.ratio(row.best()) >= 1]
    # A store may take part in two modes.
    stores = ordered(name.partition(",")[0] for row in rows for name in row.of if is_other_store(name))
    page = f"mapcask is ahead of the {len(stores)} other stores in {len(ahead)} of {len(rows)} rows.\n\n"
    behind = [row for row in rows if row not in ahead]
    if behind:
        page += "Another store is ahead in these rows:\n\n"
        lines = []
        for row in behind:
            others = sorted((n for n in row.of if is_other_store(n) and row.ratio(n) < 1), key=row.ratio)
            lines.append([row.text, f"{row.number('mapcask')} {row.unit_text()}",
                          ", ".join(f"{name} {row.number(name)}" for name in others)])
        page += table(["row", "mapcask", "ahead of it"], lines)
    page += "A ratio above 1 means that mapcask is better.\n\n"
    for heading, beginnings in GROUPS:
        lines = []
        of_group = [row for row in rows if row.row.startswith(beginnings)]
        std = next((name for name in STD_MAPS for row in of_group if name in row.of), STD_MAPS[0])
        for row in of_group:
            best = row.best()
            against = shown(row.ratio(std)) if std in row.of else ""
            lines.append([row.text, f"{row.number('mapcask')} {row.unit_text()}",
                          f"{best} {row.number(best)}", shown(row.ratio(best)), against])
        if lines:
            page += f"### {heading}\n\n"
            page += table(["row", "mapcask", "best other store", "ratio", f"ratio to {std}"], lines)
    return page


def guarantees(values):
    """Returns the table of versions, modes, and puts that a kill lost."""
    lost = {value["contender"]: value["value"] for value in values if value["row"] == LOST}
    headers = ordered(value["row"][len(STORES) :] for value in values if value["row"].startswith(STORES))
    names = ordered(value["contender"] for value in values if value["row"].startswith(STORES)) or list(lost)
    rows = []
    for name in names:
        cells = [
            next((v["value"] for v in values if v["row"] == STORES + header and v["contender"] == name), "")
            for header in headers
        ]
        rows.append([name, *cells, lost.get(name, "not measured")])
    page = "## Guarantees\n\nA process puts all keys and is killed at the end of its last put. The last column counts the "
    page += "acknowledged puts that are missing afterwards. `none` means that the store has no such mode.\n\n"
    return page + table(["store", *headers, "puts lost"], rows)


def figures():
    """Returns the figures that draw.py has drawn: those whose rows were measured."""
    page = "## Figures\n\n"
    for name, text in FIGURES:
        if (PAGE.parent.parent / "docs" / "figures" / f"{name}.svg").is_file():
            page += f"![{text}](../docs/figures/{name}.svg)\n\n"
    return page


def all_values(rows):
    names = ordered(name for row in rows for name in row.of)
    page = "## All values\n\n"
    lines = [[f"{row.text}, {row.unit_text()}", *(row.number(n) if n in row.of else "" for n in names)] for row in rows]
    return page + table(["row", *names], lines)


def described(chosen, describe):
    """Returns the lines about the machine and the date of a comparison."""
    machine, date, run, _ = chosen
    page = "".join(f"- {line}\n" for line in describe(machine))
    return page + f"- date: {date}" + (f"; {run}" if run else "") + "\n\n"


def render(machines, describe):
    """Writes the page. `describe` returns the facts about a machine, a line each."""
    chosen = newest(machines, FIRST)
    if chosen is None:
        return
    values = chosen[3]
    rows = rows_of(values)
    page = HEAD + "\n## Machine\n\n" + described(chosen, describe) + "## Verdict\n\n" + verdicts(rows)
    # The ordered rows may have been measured alone.
    apart = newest(machines, FIRST_ORDERED)
    if apart and apart[:3] != chosen[:3]:
        rows = rows + rows_of(apart[3])
        page += "## Verdict on ordered keyspaces and transactions\n\nThese rows were measured apart.\n\n"
        page += described(apart, describe) + verdicts(rows_of(apart[3]))
    page += guarantees(values) + figures() + all_values(rows)
    page = re.sub(r"\n{3,}", "\n\n", page)
    PAGE.write_text(page.rstrip("\n") + "\n")
