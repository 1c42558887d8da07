"""What each part's results say: title, text, and a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.performance import cold, growth, plan, precision
from benchmarks.performance.clock import median, quartiles
from benchmarks.performance.peer import ABSENT
from benchmarks.performance.standing import standing

Section = tuple[str, str, list[str], list[list[str]]]  # title, text, headers, rows


def milliseconds(seconds: Sequence[float]) -> str:
    """Median and quartiles, in ms."""
    low, high = quartiles(seconds)
    return f"{1e3 * median(seconds):.4g} ({1e3 * low:.4g} to {1e3 * high:.4g})"


def _contest(result: Mapping[str, Any]) -> Section:
    made, peers = standing(result), result["peers"]
    names = {
        "source": "the source's loop: teacher at every step of every configuration",
        "torchdistill": "torchdistill's `DistillationBox`, one configuration after another",
        "heads": "all heads in one pass an epoch, as DINOv2's linear evaluation",
    }
    rows = [["one plain teacher pass (the unit)", milliseconds(peers["unit"]), str(len(peers["unit"])), "1", ""]]
    rows += [
        [
            what,
            *(
                [
                    milliseconds(peers[k]),
                    str(len(peers[k])),
                    f"{made.units(made.peers[k]):.1f}",
                    f"{made.peers[k] / made.best:.1f}",
                ]
                if k in made.peers
                else [ABSENT, "0", "", ""]
            ),
        ]
        for k, what in names.items()
    ]
    rows += [
        [f"kvbench, {k}", "whole", "1", f"{made.units(v):.2f}", f"{v / made.best:.2f}"] for k, v in made.kvbench.items()
    ]
    pieces = {name: sum(seconds) for name, seconds in result["pieces"].items()}
    text = (
        f"{result['configurations']} configurations x {result['epochs']} epochs x {result['steps']} steps of"
        f" {result['batch']}, {result['images']:,} generated images at {result['pixels']} pixels, 1000 classes, one"
        " seed; images are rendered beforehand and in memory for all of them, and nobody evaluates. Same teacher"
        " (ResNet18), heads and fused Adam. The unit: float32, torch's default layout, inference mode. A peer's step is"
        f" timed once for each of the configurations, after a small one; scaled up:"
        f" x {result['steps'] * result['epochs']:,} steps"
        f" (x {result['configurations']} configurations, but for the many heads). kvbench is measured whole, in pieces"
        " between which the peers are sampled: one teacher pass (`Settings.open_banks`, files and all), then training."
        " *Side by side*: two configurations at once on one thread each, as `pytest benchmarks/ -n 2` trains; one seed"
        f" alone uses one thread. Pieces in units: "
        + ", ".join(f"{name} {made.units(seconds):.2f}" for name, seconds in pieces.items())
        + f". bf16 against float32 extraction: {pieces['extract'] / pieces['extract bf16']:.2f} times as fast."
    )
    return "Against its peers", text, ["", "ms a step", "n", "teacher passes", "times kvbench's"], rows


def _cold(result: Mapping[str, Any]) -> Section:
    parts, wall, each = result["parts"], result["wall"], cold.shares(result["phases"])
    rows = [[name, f"{s:.1f}", f"{s / wall:.1%}"] for name, s in sorted(parts.items(), key=lambda kv: -kv[1])]
    rows += [
        [f"of training: {name}", f"{share * parts['training']:.1f}", f"{share * parts['training'] / wall:.1%}"]
        for name, share in each.items()
    ]
    outcome = "passed" if result["passed"] else "ended with failed comparisons"
    text = (
        f"`pytest benchmarks/ {' '.join(result['options'])}` with an empty cache, in a process of its own: {wall:.0f}"
        f" seconds; it {outcome}. *harness* is everything else: imports, collection, comparing, judging, reports."
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
        f"One thread unless said otherwise; `product` is of {result['side']} x {result['side']}; `copy near` moves"
        f" {size['copy near'] / 1e6:.0f} MB, as much as Model3's weights, gradients and moments, `copy far`"
        f" {size['copy far'] / 1e6:.0f} MB; bytes read and written count. A step of Model3 at 64 samples:"
        f" {result['flops']['step'] / 1e9:.2f} GFLOP, at least {1e3 * least['compute']:.2f} ms at `product`'s speed;"
        f" Adam moves {size['optimiser'] / 1e6:.0f} MB, at least {1e3 * least['memory']:.2f} ms at `copy near`'s. Share"
        f" of the roofline, one phase after the other: **{share['both']:.0%}**; of the products' limit alone"
        f" {share['compute']:.0%}, of the bytes' alone {share['memory']:.0%}. Extraction reaches"
        f" **{result['extraction share']:.0%}** of all {result['threads']} threads' product speed"
        f" ({result['flops']['image'] / 1e9:.2f} GFLOP an image)."
    )
    return "The roofline", text, ["", "ms", "speed"], rows


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


def _threads(result: Mapping[str, Any]) -> Section:
    rows = [[name, milliseconds(values)] for name, values in result.items()]
    text = (
        "A step of Model3 is some fifty operators, most of them well below a millisecond. On two threads each operator"
        " is divided and waited for: its matrices are small, and every operator ends when the slower thread does,"
        " which on a shared machine is often late. Two runs on a thread each never wait for each other, so a"
        " run's thread is always busy; the optimiser's traffic is all that they compete for."
    )
    return "Threads", text, ["", "ms a step (side by side: of both runs' steps)"], rows


def _precision(result: Mapping[str, Any]) -> Section:
    rows = []
    for student, both in result["students"].items():
        for metric in precision.METRICS:
            moved, between = precision.differences(both, metric)
            rows.append([student, metric, f"{moved:+.3f}%", f"{between:.3f}%"])
    train, val = result["counts"]
    text = (
        f"The bank of {train:,} and {val:,} generated images of 64 pixels made in bfloat16 instead of float32: last"
        f" epoch's values, mean difference over {result['seeds']} seeds of the same numbers, beside the standard"
        " deviation between seeds."
    )
    return "Extraction in bfloat16", text, ["", "", "bf16 - float32", "SD between seeds"], rows


def _large(result: Mapping[str, Any]) -> Section:
    rows = [
        [
            name,
            milliseconds(r["file"]),
            milliseconds(r["memory"]),
            f"{median(r['file']) / median(r['memory']):.2f}",
            f"{result['anonymous'][name] / 1e6:.0f} MB",
        ]
        for name, r in result["steps"].items()
    ]
    each = result["gather"]
    rows += [
        [
            f"gather alone, {how}",
            milliseconds(each[f"file, {how}"]),
            milliseconds(each[f"memory, {how}"]),
            f"{median(each[f'file, {how}']) / median(each[f'memory, {how}']):.2f}",
            "",
        ]
        for how in ("as drawn", "sorted")
    ]
    text = (
        f"{result['rows']:,} rows, 1000 classes, fp16, {result['bytes'] / 1e9:.2f} GB in a file just written, so that"
        f" the page cache is warm where memory suffices (drawn rows, repeated). Milliseconds a step on one thread,"
        f" a sample of {result['sample']} steps of an epoch, against a bank of {result['beside']:,} rows in memory."
        " Anonymous memory: how much the process's own grew at most while both were trained; pages of the file are"
        " the system's to take back."
    )
    return "A bank of ImageNet's size", text, ["", "file", "memory", "ratio", "anonymous memory"], rows


def _growth(result: Mapping[str, Any]) -> Section:
    fitted = growth.exponents(result)
    rows = [[line, ", ".join(sizes), f"{fitted[line]:.2f}"] for line, sizes in result.items()]
    text = (
        "Cost against size; the exponent is the slope of log seconds over log size (1: proportional). Epochs are of"
        " Model3 (configurations: of as many Model3, one after another); a pass"
        " includes loading the teacher; seeds from two on, since one uses one thread."
    )
    return "Growth", text, ["", "sizes", "exponent"], rows


def _plan(result: Mapping[str, Any]) -> Section:
    one, five = (plan.hours(result, seeds) for seeds in (1, 5))
    rows = [[stage, f"{one[stage]:.2f}", f"{five[stage]:.2f}"] for stage in one]
    for name, bf16 in (("all, float32", False), ("all, bf16", True)):
        left_out = "teacher pass" if bf16 else "teacher pass, bf16"
        rows.append([name, *(f"{sum(v for k, v in hours.items() if k != left_out):.2f}" for hours in (one, five))])
    each = {name: 1e3 * median(values) for name, values in result["images"].items()}
    text = (
        f"Hours on this machine for ImageNet ({plan.IMAGENET['train']:,} and {plan.IMAGENET['val']:,} images at"
        f" {plan.PIXELS} pixels), both recipes of {len(result['steps'])} students, {result['epochs']} epochs, two runs"
        f" at once. From rates of this run: decoding a JPEG file ({plan.PHOTO[0]} x {plan.PHOTO[1]},"
        f" {result['photo bytes'] / 1e3:.0f} kB) {each['decode']:.1f} ms on one processor; the pass {each['pass']:.1f}"
        f" ms an image (bf16 {each['pass bf16']:.1f}); steps a student: "
        + ", ".join(f"{name} {1e3 * median(v):.2f}" for name, v in result["steps"].items())
        + " ms, two at once. Evaluation is not in it."
    )
    return "Plan of the full run", text, ["stage", "hours, 1 seed", "hours, 5 seeds"], rows


SECTIONS: dict[str, Callable[[Mapping[str, Any]], Section]] = {
    "contest": _contest,
    "cold": _cold,
    "roofline": _roofline,
    "seeds": _seeds,
    "threads": _threads,
    "precision": _precision,
    "large": _large,
    "growth": _growth,
    "plan": _plan,
}
