"""Recorded results are those of a run that got to its end, and stand beside a reader's own."""

import json

import pytest

from kexue_lib import notebooks, recorded


@pytest.fixture
def done(demo_book, tmp_path):
    return notebooks.run("demo", tmp_path / "run.ipynb", {"size": 4})


def test_what_a_run_found_is_kept_with_where_and_how(done, demo_book):
    assert recorded.load("demo") is None
    kept = recorded.save("demo", done)
    assert recorded.load("demo") == kept
    assert kept.parameters == {"size": 4}
    assert kept.record == {"double": {"value": 8, "error": None, "meaning": "twice the size"}}
    assert 0 < kept.seconds < 60
    assert {"processor", "cores", "threads"} <= kept.machine.keys()
    assert {"Python", "torch"} <= kept.versions.keys()
    assert kept.about().startswith(f"recorded on {kept.date} in {kept.seconds:.0f} seconds (processor ")
    assert [path.name for path in (demo_book / "results").iterdir()] == ["full_demo.json"]


def test_a_run_without_an_end_replaces_nothing(done, demo_book):
    kept = recorded.save("demo", done)
    for cell in done.cells:
        cell["outputs"] = []
    with pytest.raises(ValueError, match="notebook = 'without a record, of demo'"):
        recorded.save("demo", done)
    assert recorded.load("demo") == kept


def test_a_run_beside_the_recorded_one(done):
    mine = {"double": {"value": 2, "error": 0.25, "meaning": "twice the size"}}
    assert recorded.beside(mine, "demo").headings == ["name", "this run", "meaning"]
    kept = recorded.save("demo", done)
    kept.record["more"] = {"value": -0.5, "error": None, "meaning": "in the full profile only"}
    text = json.dumps(vars(kept))
    recorded.path("demo").write_text(text, "utf-8")
    table = recorded.beside(mine, "demo")
    assert table.headings == ["name", "this run", "full profile", "meaning"]
    assert table.rows == [
        ["double", "2\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.25", "8", "twice the size"],
        ["more", "–", "−0.5", "in the full profile only"],
    ]
    assert kept.date in table.caption


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"date": "today"}'])
def test_another_program_s_file_is_refused(demo_book, text):
    (demo_book / "results").mkdir()
    recorded.path("demo").write_text(text, "utf-8")
    with pytest.raises(ValueError, match=r"recorded results = 'full_demo.json': expected a file that"):
        recorded.load("demo")


def entry(value, error=None):
    return {"value": value, "error": error, "meaning": "a number"}


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        (entry(1.0, 0.3), entry(3.4, 0.4), "agree"),  # five times 0.5 is 2.5
        (entry(1.0, 0.3), entry(3.6, 0.4), "differ"),
        (entry(3), entry(3), "agree"),
        (entry(1e9), entry(1e9 + 100), "agree"),
        (entry(1.0), entry(1.001), "no error stated"),
        (entry(1.0, 0.0), entry(1.0, 0.0), "agree"),
        (entry(1.0, 0.1), None, "missing"),
    ],
)
def test_two_devices_agree_within_their_errors(one, other, verdict):
    [row] = recorded.agreement({"x": one}, {"x": other} if other else {})
    assert row["verdict"] == verdict


def test_a_sweep_is_kept_when_all_of_it_is_done(demo_book, tmp_path):
    import pandas as pd

    found = pd.DataFrame({"size": [1, 2], "status": "done", "seconds": 0.5, "failure": "", "double": [2, 4]})
    assert recorded.load_sweep("demo") is None
    kept = recorded.save_sweep("demo", "kexue sweep demo -p size=1,2", found, 3.0)
    assert recorded.load_sweep("demo") == kept
    assert kept.table == {"size": [1, 2], "seconds": [0.5, 0.5], "double": [2, 4]}
    found.loc[1, "status"] = "failed"
    with pytest.raises(ValueError, match="with 1 runs missing"):
        recorded.save_sweep("demo", "kexue sweep demo -p size=1,2", found, 3.0)
    assert recorded.load_sweep("demo") == kept
