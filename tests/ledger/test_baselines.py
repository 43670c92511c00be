"""Grading lines: which line a score is past, for which data, and where it is said."""

import json
import math

import pytest

from src.__main__ import main
from src.base.errors import InputError
from src.competition.names import claim
from src.ledger import file as ledger
from src.ledger.baselines import Line, describe, read_lines, stand
from src.ledger.plot import plot
from src.ledger.table import table
from tests.ledger.test_ledger import row

LINES = (Line("Strong", 0.7775, math.nan, math.nan), Line("Boss", 0.865, math.nan, math.nan))


@pytest.mark.parametrize(("public", "said"), [
    (0.853, "past Strong, 0.012 below Boss (public)"), (0.5, "0.2775 below Strong (public)"),
    (0.7775, "past Strong, 0.0875 below Boss (public)"), (0.875, "past Boss by 0.01, the highest (public)"),
])
def test_a_score_is_past_a_line_and_below_the_next(public, said):
    assert str(stand(LINES, public, 0.99)) == said, "the lines say nothing of the private half"
    assert stand(LINES, math.nan, 0.99) is None
    assert stand((), public, 0.99) is None


def test_the_private_half_decides_and_a_line_without_halves_is_compared_as_a_whole():
    lines = (Line("a", 0.9, 0.5, math.nan), Line("b", math.nan, math.nan, 0.6), Line("c", 0.1, 0.7, 0.99))
    assert str(stand(lines, 0.2, 0.65)) == "past b, 0.05 below c (private)"
    assert str(stand(lines, 0.2, math.nan)) == "past c, 0.4 below b (public)"


def test_the_course_s_lines_and_so762_s_come_with_the_project(workspace):
    of_2022 = [(line.name, line.public) for line in read_lines("ml2022spring-hw4")]
    assert of_2022 == [("Simple", 0.60824), ("Medium", 0.70375), ("Strong", 0.7775), ("Boss", 0.865)]
    assert [line.public for line in read_lines("ml2023spring-hw4")] == [0.66025, 0.8175, 0.885, 0.93, 0.93175]
    said = describe("so762", 0.9236, 0.8946)
    assert said == "grading lines: past default, 0.0064 below pretrained ECAPA-TDNN (private)"
    assert describe("nothing", 0.9, 0.9) == ""
    own = workspace / "submissions" / "so762" / "baselines.csv"
    own.parent.mkdir(parents=True)
    own.write_text("name,public\nmine,0.5\n")
    assert describe("so762", 0.75, 0.1) == "grading lines: past mine by 0.25, the highest (public)"
    own.write_text("name,public\nmine,half\n")
    with pytest.raises(InputError, match=r"line 2: .*half"):
        read_lines("so762")
    assert "line 2" in describe("so762", 0.75, 0.1)


@pytest.fixture
def course_data(tmp_path, workspace):
    """Return a function that claims a name for a folder with a mapping of 600 speakers, the course's or others."""
    def make(name, speakers):
        folder = tmp_path / "somewhere" / name
        folder.mkdir(parents=True)
        (folder / "mapping.json").write_text(json.dumps({"speaker2id": {s: i for i, s in enumerate(speakers)}}))
        claim(name, folder)

    return make


def test_published_rows_stand_next_to_ours_on_the_course_s_data_whatever_its_folder_is_called(course_data, capsys):
    others = [f"id1{k:04d}" for k in range(598)]
    course_data("Dataset", ["id00464", "id03074", *others])
    course_data("generated", [f"id{k:05d}" for k in range(600)])  # as many speakers, with names like the course's
    course_data("ml2023spring-hw4", ["id00464", "id03074", *others])  # whose test part is another
    for name in ("Dataset", "generated", "ml2023spring-hw4"):
        ledger.append(row(competition=name, public=0.87, score_kind="kaggle", valid=0.9))
    ledger.append(row("seed004 1-5", source="published", competition="ml2022spring-hw4", public=0.84325, digest="",
                      score_kind="published"))
    parts = table(ledger.read(), "text").split("\n\n")
    assert [part.split(" (")[0] for part in parts if "; " in part.splitlines()[0] and "(acc" in part] == [
        "Dataset, ml2022spring-hw4", "generated", "ml2023spring-hw4"]
    found = [[word for word in line.split() if word in ("ours", "published", "Strong", "Boss")]
             for line in parts[1].splitlines()[1:]]
    assert found == [["ours", "Boss"], ["published", "Strong"]]
    assert "Strong 0.7775, Boss 0.865." in parts[2]
    assert "Boss" not in parts[4], "generated data has no lines"
    assert "Boss 0.93" in table(ledger.read(), "text")
    for name, both in (("Dataset", True), ("ml2022spring-hw4", True), ("generated", False)):
        assert main(["ledger", "table", "--competition", name]) == 0
        assert ("seed004" in capsys.readouterr().out) == both


def test_the_picture_has_the_lines(workspace, tmp_path):
    from matplotlib import image

    for seed, public in enumerate((0.7, 0.9)):
        ledger.append(row(f"run{seed}", public=public, valid=public, score_kind="kaggle", seconds=60.0 + seed))
    folder = workspace / "submissions" / "vowels"
    folder.mkdir(parents=True)
    pictures = []
    for text in ("name,public\nfar below,0.1\n", "name,public\nBoss,0.8\n"):
        (folder / "baselines.csv").write_text(text)
        plot(tmp_path / "picture.png", ledger.read())
        pictures.append(image.imread(tmp_path / "picture.png"))
    other_rows = (pictures[0] != pictures[1]).any((1, 2)).nonzero()[0]
    assert 0 < len(other_rows) < 40, "one line and its name"


def test_a_scored_run_ends_with_its_standing_and_its_report_has_it(frames_dir, workspace, capsys):
    (frames_dir / "solution.csv").write_text("Id,Category\n" + "".join(f"test_{i},anna\n" for i in range(5)))
    folder = workspace / "submissions" / "toy_frames"
    folder.mkdir(parents=True)
    (folder / "baselines.csv").write_text("name,public,private\nimpossible,0.5,\n")
    tiny = ("--set", "train.steps=2", "--set", "train.crop_frames=5", "--set", "train.threads=1", "--set", "folds=2")
    assert main(["run", "--data", str(frames_dir), "--experiment", "course", *tiny]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "grading lines: " in said[-2]
    assert "impossible" in said[-2]
    assert main(["report", "toy_frames/course"]) == 0
    page = (workspace / "data" / "runs" / ledger.read()[0]["run_id"] / "report" / "index.html").read_text()
    assert "grading line" in page
    assert said[-2].removeprefix("grading lines: ") in page
