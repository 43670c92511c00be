"""The pictures of a run's report, each drawn once: as inline SVG that takes the page's colours, and as a PNG.

In: plain figures and arrays. Out: a `Picture`. In the SVG every colour of PALETTE becomes the page's CSS variable, so
that one drawing serves light and dark; text stays text. Names are drawn as they are: "$" begins no formula.
"""

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from src.apps.report.metrics import Reliability, interval

INK, MUTED, GRID, BLUE, ORANGE = "#1c2733", "#5d6b7a", "#dfe4ea", "#1f6fb4", "#d2601a"
PALETTE = {INK: "--ink", MUTED: "--muted", GRID: "--grid", BLUE: "--blue", ORANGE: "--orange"}
CELL = "#2f7fc4"  # of confusions, seen on white and on black
WIDE, TALL = (4.4, 3.1), (5.6, 5.2)  # inches: three or two side by side, and readable on a telephone
NAMED_CLASSES = 30  # confusions of more classes are a picture without names
PICTURE_PX = 400
NAME_OFFSETS = ((0, 7), (0, -14), (0, 17), (0, -24), (0, 27), (0, -34))  # points, tried in turn
CSS_PX = 108  # on the page, of an inch: 9 points become 13.5 pixels
STYLE = {
    "font.size": 9, "font.family": "sans-serif", "text.parse_math": False, "svg.fonttype": "none",
    "svg.hashsalt": "report", "text.color": INK, "axes.edgecolor": GRID, "axes.labelcolor": MUTED,
    "axes.titlecolor": INK, "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "axes.facecolor": "none", "grid.color": GRID, "grid.linewidth": 0.6, "xtick.color": GRID, "ytick.color": GRID,
    "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED, "legend.frameon": False, "legend.fontsize": 8,
    "figure.facecolor": "none",
}
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


@dataclass(frozen=True)
class Picture:
    """One drawing. name: of its PNG, without the ending. about: what is seen, in a sentence."""

    name: str
    about: str
    svg: str
    png: bytes


def accuracy_curves(logs: Sequence[Mapping[str, np.ndarray]]) -> Picture:
    """Draw accuracy in training and validation against the step; logs: the columns of each fold's log.csv."""
    def paint(axes: Axes) -> None:
        _curves(axes, logs, {"accuracy": (ORANGE, "training crops"), "valid_metric": (BLUE, "held-out utterances")})
        axes.set(title="Accuracy", xlabel="step")
        axes.yaxis.set_major_formatter(_percent())

    return _draw("accuracy", "accuracy against the step, in training and in validation, by fold", WIDE, paint)


def loss_curves(logs: Sequence[Mapping[str, np.ndarray]]) -> Picture:
    """Draw the loss in training and validation against the step."""
    def paint(axes: Axes) -> None:
        _curves(axes, logs, {"loss": (ORANGE, "training crops"), "valid_loss": (BLUE, "held-out utterances")})
        axes.set(title="Loss, nats", xlabel="step")

    return _draw("loss", "loss against the step, in training and in validation, by fold", WIDE, paint)


def learning_rate_curve(logs: Sequence[Mapping[str, np.ndarray]]) -> Picture:
    """Draw the learning rate against the step."""
    def paint(axes: Axes) -> None:
        _curves(axes, logs[:1], {"lr": (BLUE, "")})
        axes.set(title="Learning rate", xlabel="step")
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3), useMathText=False)

    return _draw("learning_rate", "learning rate against the step", WIDE, paint)


def _curves(axes: Axes, logs: Sequence[Mapping[str, np.ndarray]], columns: Mapping[str, tuple[str, str]]) -> None:
    """Draw columns of every fold as thin lines and, of several folds of equal steps, their mean as a thick one."""
    for column, (colour, label) in columns.items():
        curves = [(log["step"], log[column]) for log in logs if column in log and np.isfinite(log[column]).any()]
        for steps, values in curves:
            axes.plot(steps, values, color=colour, linewidth=1.6 if len(curves) == 1 else 0.7,
                      alpha=1 if len(curves) == 1 else 0.45, label=label if len(curves) == 1 else None,
                      marker="o" if len(steps) == 1 else None, markersize=4)
        if len(curves) > 1:
            longest = max((steps for steps, _ in curves), key=len)
            whole = [values for steps, values in curves if np.array_equal(steps, longest)]
            axes.plot(longest, np.mean(whole, axis=0), color=colour, linewidth=2, label=f"{label}, mean of folds")
    if len(columns) > 1 and axes.lines:
        axes.legend(loc="best")


def conditions_chart(counts: Mapping[str, tuple[int, int]], shifted: float | None) -> Picture:
    """Draw the accuracy of each condition, {name: (right, of)}, with its 95 % interval, as bars."""
    def paint(axes: Axes) -> None:
        for at, (name, (num_right, num_total)) in enumerate(counts.items()):
            low, high = interval(num_right, num_total)
            share = num_right / max(1, num_total)
            axes.barh(at, share, color=BLUE if name != "clean" else ORANGE, alpha=0.85, height=0.62)
            axes.plot([low, high], [at, at], color=INK, linewidth=1)
            axes.text(1.2, at, f"{100 * share:.1f} %", va="center", ha="right", fontsize=8)
        if shifted is not None:
            axes.axvline(shifted, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            axes.set_xlabel(f"dashed: estimate for the shifted test, {100 * shifted:.1f} %")
        axes.set_yticks(range(len(counts)), list(counts))
        axes.invert_yaxis()
        axes.set(title="Accuracy by condition", xlim=(0, 1.2))
        axes.set_xticks(np.arange(0, 1.01, 0.25))
        axes.xaxis.set_major_formatter(_percent())
        axes.grid(axis="y", visible=False)

    return _draw("conditions", "accuracy of held-out utterances, clean and degraded", (4.4, 1.2 + 0.27 * len(counts)),
                 paint)


def length_chart(lengths: Sequence[np.ndarray], is_right: Sequence[np.ndarray], unit: str) -> Picture:
    """Draw the accuracy of utterances in bins of length: lengths and hits of each bin, shortest first."""
    def paint(axes: Axes) -> None:
        middle = [float(np.median(part)) for part in lengths]
        shares = np.array([part.mean() for part in is_right])
        low, high = np.array([interval(part.sum(), len(part)) for part in is_right]).T
        axes.fill_between(middle, low, high, color=BLUE, alpha=0.15, linewidth=0)
        axes.errorbar(middle, shares, yerr=np.clip([shares - low, high - shares], 0, None), color=BLUE, marker="o",
                      markersize=4, linewidth=1.6, elinewidth=1, capsize=2)
        axes.set(title="Accuracy by utterance length", xlabel=f"{unit}, median of each bin; 95 % intervals")
        axes.yaxis.set_major_formatter(_percent())

    return _draw("length", "accuracy of held-out utterances by their length", WIDE, paint)


def recall_histogram(recall: np.ndarray) -> Picture:
    """Draw how many classes have which recall; recall: (C,) of those with utterances."""
    def paint(axes: Axes) -> None:
        axes.hist(recall, bins=np.arange(11) / 10, color=BLUE, alpha=0.85, rwidth=0.9)
        axes.set(title="Speakers by recall", xlabel="recall on held-out utterances", ylabel="speakers")
        axes.xaxis.set_major_formatter(_percent())
        axes.yaxis.get_major_locator().set_params(integer=True)

    return _draw("recall", "how many speakers have which recall", WIDE, paint)


def confusion_chart(counts: np.ndarray, names: Sequence[str]) -> Picture:
    """Draw confusions (C, C), rows the truth, with names and counts, coloured by the share of each row's utterances."""
    def paint(axes: Axes) -> None:
        total = counts.sum(1, keepdims=True)
        shares = counts / np.maximum(total, 1)
        _cells(axes, shares)
        shown = [shorten(name) for name in names]
        axes.set_xticks(range(len(names)), shown, rotation=90 if max(map(len, shown)) > 2 else 0)
        axes.set_yticks(range(len(names)), shown)
        size = 9 if len(names) <= 12 else 6.5
        for i, j in np.argwhere(counts):
            axes.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=size,
                      color="#ffffff" if shares[i, j] > 0.55 else INK)
        axes.set(title="Confusions, utterances", xlabel="heard as", ylabel="said by")

    return _draw("confusion", "how often each speaker was heard as each", TALL, paint)


def confusion_image(shares: np.ndarray, num_classes: int) -> Picture:
    """Draw the confusions of many classes as an image: shares (S, S) in order, NaN where a row has no utterance."""
    def paint(axes: Axes) -> None:
        _cells(axes, np.sqrt(np.nan_to_num(shares)))  # the root lets a single confusion be seen
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set(title=f"Confusions of {num_classes:,} speakers", xlabel="heard as", ylabel="said by")

    return _draw("confusion", "confusions, the speakers who are confused side by side, the root of each row's shares",
                 TALL, paint)


def _cells(axes: Axes, shares: np.ndarray) -> None:
    colours = LinearSegmentedColormap.from_list("cells", [(*to_rgb(CELL), 0.0), (*to_rgb(CELL), 1.0)])
    axes.imshow(shares, cmap=colours, vmin=0, vmax=1, interpolation="none", aspect="equal")
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(True)


def reliability_diagram(before: Reliability, after: Reliability, temperature: float) -> Picture:
    """Draw accuracy against confidence before and after temperature scaling; a marker's area is its bin's share."""
    def paint(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
        for found, colour, label in (
                (before, ORANGE, f"as trained, ECE {before.ece:.3f}"),
                (after, BLUE, f"temperature {temperature:.2f}, ECE {after.ece:.3f}")):
            there = found.count > 0
            axes.scatter(found.confidence[there], found.accuracy[there], color=colour, label=label, alpha=0.75,
                         s=10 + 240 * found.count[there] / found.count.sum(), linewidths=0)
        axes.set(title="Reliability", xlabel="confidence", ylabel="accuracy", xlim=(-0.03, 1.05), ylim=(-0.05, 1.05))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(_percent())
        for handle in axes.figure.legend(loc="outside lower center", ncols=2).legend_handles:
            handle.set_sizes([24])

    return _draw("reliability", "accuracy against confidence, before and after temperature scaling", WIDE, paint)


def embedding_map(points: np.ndarray, labels: np.ndarray, is_right: np.ndarray, names: Mapping[int, str],
                  method: str) -> Picture:
    """Draw utterances at points (N, 2): right ones as dots, wrong ones as crosses, some classes with their names.

    names: {class: name} of the classes that are written at their utterances' median. Up to ten of them have colours.
    """
    def paint(axes: Axes) -> None:
        few = len(np.unique(labels)) <= 10
        colours = colormaps["tab10"]
        of_class = {label: colours(i) if few else "#7f8fa3" for i, label in enumerate(np.unique(labels).tolist())}
        for label in names if not few else []:
            of_class[label] = CELL
        colour = np.array([to_rgba(of_class[label]) for label in labels.tolist()]).reshape(-1, 4)
        size = np.clip(9000 / len(points), 6, 40)
        axes.scatter(*points[is_right].T, c=colour[is_right], s=size, alpha=0.75, linewidths=0, rasterized=True,
                     label="right")
        axes.scatter(*points[~is_right].T, c=ORANGE if not few else colour[~is_right], s=1.6 * size, marker="x",
                     linewidths=1.2, rasterized=True, label="wrong")
        axes.set(title=f"Embeddings, {method}", xticks=[], yticks=[])
        axes.margins(0.06)
        _write_names(axes, [(name, np.median(points[labels == label], axis=0)) for label, name in names.items()])
        legend = axes.figure.legend(loc="outside lower center", ncols=2)
        for handle in legend.legend_handles if few else []:
            handle.set_color(MUTED)

    return _draw("embeddings", "embeddings of held-out utterances in two dimensions", TALL, paint)


def _write_names(axes: Axes, places: list[tuple[str, np.ndarray]]) -> None:
    """Write each name beside its place (2,), where no name lies already; in a throng some lie over others."""
    taken = []
    for name, place in places:
        text = axes.annotate(shorten(name), place, xytext=NAME_OFFSETS[0], textcoords="offset points", ha="center",
                             fontsize=8)
        for offset in NAME_OFFSETS:
            text.set_position(offset)
            extent = text.get_window_extent()
            if not any(extent.overlaps(other) for other in taken):
                break
        taken.append(extent)


def shorten(name: str, length: int = 14) -> str:
    """Return a name as a picture can hold it: its beginning and its end, without what XML cannot carry."""
    name = NOT_XML.sub("\ufffd", name)
    return name if len(name) <= length else f"{name[: length // 2 - 1]}…{name[-length // 2 :]}"


def _percent() -> PercentFormatter:
    return PercentFormatter(1.0, decimals=None, symbol=" %")


def _draw(name: str, about: str, size: tuple[float, float], paint: Callable[[Axes], None]) -> Picture:
    with rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of scripts that the PNG's font lacks; the page has them
        figure = Figure(figsize=size, layout="constrained")
        paint(figure.add_subplot())
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=150, facecolor="white", metadata={"Software": None})
        return Picture(name, about, _svg(figure, name, about), png.getvalue())


def _svg(figure: Figure, name: str, about: str) -> str:
    """Return a figure as an SVG element: the page's colours, ids of its own, as wide as its place."""
    text = io.StringIO()
    figure.savefig(text, format="svg", dpi=200, metadata={"Date": None, "Creator": None})
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(text.getvalue())
    metadata = root.find(f"{{{SVG}}}metadata")
    if metadata is not None:
        root.remove(metadata)
    colours = re.compile("|".join(PALETTE))
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                value = f"{name}-{value}"
            elif key == f"{{{XLINK}}}href" and value.startswith("#"):
                value = f"#{name}-{value[1:]}"
            else:
                value = colours.sub(lambda found: f"var({PALETTE[found[0]]})", value.replace("url(#", f"url(#{name}-"))
            element.attrib[key] = value
    for key in ("width", "height"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-label": about, "class": "picture", "id": f"picture-{name}",
                    "style": f"max-width: {CSS_PX * figure.get_figwidth():.0f}px"}
    return ElementTree.tostring(root, encoding="unicode")
