"""Every chapter runs through papermill with other parameters, and all its checks hold."""

import nbformat
import pytest

from kexue_lib import notebooks

OTHER = {
    "hubness": [{"seed": 1, "points": 300, "k": 4, "dim": 2}, {"seed": 2, "points": 700, "dim": 300}],
}
RUNS = [(slug, values) for slug in notebooks.chapters() for values in OTHER[slug]]


@pytest.mark.notebooks
@pytest.mark.parametrize(("slug", "values"), RUNS)
def test_chapters_hold_with_other_parameters(slug, values, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = notebooks.run(slug, tmp_path / "run.ipynb", values)
    default = nbformat.read(notebooks.book_root() / "out" / "executed" / f"{slug}.ipynb", 4)
    assert notebooks.record_of(done).keys() == notebooks.record_of(default).keys()
    labels = [v["label"] for v in notebooks.verdicts_of(done)]
    assert labels == [v["label"] for v in notebooks.verdicts_of(default)]
