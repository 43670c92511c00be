"""A ladder: every rung at equal steps, whatever becomes of one of them, and closed by its table."""

import argparse

import pytest

from src.base.errors import DivergedError, RunError, SettingError
from src.ledger import file as ledger
from src.search import ablate
from src.train import train_and_record

TINY = ("--steps", 3, "--seeds", 1, "--set", "train.threads=1", "--set", "train.crop_frames=5")


def call(*arguments):
    parser = argparse.ArgumentParser()
    ablate.add_arguments(parser)
    ablate.main(parser.parse_args([str(argument) for argument in arguments]))


def test_a_rung_that_diverges_leaves_a_row_and_the_others_go_on(frames_dir, workspace, monkeypatch, capsys):
    def diverging(plan, **arguments):
        if plan.experiment.name == "lab_transformer_norm":
            raise DivergedError("the loss is not finite at step 2")
        return train_and_record(plan, **arguments)

    words = ("--ladder", "lab", "--data", frames_dir, *TINY)
    monkeypatch.setattr(ablate, "train_and_record", diverging)
    with pytest.raises(RunError, match=r"1 of \d runs diverged:\n  lab_transformer_norm, seed 0: the loss"):
        call(*words)
    others = [rung for rung in ablate.find_ladder("lab") if rung != "lab_transformer_norm"]
    assert [row["experiment"] for row in ledger.read()] == others
    assert others[-1] in capsys.readouterr().out.rpartition("toy_frames, ours")[2], "the table at the end"
    monkeypatch.setattr(ablate, "train_and_record", train_and_record)
    call(*words)
    assert {row["experiment"] for row in ledger.read()} == set(ablate.find_ladder("lab"))
    assert len(ledger.read()) == len(others) + 1, "what is there is not trained again"


@pytest.mark.parametrize(("more", "said"), [(("--set", "seed=5"), "--seeds and --rung-seeds say how many"),
                                            (("--rung-seeds", 0), "must be at least 1"), (("--steps", 0), "at least")])
def test_what_no_ladder_can_mean_is_refused(frames_dir, workspace, more, said):
    with pytest.raises(SettingError, match=said):
        call("--ladder", "lab", "--data", frames_dir, *TINY, *more)
