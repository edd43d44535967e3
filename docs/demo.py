#!/usr/bin/env python3
"""Renders a recording of the demo as docs/demo.svg.

    python3 docs/demo.py             renders docs/demo.txt
    python3 docs/demo.py --record    runs the demo, writes its output to docs/demo.txt, and renders that

The text is what the program printed. Two things are replaced: the home directory by `~`, and the current directory
by `.`. The pace of the animation is not that of the run. The same text always gives the same picture.
"""
import os
import pathlib
import re
import subprocess
import sys
from html import escape

HERE = pathlib.Path(__file__).resolve().parent
TEXT = HERE / "demo.txt"
PICTURE = HERE / "demo.svg"
COMMAND = ["cargo", "run", "--release", "--features", "cli", "--", "demo"]

# Pixels.
FONT, LINE, COLUMN, MARGIN, BAR = 13, 19, 7.83, 18, 34
# Seconds from one line to the next, by how the line begins; all lines of the closing table come at once.
PACE = {"killed": 0.9, "closed": 0.9, "│": 0.0, "└": 0.0}
USUAL_PACE = 0.5

STYLE = """
    .card { fill: #f6f8fa; stroke: #d0d7de } text { fill: #1f2328 } .dim { fill: #59636e }
    .good { fill: #116329; font-weight: 600 } .bad { fill: #b3261e; font-weight: 600 }
    @media (prefers-color-scheme: dark) {
      .card { fill: #161b22; stroke: #30363d } text { fill: #e6edf3 } .dim { fill: #9198a1 }
      .good { fill: #4ac26b } .bad { fill: #ff7b72 }
    }
    text {
      font: %dpx ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
      white-space: pre;
    }
    .line { animation: appear 0.01s linear backwards }
    @keyframes appear { from { opacity: 0 } to { opacity: 1 } }
    @media (prefers-reduced-motion: reduce) { .line { animation: none } }
""" % FONT

# What stands out: the class, and the text that gets it.
MARKS = [
    ("bad", r"^killed"),
    ("good", r"^closed"),
    ("good", r"\b0 lost, 0 wrong, 0 batches in part"),
    ("bad", r"\b(?!0 lost, 0 wrong, 0 batches in part)[\d,]+ lost, [\d,]+ wrong, [\d,]+ batches in part"),
    ("good", r"^Every acknowledged file is there.*"),
    ("bad", r"^The store did not keep its promise\."),
    ("dim", r"^(files of|go into) .*"),
    ("dim", r"[┌│└─┐┘]+"),
]


def record():
    """Runs the demo from the repository's root and keeps what it printed."""
    run = subprocess.run(COMMAND, cwd=HERE.parent, stdout=subprocess.PIPE, check=True)
    text = run.stdout.decode()
    for path, short in [(str(HERE.parent), "."), (str(pathlib.Path.home()), "~")]:
        text = text.replace(path + os.sep, short + os.sep)
    TEXT.write_text(text)


def marked(line):
    """The line as SVG, with what stands out in a `tspan`."""
    pieces, at = [], 0
    found = sorted((m.span(), name) for name, pattern in MARKS for m in re.finditer(pattern, line))
    for (begin, end), name in found:
        if begin < at:
            continue
        pieces.append(escape(line[at:begin], quote=False))
        pieces.append(f'<tspan class="{name}">{escape(line[begin:end], quote=False)}</tspan>')
        at = end
    pieces.append(escape(line[at:], quote=False))
    return "".join(pieces)


def render(text):
    lines = ["$ " + " ".join(COMMAND)] + text.rstrip("\n").split("\n")
    width = round(max(map(len, lines)) * COLUMN + 2 * MARGIN)
    height = BAR + len(lines) * LINE + MARGIN
    title = "The demo: the writer is killed five times, and every acknowledged file is there after each kill."
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">',
        f"  <title>{escape(title)}</title>",
        f"  <style>{STYLE}  </style>",
        f'  <rect class="card" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"/>',
    ]
    for x in (22, 38, 54):
        out.append(f'  <circle class="dim" cx="{x}" cy="17" r="4.5" opacity="0.5"/>')
    time = 0.0
    for number, line in enumerate(lines):
        if number > 0:
            time += next((pace for begin, pace in PACE.items() if line.startswith(begin)), USUAL_PACE)
        y = BAR + LINE * number + FONT
        out.append(
            f'  <text class="line" x="{MARGIN}" y="{y}" xml:space="preserve" '
            f'style="animation-delay: {time:.1f}s">{marked(line)}</text>'
        )
    out.append("</svg>")
    return "\n".join(out) + "\n"


def main():
    if sys.argv[1:] == ["--record"]:
        record()
    elif sys.argv[1:]:
        sys.exit(__doc__)
    PICTURE.write_text(render(TEXT.read_text()))


if __name__ == "__main__":
    main()
