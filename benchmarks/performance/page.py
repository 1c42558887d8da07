"""The results as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from benchmarks.performance import sections
from benchmarks.performance.targets import targets

COMMAND = "python -m benchmarks.performance"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table of texts."""
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def page(results: Mapping[str, Any], picture: str) -> str:
    """The whole page; ``picture`` is the plot's path from the page's folder, empty where there is none."""
    parts = {name: part["result"] for name, part in results["parts"].items()}
    facts = results["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    command = COMMAND + (f" --scale {results['scale']}" if results["scale"] != "full" else "")
    minutes = sum(part["seconds"] for part in results["parts"].values()) / 60
    head = [
        "# Performance",
        f"Made by `{command}` on {facts['date']}, in {minutes:.1f} minutes: {facts['hardware']},"
        f" {facts['threads']} torch threads; {versions}.",
        "Numbers are medians; in brackets the quartiles (of fewer than four measurements, the least and the largest)."
        " What is compared is measured in turn, in one run, and told as a ratio: machines are shared, and their speed"
        " drifts. Everything is on the CPU, in float32 where nothing else is said.",
        "## What was aimed at",
        table(
            ["", "aimed at", "measured", "", "why missed"],
            [
                [
                    row.what,
                    f"{'>=' if row.least else '<='} {row.bound:g}",
                    f"{row.measured:.3g}",
                    "hit" if row.hit else "**missed**",
                    "" if row.hit else row.reason,
                ]
                for row in targets(parts)
            ],
        ),
    ]
    body: list[str] = []
    for name, make in sections.SECTIONS.items():
        if name not in parts:
            continue
        title, text, headers, rows = make(parts[name])
        body += [f"## {title}", text]
        body += [table(headers, rows)] if rows else []
        if name == "growth" and picture:
            body.append(f"![Seconds against size, log-log, one panel a size]({picture})")
    missing = [name for name in sections.SECTIONS if name not in parts]
    if missing:
        body.append(f"Not measured: {', '.join(missing)}.")
    return "\n\n".join([*head, *body]) + "\n"
