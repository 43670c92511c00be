"""Write a run's report: what is known of it, as sections and tiles, then the page and its pictures."""

import argparse
import time
from pathlib import Path

import numpy as np

from src.apps.report import metrics, tensorboard
from src.apps.report.evidence import Evidence, gather
from src.apps.report.page import Page, Tile, render
from src.apps.report.sections import all_sections
from src.base.files import atomic_open
from src.base.text import shown_bytes, shown_count, shown_share, shown_time
from src.ledger.baselines import read_lines, stand
from src.runs.folder import Run
from src.settings.folds import num_fits


def run(options: argparse.Namespace) -> None:
    """Write the report that the command line asks for."""
    if options.tensorboard:
        tensorboard.summary_writer()  # an error now, not after the work
    found = Run.find(options.run)
    evidence = gather(found)
    out = options.out or found.directory / "report"
    pictures, html = write(evidence, out)
    print(f"report: {out / 'index.html'} ({shown_bytes(len(html.encode()))}; {pictures} pictures beside "
          "it)")
    if options.tensorboard:
        logs = {f"{evidence.run_id}/fold_{k}": log for k, log in evidence.logs.items()}
        tensorboard.write_events(options.tensorboard, logs)
        print(f"curves: tensorboard --logdir {options.tensorboard}")


def write(evidence: Evidence, out: Path) -> tuple[int, str]:
    """Write index.html and the pictures into the folder `out`; return the number of pictures and the page."""
    sections = all_sections(evidence)
    html = render(Page(
        competition=evidence.competition, experiment=evidence.experiment.name, run_id=evidence.run_id,
        state=_state(evidence), lead=evidence.experiment.hypothesis, tiles=_tiles(evidence), sections=sections))
    pictures = [picture for section in sections for picture in section.pictures]
    for picture in pictures:
        with atomic_open(out / f"{picture.name}.png", "wb") as file:
            file.write(picture.png)
    with atomic_open(out / "index.html") as file:
        file.write(html)
    return len(pictures), html


def _state(evidence: Evidence) -> str:
    done, total = len(evidence.fold_results), num_fits(evidence.experiment.folds)
    made = f"report of {time.strftime('%Y-%m-%d %H:%M')}"
    if evidence.result:
        return f"finished {evidence.result['finished'].replace('T', ' ').removesuffix('Z')} UTC · {made}"
    return f"not finished: {done} of {total} folds · {made}"


def _tiles(evidence: Evidence) -> list[Tile]:
    experiment, held_out, row = evidence.experiment, evidence.held_out, evidence.row
    tiles = []
    if held_out is not None:
        num_right, num_total = int(held_out.is_right.sum()), len(held_out.labels)
        low, high = metrics.interval(num_right, num_total)
        tiles += [
            Tile("accuracy, held out", shown_share(num_right / num_total),
                 f"95\u00a0%: {low:.3f}\u00a0to\u00a0{high:.3f}"),
            Tile("right", f"{num_right:,}", f"of {num_total:,} whole utterances"),
            Tile("macro F1", shown_share(evidence.figures().mean(weighted=False)[2]), "mean over speakers"),
        ]
    if evidence.conditions and evidence.conditions.get("shifted") is not None:
        tiles.append(Tile("accuracy, shifted", shown_share(evidence.conditions["shifted"]),
                          "estimate for a shifted test"))
    if row:
        tiles += [Tile(f"{half} score", row[half], row["score_kind"]) for half in ("public", "private") if row[half]]
        scores = (float(row[half] or "nan") for half in ("public", "private"))
        standing = stand(read_lines(evidence.competition), *scores)
        if standing:
            tiles.append(Tile("grading line", standing.past or "none", str(standing)))
    if evidence.fold_results:
        results = evidence.fold_results.values()
        tiles += [
            Tile("accuracy, training", shown_share(float(np.mean([r["train"] for r in results]))), "crops, augmented"),
            Tile("parameters", shown_count(next(iter(results))["params"]), experiment.encoder.name),
            Tile("training time", shown_time(sum(r["seconds"] for r in results)), experiment.train.device),
        ]
    fits = num_fits(experiment.folds)
    tiles.append(Tile("steps", f"{experiment.train.steps:,}", f"{fits} fold{'s' * (fits > 1)}, batch "
                      f"{experiment.train.batch_size}, seed {experiment.seed}"))
    if evidence.store:
        tiles.append(Tile("speakers", f"{len(evidence.store.speakers):,}",
                          f"{len(evidence.store.train_rows):,} training utterances"))
    return tiles
