"""How figures are drawn: style, labels beside what they name, PNG, SVG and pixels.

matplotlib is imported with the first figure: a command that draws none does not wait for it. A
figure is narrow enough to be read on a phone; `to_svg` leaves its colours to the page, so that it
is light or dark as the page is.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lhrm_jax.text.characters import printable

if TYPE_CHECKING:
  from matplotlib.figure import Figure

# One colour per mode everywhere, distinct in grey and to the colour-blind as well.
COLOURS = {"auto": "#1b1b1b", "think": "#c2571a", "no_think": "#2b6cb0"}
INK, MUTED, GRID, GREEN = "#1b1b1b", "#757575", "#e6e6e6", "#3f7d4e"
# What the page's style calls these colours; see templates/style.css.
_VARIABLES = {
  INK: "--ink", MUTED: "--muted", GRID: "--grid", GREEN: "--green",
  COLOURS["think"]: "--think", COLOURS["no_think"]: "--no-think", "#ffffff": "--page",
}  # fmt: skip
# Of arms, distinct to the colour-blind; after these, again with other markers.
ARMS = (INK, COLOURS["think"], COLOURS["no_think"], GREEN, "#8f3f76", "#8a5a00", "#1f7a8c", MUTED)
_VARIABLES |= {colour: f"--arm-{i}" for i, colour in enumerate(ARMS[4:7], 5)}
SIZE = 9.5  # of text, points


MODES = (COLOURS["think"], COLOURS["no_think"])


def shades(count: int) -> list[str]:
  """Colours from that of no-think to that of think, for what goes from easy to hard."""
  ends = [np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) for c in reversed(MODES)]
  steps = np.linspace(0, 1, count) if count != 1 else [1.0]
  mixed = [((1 - t) * ends[0] + t * ends[1]).round().astype(int) for t in steps]
  return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in mixed]


# ---- Labels beside what they name, in place of a legend


def label_ends(figure: Figure, axes: Any, ends: Sequence[tuple[float, str, str]]) -> None:
  """Writes labels right of the axes at the heights of the lines' ends, apart from each other.

  Args:
    figure: the figure.
    axes: its axes, limits set.
    ends: height in data units, text and colour of each line.
  """
  ends = sorted((end for end in ends if np.isfinite(end[0])), key=lambda end: end[0])
  if not ends:
    return
  low, high = axes.get_ylim()
  height = figure.get_figheight() * 72 * 0.72  # of the axes, points, about
  gap = 1.15 * SIZE / height
  wanted = np.array([(y - low) / (high - low) for y, _, _ in ends])
  places = spread(wanted, gap)
  places -= max(places[-1] - 1, 0)  # as far up as the axes go
  for place, (_, text, colour) in zip(places, ends, strict=True):
    axes.annotate(
      plain(text), (1, place), (5, 0), xycoords="axes fraction", textcoords="offset points",
      va="center", color=colour, fontsize=SIZE, annotation_clip=False, parse_math=False,
    )  # fmt: skip


def plain(text: str) -> str:
  """A name from a user's data as a label: neither too long nor with characters that hide."""
  return printable(text, 60, keep="\n")


def spread(wanted: np.ndarray, gap: float) -> np.ndarray:
  """Moves sorted positions as little as needed to be a gap apart; groups keep their centres."""
  groups: list[list[float]] = []  # sum of wanted first positions, count
  for i, place in enumerate(wanted):
    groups.append([place, 1, i])
    while len(groups) > 1:
      (a, n, i0), (b, m, _) = groups[-2:]
      centre_a, centre_b = a / n, b / m
      if centre_b - centre_a >= gap * (n + m) / 2:
        break
      groups[-2:] = [[a + b, n + m, i0]]
  placed = np.empty(len(wanted))
  for total, count, start in groups:
    offsets = (np.arange(count) - (count - 1) / 2) * gap
    placed[start : start + count] = total / count + offsets
  return placed


def label_points(
  figure: Figure, axes: Any, labels: Sequence[tuple[float, float, str, str]],
  avoid: Sequence[tuple[float, float]] = (),
) -> None:  # fmt: skip
  """Writes a label beside each point where it covers least: other labels, points, the frame.

  Args:
    figure: the figure.
    axes: its axes, limits set.
    labels: x and y in data units, text and colour; earlier ones get the better places.
    avoid: further points not to be covered.
  """
  from matplotlib.backends.backend_agg import FigureCanvasAgg

  figure.draw_without_rendering()  # decides where the axes are
  renderer = FigureCanvasAgg(figure).get_renderer()
  unit, frame = figure.dpi / 72, axes.get_window_extent(renderer).extents
  points = np.array([axes.transData.transform(p[:2]) for p in (*labels, *avoid)])
  taken = [np.concatenate([at - 4 * unit, at + 4 * unit]) for at in points]
  for (x, y, text, colour), at in zip(labels, points, strict=False):
    probe = axes.text(x, y, plain(text), fontsize=SIZE, parse_math=False)
    size = np.array(probe.get_window_extent(renderer).size)
    probe.remove()
    corners = at + unit * _OFFSETS[:, None, None] * _DIRECTIONS + (_DIRECTIONS - 1) / 2 * size
    boxes = np.concatenate([corners, corners + size], axis=-1).reshape(-1, 4)
    covered = sum(_shared(boxes, box) for box in taken) / size.prod()
    outside = 1 - _shared(boxes, frame) / size.prod()
    best = np.argmin(covered + 3 * outside + _OFFSETS.repeat(len(_DIRECTIONS)) / 300)
    taken.append(boxes[best])
    line = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
    far = best >= 2 * len(_DIRECTIONS)
    axes.annotate(
      plain(text), (x, y), axes.transAxes.inverted().transform(boxes[best][:2]),
      textcoords="axes fraction", color=colour, va="bottom", ha="left", fontsize=SIZE,
      parse_math=False, arrowprops=line if far else None,
    ).set_in_layout(False)  # fmt: skip


# Where a label may be, from its point: distances in points, nearest first, and directions.
_OFFSETS = np.array([7.0, 16.0, 28.0, 42.0, 60.0])
_DIRECTIONS = np.array(
  [(1, 0), (-1, 0), (0, 1), (0, -1), (0.8, 0.6), (0.8, -0.6), (-0.8, 0.6), (-0.8, -0.6)]
)


def _shared(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
  """Areas `[N]` that boxes `[N, 4]` of (left, bottom, right, top) share with one."""
  sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
  return np.maximum(sides, 0).prod(axis=1)


# ---- Files and pixels


def to_png(figure: Figure) -> bytes:
  """The figure as a PNG file."""
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png", dpi=160)
  return buffer.getvalue()


def to_svg(figure: Figure, name: str) -> str:
  """The figure as an `<svg>` for a page of HTML, whose style says what its colours are.

  Args:
    figure: the figure.
    name: unique on the page; the ids in the figure derive from it.

  Returns:
    The element without size and title, which are the page's; the figure loses its title.
  """
  import matplotlib

  for axes in figure.axes:
    axes.set_title("", loc="left")
  buffer = io.StringIO()
  options = {"svg.fonttype": "none", "svg.hashsalt": name}
  with matplotlib.rc_context(options):
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
  svg = buffer.getvalue()
  svg = svg[svg.index("<svg") :]
  svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
  svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg)  # what nothing refers to
  svg = re.sub(
    r'(<svg [^>]*?) width="[^"]*"', r"\1", re.sub(r' height="[\d.]+pt"', "", svg, count=1)
  )
  svg = re.sub(r"font-family: [^;\"]*;?", "", svg)  # the page's own
  for colour, variable in _VARIABLES.items():
    svg = re.sub(f"{colour}\\b", f"var({variable})", svg)
  return svg


def to_pixels(figure: Figure) -> np.ndarray:
  """The figure as `[height, width, 3]` uint8."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg

  canvas = FigureCanvasAgg(figure)
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., :3]


def make_axes(
  title: str,
  xlabel: str,
  ylabel: str,
  *,
  share: bool = False,
  percent: bool = False,
  height: float = 3.0,
) -> tuple[Figure, Any]:
  """A figure and its axes, in the style of them all.

  Args:
    title: shown above the figure, except in a page, which has it in its own text.
    xlabel: label of the x axis.
    ylabel: label of the y axis.
    share: whether y goes from 0 to 1, in percent.
    percent: whether y is in percent, between limits of its own.
    height: inches.
  """
  from matplotlib.figure import Figure
  from matplotlib.ticker import MaxNLocator, PercentFormatter

  # Figure directly, not pyplot: no global state, no memory kept, and safe in any thread.
  figure = Figure(figsize=(4.4, height), layout="constrained", dpi=120)
  axes = figure.add_subplot()
  axes.spines[["top", "right"]].set_visible(False)
  axes.spines[["bottom", "left"]].set_color(MUTED)
  axes.grid(axis="y", color=GRID, linewidth=0.8)
  axes.set_axisbelow(True)
  axes.tick_params(colors=MUTED, labelsize=SIZE)
  axes.set_xlabel(xlabel, color=MUTED, fontsize=SIZE)
  axes.set_ylabel(ylabel, color=MUTED, fontsize=SIZE)
  axes.set_title(title, loc="left", color=INK, fontsize=SIZE + 1, fontweight="bold")
  axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
  if share:
    axes.set_ylim(-0.04, 1.04)
  if share or percent:
    axes.yaxis.set_major_formatter(PercentFormatter(1, 0, " %"))
  return figure, axes
