"""With other parameters all checks of all chapters hold. This takes long: `make test` begins with it."""

import nbformat
import pytest

from kexue_lib import notebooks

OTHER = {
    "hubness": [{"seed": 1, "points": 300, "k": 4, "dim": 2}, {"seed": 2, "points": 700, "dim": 300}],
    "sector": [
        {"seed": 1, "ducks": 2, "degrees": 1.25, "trials": 10_000},
        {"seed": 2, "ducks": 12, "degrees": 359.0, "trials": 50_000},
        {"seed": 3, "ducks": 5, "degrees": 180.0},
    ],
    "cross": [
        {"seed": 1, "colours": 6, "ladder": 4, "samples": 700},
        {"seed": 2, "colours": 4, "ladder": 40, "samples": 2000},
    ],
    "ddpm": [
        {"seed": 1, "steps": 300, "jumps": 10, "schedule": "linear"},
        {"seed": 2, "steps": 2000, "jumps": 60, "schedule": "post"},
    ],
    "sde": [
        {"seed": 1, "steps": 10, "horizon": 15.0, "data_variance": 0.05},
        {"seed": 2, "steps": 2000, "horizon": 5.0, "data_variance": 0.8},
    ],
    "optimal_variance": [{"seed": 1, "jumps": 2}, {"seed": 2, "jumps": 120}],
    "guidance": [{"seed": 2, "steps": 60, "scale": 5.0}],
    "length_extrapolation": [{"seed": 2, "steps": 20, "windows": 8}],
    "lion": [{"seed": 2, "steps": 40, "beta1": 0.95, "beta2": 0.98, "decay": 2.0}],
}
# The first row of each runs in `make test`, the others weekly, in the canary.
RUNS = [
    pytest.param(slug, values, marks=[pytest.mark.weekly] if row else [], id=f"{slug}-{row}")
    for slug in notebooks.chapters()
    for row, values in enumerate(OTHER[slug])
]


@pytest.mark.notebooks
@pytest.mark.parametrize(("slug", "values"), RUNS)
def test_chapters_hold_with_other_parameters(slug, values, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = notebooks.run(slug, tmp_path / "run.ipynb", values)
    default = nbformat.read(notebooks.book_root() / "out" / "executed" / f"{slug}.ipynb", 4)
    assert notebooks.record_of(done).keys() == notebooks.record_of(default).keys()
    labels = [v["label"] for v in notebooks.verdicts_of(done)]
    assert labels == [v["label"] for v in notebooks.verdicts_of(default)]
