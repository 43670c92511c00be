"""Pictures of a study: its history, what mattered, and the values of what mattered most, each a PNG."""

import warnings
from pathlib import Path

import matplotlib
import optuna
from matplotlib import pyplot
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter
from optuna.trial import TrialState
from optuna.visualization import matplotlib as draw

matplotlib.use("Agg")

NUM_BARS, NUM_SLICES = 12, 6  # parameters shown, the most important ones
NAME = "validation accuracy"


def plot(study: optuna.Study, directory: Path) -> list[Path]:
    """Write history.png, and where complete trials differ importance.png and slice.png too; return the paths.

    Importance is PED-ANOVA's (Watanabe et al., 2023): what sets the better trials apart from all of them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    draw.plot_optimization_history(study, target_name=NAME)
    paths = [_save(directory / "history.png", 7, 4)]
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len({trial.value for trial in complete}) < 2:
        return paths
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about parameters drawn in a single trial: they come last anyway
        names = list(optuna.importance.get_param_importances(study))
        draw.plot_param_importances(study, params=names[:NUM_BARS], target_name=NAME)
    paths.append(_save(directory / "importance.png", 7, 4))
    draw.plot_slice(study, params=names[:NUM_SLICES], target_name=NAME)
    return [*paths, _save(directory / "slice.png", 3.4 * NUM_SLICES, 4)]


def _save(path: Path, width: float, height: float) -> Path:
    """Write the figure that Optuna drew last, in inches, and close it."""
    figure = pyplot.gcf()
    figure.set_size_inches(width, height)
    for axes in figure.axes:
        if axes.get_xscale() == "log":  # matplotlib would write its numbers over one another
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
            axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
            axes.xaxis.set_minor_formatter(NullFormatter())
    figure.savefig(path, dpi=110, bbox_inches="tight")
    pyplot.close(figure)
    return path
