"""make-competition: all copies of a recording stand on one side, found by their sound or by their names."""

import csv
import itertools

import pytest

from src.apps.make_competition.make import make_competition
from tests.support.competitions import second_microphone, sentence, write_audio


def sides_of(out):
    """Return the source files' contents of the training and of the test part."""
    with open(out / "solution.csv", encoding="utf-8", newline="") as file:
        test = {(out / "test" / row["Id"]).read_bytes() for row in csv.DictReader(file)}
    return {path.read_bytes() for path in (out / "train").rglob("*.*")}, test


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_copies_by_another_microphone_stay_on_one_side(tmp_path, capsys, seed):
    corpus, copies = tmp_path / "corpus", []
    for s, take in itertools.product(range(2), range(6)):
        (corpus / f"speaker{s}").mkdir(parents=True, exist_ok=True)
        first, second = (corpus / f"speaker{s}/{name}{take}.flac" for name in ("close", "far"))
        write_audio(first, sentence(s, take))
        write_audio(second, second_microphone(sentence(s, take), take))
        copies.append((first.read_bytes(), second.read_bytes()))
    train, test = sides_of(make_competition(corpus, tmp_path / "out", seed=seed))
    assert len(train) == 20
    assert len(test) == 4
    assert all((first in train) == (second in train) for first, second in copies)
    assert "12 recordings stand there more than once, each kept on one side: close0.flac = far0.flac" in \
        capsys.readouterr().out


def test_names_of_two_microphones_are_believed(tmp_path):
    corpus, copies = tmp_path / "corpus", []
    for s, take in itertools.product(range(2), range(6)):
        folder = corpus / f"p{225 + s}"
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"p{225 + s}_{take:03d}_mic{m}.flac" for m in (1, 2)]
        for m, path in enumerate(paths):
            write_audio(path, sentence(s, 10 * take + m))  # as unlike as two takes, but for their names
        copies.append([path.read_bytes() for path in paths])
    train, test = sides_of(make_competition(corpus, tmp_path / "out"))
    assert test
    assert all((first in train) == (second in train) for first, second in copies)


def test_a_recording_under_two_speakers_stays_with_the_first(tmp_path, capsys):
    corpus = tmp_path / "corpus"
    for s, take in itertools.product(range(2), range(4)):
        (corpus / f"speaker{s}").mkdir(parents=True, exist_ok=True)
        write_audio(corpus / f"speaker{s}/{take}.flac", sentence(s, take))
    write_audio(corpus / "speaker1/copy.flac", second_microphone(sentence(0, 0)))
    train, test = sides_of(make_competition(corpus, tmp_path / "out"))
    assert (corpus / "speaker1/copy.flac").read_bytes() not in train | test
    said = capsys.readouterr().out
    assert "left out: 1 files that are a recording of another speaker's" in said
    assert "copy.flac" in said
