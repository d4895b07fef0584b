"""Bars as SVG: one panel for each contestant, one scale for all. Readable on light and dark pages."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

PANEL_WIDTH, BARS, COLUMNS = 184, 120, 4
_MARGIN, _HEAD, _LABEL, _FOOT = 16, 52, 40, 18
_STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328; }
  .title { font-size: 16px; font-weight: 600; }
  .small { font-size: 12px; fill: #59636e; }
  .peer { fill: #9a6b3f; } .ours { fill: #1a7f5a; }
  .mean { stroke: #59636e; stroke-dasharray: 4 3; } .floor { stroke: #b9c0c7; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } .small { fill: #9198a1; }
    .peer { fill: #c9935f; } .ours { fill: #3fb98a; } .mean { stroke: #9198a1; } .floor { stroke: #4a525b; }
  }
"""


@dataclass(frozen=True)
class Panel:
    """How many connections each worker got, the largest first."""

    name: str
    counts: Sequence[int]
    ours: bool = False


def picture(title: str, panels: Sequence[Panel], *, mean: float, notes: Sequence[str]) -> str:
    rows = -(-len(panels) // COLUMNS)
    width = 2 * _MARGIN + COLUMNS * PANEL_WIDTH
    foot = _HEAD + rows * (_LABEL + BARS + _FOOT)
    height = foot + len(notes) * 18 + 10
    scale = BARS / max((max(panel.counts) for panel in panels), default=1)
    told = "; ".join(f"{panel.name}: {', '.join(map(str, panel.counts))}" for panel in panels)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<desc>{escape(told)}</desc>",
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="{_MARGIN}" y="28">{escape(title)}</text>',
    ]
    for number, panel in enumerate(panels):
        left = _MARGIN + number % COLUMNS * PANEL_WIDTH
        top = _HEAD + number // COLUMNS * (_LABEL + BARS + _FOOT)
        lines += drawn(panel, left, top, scale, mean)
    for number, note in enumerate(notes):
        lines.append(f'<text class="small" x="{_MARGIN}" y="{foot + 10 + 18 * number}">{escape(note)}</text>')
    return "\n".join([*lines, "</svg>", ""])


def drawn(panel: Panel, left: float, top: float, scale: float, mean: float) -> list[str]:
    """One panel: its name, the range, a bar for each worker, the mean."""
    wide = PANEL_WIDTH - 16
    floor = top + _LABEL + BARS
    step = wide / len(panel.counts)
    kind = "ours" if panel.ours else "peer"
    level = floor - mean * scale
    bars = [
        f'<rect class="{kind}" x="{left + number * step:.1f}" y="{floor - count * scale:.1f}"'
        f' width="{step - 4:.1f}" height="{count * scale:.1f}"/>'
        for number, count in enumerate(panel.counts)
    ]
    spread = f"{panel.counts[-1]} to {panel.counts[0]} a worker"
    return [
        f'<text x="{left}" y="{top + 12}">{escape(panel.name)}</text>',
        f'<text class="small" x="{left}" y="{top + 28}">{spread}</text>',
        *bars,
        f'<line class="floor" x1="{left}" x2="{left + wide - 4}" y1="{floor}" y2="{floor}"/>',
        f'<line class="mean" x1="{left}" x2="{left + wide - 4}" y1="{level:.1f}" y2="{level:.1f}"/>',
    ]
