"""Counts the instructions of single operations by layer, for docs/design/profiles.md.

Usage: cargo bench --no-run, then: python3 benches/record/profile.py PROGRAM, with the path of the program that
cargo has named. It needs valgrind. Each operation runs twice, with more repetitions the second time. The
difference of the two counts is that of the operation, as in benches/counts.rs. Inlined code of this crate counts
for the file that it stands in, and inlined code of std for the function around it.
"""
import collections
import pathlib
import re
import subprocess
import sys
import tempfile

# An operation of benches/counts.rs, its repetitions in two runs, and the items in each repetition.
OPERATIONS = [
    ("get", 0, 40_000, 1),
    ("miss", 0, 40_000, 1),
    ("multi-get", 0, 4_000, 16),
    ("iterate", 1, 4, 20_000),
    ("put", 20_000, 60_000, 1),
    ("batch", 20, 60, 1_000),
    ("durable", 100, 500, 1),
    ("recover", 5_000, 20_000, 1),
]
# A layer, and a pattern of the paths of its code. The first that fits counts.
LAYERS = [
    ("index", r"/src/(index|format/hash)|mapcask::(index|format::hash)"),
    ("checksum", r"crc32fast"),
    ("record and log", r"/src/(format|log|mem)|mapcask::(format|log|mem)"),
    ("engine", r"/src/(engine|api|sync|config|recovery)|mapcask::(engine|api|sync|config|recovery)"),
    ("file system", r"/src/fs|rustix|mapcask::fs"),
    ("copies and comparisons", r"mem(cpy|move|cmp|set)|string/|sysdeps"),
    ("bench", r"/benches/|main::"),
]
REST = "others"


def layer_of(path, function):
    for place in (path, function):
        for name, pattern in LAYERS:
            if re.search(pattern, place):
                return name
    return REST


def count(program, name, repetitions):
    """Returns the instructions of one run by layer."""
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        place = pathlib.Path(scratch)
        store = place / "store"
        store.mkdir()
        if name == "recover":
            subprocess.run([program, "--child", "fill", str(repetitions), store], check=False, stdout=subprocess.DEVNULL)
        out = place / "counts"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", program]
        command += ["--child", "count", name, str(repetitions), store]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return by_layer(out.read_text())


def by_layer(text):
    names, counts = {}, collections.Counter()
    file = function = ""
    is_call = False

    def named(word, kind):
        number, _, name = word.partition(" ")
        if name:
            names[kind, number] = name
        return names[kind, number]

    for line in text.splitlines():
        key, equals, word = line.partition("=")
        if equals and key in ("fl", "fi", "fe"):
            file = named(word, "file")
        elif equals and key == "fn":
            function = named(word, "function")
        elif equals and key in ("cfl", "cfi"):
            named(word, "file")
        elif equals and key == "cfn":
            named(word, "function")
        elif equals and key == "calls":
            is_call = True
        elif line[:1].isdigit() or line[:1] in "+-*":
            # The line behind a call counts what was called, which counts itself.
            if not is_call and len(line.split()) > 1:
                counts[layer_of(file, function)] += int(line.split()[1])
            is_call = False
    return counts


def main():
    program = str(pathlib.Path(sys.argv[1]).resolve())
    names = [name for name, _ in LAYERS if name != "bench"] + [REST]
    print("| operation |", " | ".join(names), "| all |")
    print("|---|" + "--:|" * (len(names) + 1))
    for name, few, many, items in OPERATIONS:
        first, second = count(program, name, few), count(program, name, many)
        each = {layer: (second[layer] - first[layer]) / ((many - few) * items) for layer in names}
        cells = [f"{each[layer]:,.0f}" for layer in names] + [f"{sum(each.values()):,.0f}"]
        print("|", " | ".join([name] + cells), "|")


main()
