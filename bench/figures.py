"""Rounds and tables: every contestant once in each round, then the medians, the spread and the ratios.

A ratio is the median of the ratios *within* each round: a disturbance of the machine affects neighbours
alike, and cancels out.
"""

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Samples = dict[str, list[dict[str, float]]]


@dataclass(frozen=True)
class Column:
    """One figure. `ratio`: also in units of the baseline's figure of the same round."""

    metric: str
    title: str
    form: str = ".0f"
    ratio: bool = False


def interleave(
    names: Sequence[str], rounds: int, measure: Callable[[str], dict[str, float]], *, label: str
) -> Samples:
    """A B C, C B A, A B C, ...: measures each name once in each round."""
    samples: Samples = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            progress(f"{label}: round {number + 1} of {rounds}, {name}")
            samples[name].append(measure(name))
    progress("")
    return samples


def ratio(samples: Samples, name: str, baseline: str, metric: str) -> float | None:
    """How many times the baseline's figure, or None if a figure is missing."""
    pairs = zip(samples.get(name, []), samples.get(baseline, []), strict=False)
    ratios = [
        ours[metric] / theirs[metric] for ours, theirs in pairs if metric in ours and theirs.get(metric)
    ]
    return statistics.median(ratios) if ratios else None


def table(
    title: str,
    samples: Samples,
    columns: Sequence[Column],
    *,
    baseline: str | None = None,
    notes: Sequence[str] = (),
) -> str:
    head = ["", *(word for column in columns for word in _heads(column, baseline))]
    rows = [
        [name, *(word for column in columns for word in _cells(samples, name, column, baseline))]
        for name in samples
    ]
    widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head))]
    lines = [f"\n## {title}\n"]
    for row in (head, ["-" * width for width in widths], *rows):
        first, *others = zip(row, widths, strict=True)
        lines.append(
            "  ".join([first[0].ljust(first[1]), *(word.rjust(width) for word, width in others)]).rstrip()
        )
    lines += ["", *notes] if notes else []
    return "\n".join(lines)


def _heads(column: Column, baseline: str | None) -> list[str]:
    return [column.title, f"x {baseline}"] if column.ratio and baseline else [column.title]


def _cells(samples: Samples, name: str, column: Column, baseline: str | None) -> list[str]:
    cells = [
        spread([sample[column.metric] for sample in samples[name] if column.metric in sample], column.form)
    ]
    if column.ratio and baseline:
        times = None if name == baseline else ratio(samples, name, baseline, column.metric)
        cells.append("" if times is None else f"{times:.2f}")
    return cells


def spread(values: Sequence[float], form: str) -> str:
    """The median, with the least and the greatest in brackets."""
    if not values:
        return "-"
    middle, least, most = (
        f"{value:{form}}" for value in (statistics.median(values), min(values), max(values))
    )
    return middle if least == most else f"{middle} ({least}..{most})"


def quantile(ordered: Sequence[float], share: float) -> float:
    """Of sorted values: the least one that is not below `share` of them."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def progress(text: str) -> None:
    """A line on a terminal, to be overwritten by the next one."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def merge(samples: Mapping[str, Mapping[str, float]]) -> Samples:
    """Figures measured only once, as samples."""
    return {name: [dict(figures)] for name, figures in samples.items()}
