"""Sweeps: what is planned, refused, kept and resumed, and the report; a few runs on real workers."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kexue_lib import notebooks, report, sweeps

COMMAND = [sys.executable, "-c", "from kexue_lib.cli import main; main()"]


class Inline:
    """What a sweep needs of a Dask client, without processes: each point is done when it is asked for."""

    def __init__(self, stop=None):
        self.done, self.stop = [], stop

    @contextmanager
    def client(self, workers, scheduler, slug):
        yield self

    def results(self, client, slug, points):
        for point in points:
            if len(self.done) == self.stop:
                raise KeyboardInterrupt
            self.done.append(point.name)
            size = point.values["size"]
            entry = {"value": 2 * size, "error": 0.5 * size, "meaning": "twice the size"}
            error = "chapter demo failed" if point.values["mode"] == "broken" else None
            yield (
                point,
                {
                    "error": error,
                    "seconds": 1.0,
                    "record": {} if error else {"double": entry},
                    "notebook": "{}",
                },
            )


@pytest.fixture
def inline(monkeypatch):
    def use(stop=None):
        made = Inline(stop)
        monkeypatch.setattr(sweeps, "_client", made.client)
        monkeypatch.setattr(sweeps, "_results", made.results)
        return made

    return use


# -- plans -----------------------------------------------------------------------------------------


def test_all_combinations_or_pairs(demo_book):
    plan = sweeps.plan("demo", {"size": "1..3,5", "mode": "plain,slow"})
    assert plan.swept == {"size": [1, 2, 3, 5], "mode": ["plain", "slow"]}
    assert [point.name for point in plan.points][:2] == ["size=1,mode=plain", "size=1,mode=slow"]
    assert len(plan.points) == 8
    assert plan.points[0].values == {"size": 1, "share": 0.5, "mode": "plain"}
    pairs = sweeps.plan("demo", {"size": [1, 2], "share": "0.25,1e-3", "mode": "plain"}, pairs=True)
    assert [(p.values["size"], p.values["share"]) for p in pairs.points] == [(1, 0.25), (2, 0.001)]
    assert [point.name for point in sweeps.plan("demo", {}).points] == ["defaults"]


def test_the_key_of_a_point_is_made_of_all_that_decides_it(demo_book, monkeypatch):
    def keys():
        return [point.key for point in sweeps.plan("demo", {"size": "1,2"}).points]

    first = keys()
    assert len({*first}) == 2
    assert keys() == first
    page = demo_book / "book" / "demo.md"
    page.write_text(page.read_text("utf-8").replace("share: float = 0.5", "share: float = 0.4"), "utf-8")
    other = keys()
    assert not {*first} & {*other}
    (demo_book / "requirements.lock").write_text("numpy==1\n", "utf-8")
    assert not {*other} & {*keys()}


@pytest.mark.parametrize(
    ("given", "more", "part"),
    [
        ({"siez": "1..3"}, {}, "did you mean size"),
        ({"size": "1..9"}, {}, "size must not be 7"),
        ({"size": "0,1"}, {}, "size = 0: expected an integer from 1 to 9"),
        ({"size": "1.5"}, {}, "size = '1.5'"),
        ({"size": ""}, {}, "size = ''"),
        ({"size": "1,1"}, {}, "different values"),
        ({"size": "1..2,2"}, {}, "different values"),
        ({"size": "3..1"}, {}, "last number is not below"),
        ({"size": []}, {}, "at least one value"),
        ({"share": "0..1"}, {}, "share = '0..1'"),
        ({"mode": "plane"}, {}, "did you mean plain"),
        ({"mode": "__import__('os')"}, {}, "expected one of plain"),
        ({"size": "1..99999"}, {}, "number of points = 99999: expected at most 10000, or --yes"),
        ({"size": "1..300", "share": "0.1,0.2"} | {"mode": ["plain"] * 20}, {}, "number of points = 12000"),
        ({"size": "1..999999999999"}, {}, "number of points = 999999999999"),
        ({"size": "1,2", "share": "0.1,0.2,0.3"}, {"pairs": True}, "the same for all, or 1"),
    ],
)
def test_refusals_come_before_anything_is_written(demo_book, tmp_path, inline, given, more, part):
    inline()
    with pytest.raises(ValueError, match=r"\w") as refusal:
        sweeps.sweep("demo", given, tmp_path / "out", **more)
    assert part in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_unsafe_values_make_no_file_names():
    key = "0" * 32
    assert sweeps._name({"word": "../../evil"}, key) == key
    assert sweeps._name({"word": "a" * 200}, key) == key
    assert sweeps._name({"dim": 16, "rate": -1e-3}, key) == "dim=16,rate=-0.001"


# -- folders ---------------------------------------------------------------------------------------


def test_what_has_finished_is_kept_and_what_failed_runs_again(demo_book, tmp_path, inline):
    folder, given = tmp_path / "sweep", {"size": "1..3", "mode": "plain,broken"}
    first = inline()
    table = sweeps.sweep("demo", given, folder)
    assert len(first.done) == 6
    assert list(table["status"]) == ["done", "failed"] * 3
    assert list(table["double"].dropna()) == [2, 4, 6]
    assert (folder / "runs" / "size=1,mode=broken.failed.ipynb").exists()
    second = inline()
    sweeps.sweep("demo", given, folder, resume=True)
    assert second.done == [f"size={i},mode=broken" for i in (1, 2, 3)]
    third = inline()
    (folder / "runs" / "notes.txt").write_text("mine")
    sweeps.sweep("demo", given, folder, force=True)
    assert len(third.done) == 6
    assert (folder / "runs" / "notes.txt").read_text() == "mine"


def test_another_chapter_text_runs_all_anew(demo_book, tmp_path, inline):
    inline()
    sweeps.sweep("demo", {"size": "1,2"}, tmp_path / "s")
    page = demo_book / "book" / "demo.md"
    page.write_text(page.read_text("utf-8") + "\nMore.\n", "utf-8")
    inline(stop=1)
    with pytest.raises(KeyboardInterrupt):
        sweeps.sweep("demo", {"size": "1,2"}, tmp_path / "s", resume=True)
    # What the old text gave is no result of the new one.
    assert list(sweeps.table(tmp_path / "s")["status"]) == ["done", "open"]
    again = inline()
    sweeps.sweep("demo", {"size": "1,2"}, tmp_path / "s", resume=True)
    assert again.done == ["size=2"]


def test_an_interrupted_sweep_keeps_what_finished(demo_book, tmp_path, inline):
    folder = tmp_path / "s"
    inline(stop=2)
    with pytest.raises(KeyboardInterrupt):
        sweeps.sweep("demo", {"size": "1..5"}, folder)
    assert list(sweeps.table(folder)["status"]) == ["done"] * 2 + ["open"] * 3
    assert not list(folder.rglob("*.part"))
    rest = inline()
    sweeps.sweep("demo", {"size": "1..5"}, folder, resume=True)
    assert rest.done == ["size=3", "size=4", "size=5"]


def test_a_second_command_is_refused_while_the_first_is_at_work(demo_book, tmp_path, inline):
    folder, refusals = tmp_path / "s", []

    def second(ready, total, run):
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for how in ({"resume": True}, {"force": True}):
            with pytest.raises(ValueError, match="no other sweep is at work") as refusal:
                sweeps.sweep("demo", {"size": "1,2"}, folder, **how)
            refusals.append(refusal)
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before

    first = inline()
    sweeps.sweep("demo", {"size": "1,2"}, folder, progress=second)
    assert first.done == ["size=1", "size=2"]
    assert len(refusals) == 4
    sweeps.sweep("demo", {"size": "1,2"}, folder, force=True)  # the first has let go of it
    assert first.done == ["size=1", "size=2"] * 2


def test_folders_of_something_else_are_left_alone(demo_book, tmp_path, inline):
    inline()
    folder = tmp_path / "s"
    sweeps.sweep("demo", {"size": "1,2"}, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for given, more, part in [
        ({"size": "1,2"}, {}, "--resume to go on, or --force"),
        ({"size": "1,3"}, {"resume": True}, "it has a sweep of demo size=1,2"),
        ({"size": "1,3"}, {"force": True}, "it has a sweep of demo"),
        ({"size": "1,2"}, {"resume": True, "force": True}, "one of them"),
    ]:
        with pytest.raises(ValueError, match=r"\w") as refusal:
            sweeps.sweep("demo", given, folder, **more)
        assert part in str(refusal.value)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("all of it")
    with pytest.raises(ValueError, match="that `kexue sweep` made"):
        sweeps.sweep("demo", {"size": "1,2"}, tmp_path / "other", force=True)
    with pytest.raises(ValueError, match="folder = "):
        sweeps.sweep("demo", {"size": "1"}, tmp_path / "other" / "thesis.tex")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"chapter": "demo", "swept": {}, "points": {"../../evil": {}}, "keys": {}}',
        '{"chapter": "demo", "swept": {"size": 3}, "points": {}, "keys": {}}',
        '{"chapter": "demo", "swept": {}, "points": {}, "keys": []}',
        '{"chapter": 1, "swept": {}, "points": {}}',
    ],
)
def test_a_manifest_from_elsewhere_is_data_and_leads_nowhere_else(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text, "utf-8")
    with pytest.raises(ValueError, match="that `kexue sweep` made"):
        report.report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


# -- reports ---------------------------------------------------------------------------------------


def made_up(folder, rows, swept, title="A demonstration"):
    """Write a sweep by hand: rows are values with the record's numbers, a failure, or nothing."""
    (folder / "runs").mkdir(parents=True)
    points = {f"p{i}": values for i, (values, _) in enumerate(rows)}
    manifest = {"chapter": "demo", "title": title, "swept": swept, "points": points}
    manifest["keys"] = dict.fromkeys(points, "k")
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    for i, (values, found) in enumerate(rows):
        if found is None:
            continue
        record = {} if isinstance(found, str) else {"top": {"value": found, "error": None, "meaning": "m"}}
        run = {"key": "k", "values": values, "record": record, "seconds": 2.0}
        run["error"] = found if isinstance(found, str) else None
        (folder / "runs" / f"p{i}.json").write_text(json.dumps(run), "utf-8")


def test_the_summary_has_means_and_intervals_over_seeds(tmp_path):
    numbers = np.random.default_rng(0).normal(size=(2, 5))
    rows = [
        ({"dim": dim, "seed": seed}, float(numbers[i, seed]))
        for i, dim in enumerate((4, 8))
        for seed in range(5)
    ]
    made_up(tmp_path / "s", rows, {"dim": [4, 8], "seed": list(range(5))})
    files = report.report(tmp_path / "s")
    short = pd.read_csv(files["summary.csv"])
    assert list(short["dim"]) == [4, 8]
    assert list(short["runs"]) == [5, 5]
    for i in range(2):
        low, high = stats.ttest_1samp(numbers[i], 0).confidence_interval(0.95)
        assert short["mean"][i] == pytest.approx((low + high) / 2)
        assert short["half_width"][i] == pytest.approx((high - low) / 2)
    whole = pd.read_parquet(files["table.parquet"])
    same = pd.read_csv(files["table.csv"])
    assert list(same.columns) == list(whole.columns)
    assert (same[["dim", "seed", "status"]] == whole[["dim", "seed", "status"]]).all(axis=None)
    assert whole["top"].to_numpy() == pytest.approx(numbers.ravel())


def test_the_page_stands_alone_names_failures_and_escapes(tmp_path):
    rows = [
        ({"dim": 4}, 1.0),
        ({"dim": 8}, "CheckFailed: <script>alert(1)</script>"),
        ({"dim": 16}, None),
    ]
    made_up(tmp_path / "s", rows, {"dim": [4, 8, 16]}, title="<b>bold</b>")
    page = report.report(tmp_path / "s")["index.html"].read_text("utf-8")
    assert "1 done, 1 failed, 1 open" in page
    assert "CheckFailed: &lt;script&gt;" in page
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;b&gt;bold" in page
    for attribute in ("src=", "@import", 'href="http', "url(h"):
        assert attribute not in page
    assert page.count("<svg") == 1


def test_each_combination_is_a_line_with_its_own_look():
    table = {"n": [1, 2, 3] * 3, "k": [5] * 3 + [6] * 3 + [7] * 3, "seconds": [1.0] * 9, "top": range(9)}
    [axes] = report.drawing(table, "top").axes
    drawn = [container[0] for container in axes.containers]
    assert [list(line.get_ydata()) for line in drawn] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert all(line.get_linestyle() not in ("None", "none", "") for line in drawn)
    for look in ("get_color", "get_linestyle", "get_marker"):
        assert len({str(getattr(line, look)()) for line in drawn}) == 3, look


def test_a_sweep_that_has_just_begun_has_a_report(tmp_path):
    made_up(tmp_path / "s", [({"dim": 4}, None)], {"dim": [4]})
    files = report.report(tmp_path / "s")
    assert "1 open" in files["index.html"].read_text("utf-8")
    assert len(pd.read_csv(files["summary.csv"])) == 0


# -- real workers ----------------------------------------------------------------------------------


def test_the_command_on_this_machine(demo_book, tmp_path):
    words = ["sweep", "demo", "-p", "size=1,2", "-p", "mode=plain,broken", "-o", "s", "--workers", "2"]
    said = subprocess.run(
        [*COMMAND, *words, "--json"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert said.returncode == 1, said.stderr
    assert json.loads(said.stdout) == {"folder": "s", "done": 2, "failed": 2, "open": 0}
    lines = said.stderr.splitlines()
    assert lines[0] == "demo: 4 runs, 2 at a time"
    assert [line.split()[0] for line in lines[1:5]] == ["1/4", "2/4", "3/4", "4/4"]
    assert (
        lines[5]
        == "kexue: 2 of 4 runs failed: chapter demo failed in code cell 4: CheckFailed: eq-demo: off by one"
    )
    assert len(lines) == 6
    notebook = json.loads((tmp_path / "s" / "runs" / "size=2,mode=plain.ipynb").read_text("utf-8"))
    assert "Twice the size is 4" in "".join(notebook["cells"][0]["source"])
    made = subprocess.run([*COMMAND, "report", "s"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert made.stdout.splitlines()[-1] == "s/report/index.html"


def test_a_scheduler_that_is_not_there_is_named_and_nothing_written(demo_book, tmp_path):
    words = ["sweep", "demo", "-p", "size=1", "-o", "s", "--scheduler", "tcp://127.0.0.1:1"]
    said = subprocess.run([*COMMAND, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert said.returncode == 2
    assert said.stderr.splitlines()[-1].startswith(
        "kexue: scheduler = 'tcp://127.0.0.1:1': expected the address"
    )
    assert not (tmp_path / "s").exists()


def test_a_killed_worker_loses_nothing_and_other_code_is_refused(demo_book, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    page = demo_book / "book" / "demo.md"
    page.write_text(page.read_text("utf-8").replace("time.sleep(60)", "time.sleep(4)"), "utf-8")
    given = {"size": "1..3", "mode": "slow"}
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=None, silence_logs=50
    ) as cluster:
        address, found = cluster.scheduler_address, []
        asked = threading.Thread(
            target=lambda: found.append(sweeps.sweep("demo", given, tmp_path / "s", scheduler=address))
        )
        asked.start()
        with distributed.Client(address) as client:
            for _ in range(300):
                busy = [w for w, keys in client.processing().items() if keys]
                if busy:
                    break
                time.sleep(0.1)
            time.sleep(2)
            victim = client.run(os.getpid, workers=busy[:1])[busy[0]]
            os.kill(victim, signal.SIGKILL)
        asked.join(120)
        assert list(found[0]["status"]) == ["done"] * 3
        assert sorted(found[0]["double"]) == [2, 4, 6]
        monkeypatch.setattr(sweeps, "fingerprint", lambda slug: "another")
        with pytest.raises(ValueError, match="the same chapter, library and lock"):
            sweeps.sweep("demo", {"size": "4"}, tmp_path / "t", scheduler=address)
    assert not (tmp_path / "t").exists()


def test_a_killed_command_goes_on_where_it_was(demo_book, tmp_path):
    page = demo_book / "book" / "demo.md"
    page.write_text(
        page.read_text("utf-8")
        .replace('if mode == "slow":', "if size == 2 and not os.path.exists(GATE):")
        .replace("import os\nimport signal", f"import os\nimport signal\nGATE = {str(tmp_path / 'gate')!r}"),
        "utf-8",
    )
    words = ["sweep", "demo", "-p", "size=1,2", "-o", str(tmp_path / "s"), "--workers", "1"]
    with subprocess.Popen([*COMMAND, *words], start_new_session=True, stderr=subprocess.PIPE) as command:
        for _ in range(600):
            if (tmp_path / "s" / "runs" / "size=1.json").exists():
                break
            time.sleep(0.1)
        os.killpg(command.pid, signal.SIGKILL)
        command.communicate()
    first = (tmp_path / "s" / "runs" / "size=1.json").read_bytes()
    (tmp_path / "gate").touch()
    done = subprocess.run([*COMMAND, *words, "--resume"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(sweeps.table(tmp_path / "s")["status"]) == ["done", "done"]
    assert (tmp_path / "s" / "runs" / "size=1.json").read_bytes() == first


def test_ctrl_c_says_how_to_go_on(demo_book, tmp_path):
    words = ["sweep", "demo", "-p", "size=1,2", "-p", "mode=slow", "-o", "s", "--workers", "1"]
    with subprocess.Popen(
        [*COMMAND, *words], cwd=tmp_path, start_new_session=True, text=True, stderr=subprocess.PIPE
    ) as command:
        for _ in range(600):
            if (tmp_path / "s" / "manifest.json").exists():
                break
            time.sleep(0.1)
        time.sleep(2)
        os.kill(command.pid, signal.SIGINT)
        lines = command.communicate(timeout=60)[1].splitlines()
    assert command.returncode == 130
    assert lines[-1] == "kexue: interrupted; --resume goes on with what is left in s"


def test_every_point_is_checked_by_the_chapters_own_cells(demo_book):
    check = notebooks.checker("demo")
    assert check({"size": 5}).parameters["size"].value == 5
    with pytest.raises(ValueError, match="must not be 7"):
        check({"size": 7})
