"""What a finished run says of the test part: its verdict is measured once per store, its score lies in its interval."""


from src import experiments
from src.competition.open import open_competition
from src.ensemble import blend
from src.preprocess import preprocess
from src.runs.plan import make_plan
from src.settings.config import override
from src.shift import judge
from src.shift.adversarial import Separation, Verdict
from src.store.store import Store
from src.training.run import run

TINY = {"train.steps": 60, "train.batch_size": 8, "train.crop_frames": 6, "train.threads": 1, "folds": 2,
        "encoder.d_model": 16, "optim.lr": 5e-3}


def test_a_verdict_is_measured_once_and_the_score_lies_in_its_interval(frames_dir, workspace, monkeypatch):
    competition = open_competition(frames_dir)
    experiment = override(experiments.get("course"), TINY)
    plan = make_plan(competition.name, preprocess(competition, experiment.features), experiment)
    store = Store.open(plan.store_dir)
    run(plan, store)
    made = blend([plan.run], store.labels)
    first = judge.verdict_on(store)
    assert "5 test utterances are too few" in str(first)
    found = judge.expect(made, store, first)
    assert found.low <= found.score <= found.high
    assert found.held_out == made.result["valid"]
    assert not found.is_bound

    shifted = Verdict("shifted", Separation(0.9, (0.4, 0.6), 18, 5), "told apart")
    monkeypatch.setattr(judge, "examine", lambda store: shifted)
    assert judge.verdict_on(store) == first, "kept next to the store"
    (store.directory / "verdict.json").unlink()
    assert judge.verdict_on(store) == judge.verdict_on(store) == shifted
    assert judge.expect(made, store, shifted).is_bound, "clean utterances flatter where no copies were made"
