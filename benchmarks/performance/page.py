"""The results as a page: targets, and a section for each part."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from benchmarks.performance.cold import shares
from benchmarks.performance.contest import ABSENT, standing
from benchmarks.performance.material import CLASSES, median, quartiles, ratios


@dataclass(frozen=True)
class Target:
    """A row: what is measured, the bound, whether it is a least (or a most) one, and what a miss comes from."""

    what: str
    bound: float
    measured: float
    least: bool
    reason: str

    @property
    def hit(self) -> bool:
        """Whether the measured number is on the bound's side."""
        return self.measured >= self.bound if self.least else self.measured <= self.bound


def targets(parts: Mapping[str, Mapping[str, Any]]) -> list[Target]:
    """The rows of all parts that were measured."""
    rows: list[Target] = []
    for name, make in (
        ("contest", _contest_targets),
        ("seeds", lambda result: _seeds_targets(result, parts.get("roofline"))),
        ("roofline", _roofline_targets),
        ("extraction", _extraction_targets),
        ("stacked", _stacked_targets),
        ("cold", _cold_targets),
        ("sharing", _sharing_targets),
        ("opening", _opening_targets),
    ):
        if name in parts:
            rows += make(parts[name])
    return rows


def _contest_targets(result: Mapping[str, Any]) -> list[Target]:
    whole = standing(result)
    pieces = {name: sum(seconds) for name, seconds in result["pieces"].items()}
    share = whole.units(pieces["train side by side"])
    passes = whole.units(pieces["extract"]), whole.units(pieces["extract bf16"])
    work = f"The training alone takes {share:.2f} passes, the bank {passes[0]:.2f} (bf16 {passes[1]:.2f})"
    table = "the whole table, in plain teacher passes"
    slower = passes[1] / passes[0]
    half = f"{work}: a pass in bf16 takes {slower:.2f} times as long as in fp32 on this processor."
    rows = [
        Target(f"{table}, two configurations side by side", 1.17, whole.units(whole.best), False, f"{work}."),
        Target(f"{table}, likewise, bank in bf16", 1, whole.units(whole.kvbench["side by side, bf16"]), False, half),
        Target(
            f"{table}, one after another",
            1.5,
            whole.units(whole.kvbench["one after another"]),
            False,
            "One seed of one configuration is trained on one thread; the other is idle.",
        ),
    ]
    names = {"source": ("the source's loop", 100), "torchdistill": ("torchdistill", 50), "heads": ("many heads", 8)}
    for name, (what, bound) in names.items():
        if name in whole.peers:
            reason = (
                f"It takes {whole.units(whole.peers[name]):.1f} passes, kvbench {whole.units(whole.best):.2f}, of which"
                f" the bank is {passes[0]:.2f}."
            )
            rows.append(Target(f"{what} / kvbench, same table", bound, whole.peers[name] / whole.best, True, reason))
    return rows


def _seeds_targets(result: Mapping[str, Any], roofline: Mapping[str, Any] | None) -> list[Target]:
    rows = []
    for name, row in result["students"].items():
        for lone, threads in (("lone", "one thread"), ("lone, all threads", "all threads")):
            if lone == "lone":
                reason = f"{result['threads']} threads can do no more than {result['threads']} times what one does."
            else:
                reason = "A lone step leaves little of the threads idle."
            if roofline is not None and name == "Model3":  # whose step the roofline is of
                least = roofline["limits"]["both"] / result["threads"]
                each = median(row[lone]) / result["seeds"] / result["steps"]
                reason += (
                    f" It takes {1e3 * each:.1f} ms; its products and optimiser take {1e3 * least:.1f} at least"
                    f" (roofline, all threads busy), so that no more than {each / least:.1f} times can be saved."
                )
            what = f"lone runs on {threads} / {result['seeds']} seeds together, {name}"
            rows.append(Target(what, 2, median(row[lone]) / median(row["together"]), True, reason))
    return rows


def _roofline_targets(result: Mapping[str, Any]) -> list[Target]:
    speeds = {name: value / 1e9 for name, value in result["speeds"].items()}
    small = ", ".join(f"{name}: {speeds[name]:.0f}" for name in speeds if "@" in name)
    reason = (
        f"Products of the step's sizes reach less than large ones ({small}; large: {speeds['product']:.0f} GFLOP/s),"
        " and activations, softmax and the gather are in neither limit."
    )
    return [Target("Model3's training step, share of the roofline", 0.6, result["share"]["both"], True, reason)]


def _extraction_targets(result: Mapping[str, Any]) -> list[Target]:
    reason = (
        "Convolutions of few channels, normalisation and activations reach less than a large product, and the way of"
        " the images to the device counts, too."
    )
    share = result["shares"]["float32"]
    return [Target("the teacher's pass in float32, share of the products' speed", 0.6, share, True, reason)]


def _stacked_targets(result: Mapping[str, Any]) -> list[Target]:
    if result["hardware"].startswith("cpu"):
        return []  # which one seed keeps busy
    return [
        Target(
            f"seeds one after another / {result['seeds']} seeds stacked, {name}",
            20,
            median(row["one after another"]) / median(row["stacked"]),
            True,
            "A step of the stack has more to compute than one seed's has to launch.",
        )
        for name, row in result["students"].items()
    ]


def _cold_targets(result: Mapping[str, Any]) -> list[Target]:
    wall, parts = result["wall"], result["parts"]
    other = wall - parts["teacher"] - parts["training"]
    most = sorted(((parts[name], name) for name in ("render", "evaluation", "bank files", "harness")), reverse=True)
    reason = ", ".join(f"{name} {seconds:.1f} s" for seconds, name in most)
    reason += " (evaluation: all validation images through a student after every epoch, and the state that it leaves)"
    return [
        Target("all but teacher and training of a cold run, share", 0.1, other / wall, False, f"{reason}."),
        Target(
            f"a cold run ({' '.join(result['options'])}), minutes",
            6 if result["device"] == "cpu" else 1 / 3,
            wall / 60,
            False,
            f"Training is {parts['training'] / 60:.1f} of the {wall / 60:.1f} minutes.",
        ),
    ]


def _sharing_targets(result: Mapping[str, Any]) -> list[Target]:
    gather = result["gather"]["seconds"]
    times = median(ratios(gather["parts"], gather["one file"]))
    reason = "The rows of a batch lie in many parts: each that has some is asked, and its rows are put in place."
    rows = [Target("rows of a bank in parts / in one file", 1.1, times, False, reason)]
    for workers, each in (result["workers"] or {"seconds": {}})["seconds"].items():
        what = f"the pass by {workers} of Ray's workers / by one process"
        reason = "A worker's process is slower beside Ray's own; where the time goes was not found."
        rows.append(Target(what, 1.05, median(ratios(each["ray"], each["alone"])), False, reason))
    return rows


def _opening_targets(result: Mapping[str, Any]) -> list[Target]:
    large = result["large"][0]
    what = f"opening a bank of {large['bytes'] / 1e9:.3g} GB in {large['parts']:,} parts again, seconds"
    reason = f"Each part is mapped and its labels are read, which makes the system read {large['read ahead']} ahead."
    return [Target(what, 10, median([one["seconds"] for one in result["large"]]), False, reason)]


Section = tuple[str, str, list[str], list[list[str]]]  # title, text, headers, rows


def milliseconds(seconds: Sequence[float]) -> str:
    """Median and quartiles, in ms."""
    low, high = quartiles(seconds)
    return f"{1e3 * median(seconds):.4g} ({1e3 * low:.4g} to {1e3 * high:.4g})"


def _contest(result: Mapping[str, Any]) -> Section:
    whole, peers = standing(result), result["peers"]
    names = {
        "source": "the source's loop: the teacher at every step",
        "torchdistill": "torchdistill's `DistillationBox`",
        "heads": "all heads in one pass per epoch, as in DINOv2",
    }
    rows = [["one plain teacher pass (the unit)", milliseconds(peers["unit"]), str(len(peers["unit"])), "1", ""]]
    rows += [
        [
            what,
            *(
                [
                    milliseconds(peers[k]),
                    str(len(peers[k])),
                    f"{whole.units(whole.peers[k]):.1f}",
                    f"{whole.peers[k] / whole.best:.1f}",
                ]
                if k in whole.peers
                else [ABSENT, "0", "", ""]
            ),
        ]
        for k, what in names.items()
    ]
    rows += [
        [f"kvbench, {k}", "whole", "1", f"{whole.units(v):.2f}", f"{v / whole.best:.2f}"]
        for k, v in whole.kvbench.items()
    ]
    pieces = {name: sum(seconds) for name, seconds in result["pieces"].items()}
    text = (
        f"{result['configurations']} configurations x {result['epochs']} epochs x {result['steps']} steps of"
        f" {result['batch']}, {result['images']:,} generated images at {result['pixels']} pixels, {CLASSES} classes,"
        " one seed; images are rendered beforehand and in memory for all of them, and nobody evaluates. Same teacher"
        " (ResNet18), heads and fused Adam. The unit: float32, torch's default layout, inference mode. A peer's step is"
        f" timed once for each of the configurations, after a small one; scaled up:"
        f" x {result['steps'] * result['epochs']:,} steps"
        f" (x {result['configurations']} configurations, but for the many heads). kvbench is measured whole, in pieces"
        " between which the peers are sampled: one teacher pass (`Settings.open_banks`, files and all), then training."
        " *Side by side*: two configurations at once on one thread each, as `pytest benchmarks/ -n 2` trains; one seed"
        f" alone uses one thread. Pieces in units: "
        + ", ".join(f"{name} {whole.units(seconds):.2f}" for name, seconds in pieces.items())
        + f". bf16 against float32 extraction: {pieces['extract'] / pieces['extract bf16']:.2f} times as fast."
    )
    return "Against its peers", text, ["", "ms per step", "n", "passes", "times kvbench's"], rows


def _cold(result: Mapping[str, Any]) -> Section:
    parts, wall, each = result["parts"], result["wall"], shares(result["phases"])
    rows = [[name, f"{s:.1f}", f"{s / wall:.1%}"] for name, s in sorted(parts.items(), key=lambda kv: -kv[1])]
    rows += [
        [f"of training: {name}", f"{share * parts['training']:.1f}", f"{share * parts['training'] / wall:.1%}"]
        for name, share in each.items()
    ]
    outcome = "passed" if result["passed"] else "ended with failed comparisons"
    text = (
        f"`pytest benchmarks/ {' '.join(result['options'])}` with an empty cache, in a process of its own: {wall:.0f}"
        f" seconds, at most {result['memory'] / 1e6:,.0f} MB of memory; it {outcome}. *harness* is everything else:"
        " imports, collection, comparing, judging, reports."
        " Training is divided by the phases of a step, each student's measured apart on one thread."
    )
    return "Where a cold run's time goes", text, ["", "seconds", "share"], rows


def _roofline(result: Mapping[str, Any]) -> Section:
    speeds, share, least = result["speeds"], result["share"], result["limits"]
    size = result["bytes"]
    rows = [
        [name, milliseconds(result["seconds"][name]), f"{value / 1e9:.1f} {'GB/s' if 'copy' in name else 'GFLOP/s'}"]
        for name, value in speeds.items()
    ]
    text = (
        f"One thread; `product` is of {result['side']} x {result['side']}; `copy near` moves"
        f" {size['copy near'] / 1e6:.0f} MB, as much as Model3's weights, gradients and moments, `copy far`"
        f" {size['copy far'] / 1e6:.0f} MB; bytes read and written count. A step of Model3 at 64 samples:"
        f" {result['flops']['step'] / 1e9:.2f} GFLOP, at least {1e3 * least['compute']:.2f} ms at `product`'s speed;"
        f" Adam moves {size['optimiser'] / 1e6:.0f} MB, at least {1e3 * least['memory']:.2f} ms at `copy near`'s. Share"
        f" of the roofline, one phase after the other: **{share['both']:.0%}**; of the products' limit alone"
        f" {share['compute']:.0%}, of the bytes' alone {share['memory']:.0%}."
    )
    return "The roofline", text, ["", "ms", "speed"], rows


def _extraction(result: Mapping[str, Any]) -> Section:
    rows = [
        [
            precision,
            milliseconds([s / 1e3 for s in result["ms"][precision]]),
            f"{rate:,.0f}",
            f"{result['speeds'][precision] / result['flops']:,.0f}",
            f"{result['shares'][precision]:.0%}",
        ]
        for precision, rate in result["rates"].items()
    ]
    text = (
        f"ResNet18 on {result['hardware']}, images of {result['pixels']} pixels from memory, all threads. *Limit*:"
        f" images a second if all of the pass, {result['flops'] / 1e9:.2f} GFLOP an image, were as quick as a product"
        f" of two {result['side']} x {result['side']} matrices in the same precision; a kernel that needs fewer"
        " multiplications than that (Winograd's) can be above it."
    )
    return "The teacher's pass", text, ["", "ms an image", "images a second", "limit", "share"], rows


def _seeds(result: Mapping[str, Any]) -> Section:
    n = result["seeds"]
    rows = [
        [
            name,
            milliseconds([s / n for s in r["together"]]),
            *(
                text
                for lone in ("lone", "lone, all threads")
                for text in (milliseconds([s / n for s in r[lone]]), f"{median(r[lone]) / median(r['together']):.2f}")
            ),
        ]
        for name, r in result["students"].items()
    ]
    text = (
        f"An epoch of {result['rows']:,} rows, milliseconds a seed: {n} seeds in one `Training`, and {n} lone runs one"
        f" after another: as kvbench trains one seed (one thread), and with all {result['threads']} threads at every"
        " step, as a plain loop does, whose histories then depend on the number of threads."
    )
    return "Seeds together", text, ["", "together", "lone", "ratio", "lone, all threads", "ratio"], rows


def _stacked(result: Mapping[str, Any]) -> Section:
    n, ways = result["seeds"], ("side by side", "one after another")
    rows = []
    for name, seconds in result["students"].items():
        row = [name, milliseconds([s / n for s in seconds["stacked"]])]
        for way in ways:
            ratio = median(seconds[way]) / median(seconds["stacked"])
            row += [milliseconds([s / n for s in seconds[way]]), f"{ratio:.2f}"]
        rows.append(row)
    text = (
        f"An epoch of {result['rows']:,} rows, milliseconds a seed, on {result['hardware']}: {n} seeds as one model"
        " (`--kvbench-strategy stacked`), side by side (`interleaved`), and as lone runs one after another."
    )
    return "Seeds stacked", text, ["", "stacked", ways[0], "ratio", ways[1], "ratio"], rows


def _sharing(result: Mapping[str, Any]) -> Section:
    gather, decode, workers = result["gather"], result["decode"], result["workers"]
    rows = []

    def row(what: str, seconds: Sequence[float], against: Sequence[float], each: str) -> None:
        times = ratios(seconds, against)
        rows.append([what, f"{median(times):.3f} ({times[0]:.3f} to {times[-1]:.3f})", each])

    for name, other in (("parts", "one file"), ("parts", "memory"), ("one file", "memory")):
        batch = 1e3 * median(gather["seconds"][name]) / gather["batches"]
        row(f"gathering from {name} / from {other}", gather["seconds"][name], gather["seconds"][other],
            f"{batch:.3f} ms a batch of 64")  # fmt: skip
    for name, other in (("threads", "processes"), ("one", "processes")):
        rate = decode["photos"] / median(decode["seconds"][name])
        what = "2 threads" if name == "threads" else "one process"
        row(f"decoding by {what} / by 2 {other}", decode["seconds"][name], decode["seconds"][other],
            f"{rate:.0f} images a second")  # fmt: skip
    for count, each in (workers or {"seconds": {}})["seconds"].items():
        row(f"the pass by {count} of Ray's workers / by one process", each["ray"],
            each["alone"], f"{workers['rows'] / median(each['ray']):.0f} images a second")  # fmt: skip
    text = (
        "Ratios of seconds, medians and ranges of turns. *Gathering*: an epoch's rows in drawn batches of 64, of a"
        f" bank of {gather['bytes'] / 1e6:,.0f} MB in {gather['parts']} mapped parts, in one mapped file, or in memory;"
        f" all epochs together added {gather['anonymous'] / 1e6:.0f} MB to the process's own memory. *Decoding*:"
        f" {decode['photos']:,} JPEG files of 500 x 375 pixels and {decode['bytes'] / 1e3:.0f} kB, cropped to 224; by"
        " two processes as the loader does."
    )
    if workers:
        text += (
            f" *The teacher's pass*: {workers['parts']} parts of {workers['rows']} images of 64 pixels, in steady"
            " state, by a Ray cluster on this machine, and by one process with as many threads."
        )
    else:
        text += " Ray was not installed."
    return "Sharing work", text, ["", "ratio", "of the first"], rows


def _opening(result: Mapping[str, Any]) -> Section:
    photos, bank, large = result["photos"], result["bank"], result["large"][0]
    again = sorted(one["seconds"] for one in result["large"])
    steps = {
        "listing": "list the files",
        "fingerprint": "ask each for its facts, and name the bank",
        "stat calls alone": "of which the system's `stat` calls",
        "fingerprint again": "the same again",
    }
    rows = [[f"{photos['images']:,} photographs: {what}", f"{photos[step]:.2f}"] for step, what in steps.items()]
    rows += [
        [f"their bank, {bank['parts']} parts: for the first time", f"{bank['first']:.2f}"],
        ["their bank: again", f"{bank['again']:.2f}"],
        [
            f"a bank of {large['bytes'] / 1e9:.3g} GB, {large['parts']:,} parts: again",
            f"{median(again):.2f} ({again[0]:.2f} to {again[-1]:.2f})",
        ],
    ]
    text = (
        "What a run needs before it can take what earlier ones left. Photographs: processor seconds; the files are"
        " empty, on a local disk and in the system's cache. The bank: seconds; for the first time all checksums are"
        f" compared ({bank['bytes'] / 1e9:.2f} GB, {bank['bytes'] / 1e9 / bank['first']:.1f} GB a second, from the"
        " system's cache), then each part's size and time of change. The large bank is one of files with holes,"
        f" opened right after they were written, on a disk of which {large['read ahead']} are read ahead"
        " (Linux's usual setting is 128 kB)."
    )
    return "Opening what is done", text, ["", "seconds"], rows


SECTIONS: dict[str, Callable[[Mapping[str, Any]], Section]] = {
    "contest": _contest,
    "cold": _cold,
    "roofline": _roofline,
    "extraction": _extraction,
    "seeds": _seeds,
    "stacked": _stacked,
    "sharing": _sharing,
    "opening": _opening,
}


COMMAND = "python -m benchmarks.performance"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table of texts."""
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def wrapped(text: str, indent: str = "") -> str:
    """A paragraph in lines of at most 120 characters."""
    return textwrap.fill(text, 120, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)


def page(results: Mapping[str, Any]) -> str:
    """The whole page, from what the command keeps."""
    parts = {name: part["result"] for name, part in results["parts"].items()}
    facts = results["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    command = COMMAND + (f" --scale {results['scale']}" if results["scale"] != "full" else "")
    minutes = sum(part["seconds"] for part in results["parts"].values()) / 60
    rows = targets(parts)
    blocks = [
        "# Performance",
        wrapped(
            f"Measured by `{command}` on {facts['date']}, in {minutes:.1f} minutes: {facts['hardware']},"
            f" {facts['threads']} torch threads; {versions}."
        ),
        wrapped(
            "Numbers are medians; in parentheses the quartiles (of fewer than four measurements, minimum and maximum)."
            " Whatever is compared is measured alternately, in one run, and reported as a ratio: machines are shared,"
            " and their speed drifts. All is in float32 unless stated otherwise, and on the CPU, but for a cold run,"
            " the teacher's pass and stacked seeds, which take an accelerator where there is one."
        ),
        "## Targets",
        table(
            ["", "target", "measured", ""],
            [
                [
                    row.what,
                    f"{'>=' if row.least else '<='} {row.bound:g}",
                    f"{row.measured:.3g}",
                    "hit" if row.hit else "**missed**",
                ]
                for row in rows
            ],
        ),
    ]
    if reasons := [wrapped(f"- {row.what}: {row.reason}", "  ") for row in rows if not row.hit]:
        blocks += ["Missed, because:", "\n".join(reasons)]
    for name, make in SECTIONS.items():
        if name in parts:
            title, text, headers, cells = make(parts[name])
            blocks += [f"## {title}", wrapped(text), table(headers, cells)]
    if missing := [name for name in SECTIONS if name not in parts]:
        blocks.append(f"Not measured: {', '.join(missing)}.")
    return "\n\n".join(blocks) + "\n"
