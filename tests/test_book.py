"""The chapters keep the contract (the rules are in contract.py), and every rule can fail."""

import importlib.util
import re
from collections import Counter
from functools import cache
from itertools import pairwise

import contract
import jupytext
import nbformat
import pytest
from contract import Chapter, faults

from kexue_lib import notebooks, recorded, sweeps

SLUGS = notebooks.chapters()
ROOT = notebooks.book_root()
HEAVIEST = 1.5e6  # bytes of a page with its figures, without the scripts that all pages share
TEMPLATE = (ROOT / "book" / "_template.md").read_text("utf-8")

# Numbers in prose that no run can change, each with the reason.
FIXED = {
    "hubness": {
        r"\b[Ii]n (20|128|2000) dimensions": "a cell fixes this dimension; no parameter changes it",
        r"\b10 000 latent|at least 50 times": "sizes of the cited experiment, which the cell repeats",
        r"with 64 pixels": "the digits of scikit-learn have them",
        r"variance 2\b|exactly 2 to|multiples of 4|between 0 and": "exact values from the mathematics",
        r"60 degrees|12 in space": "theorems of geometry, which no run decides",
    },
    "sector": {r"in 19[23]9\b": "years in which Fisher and Stevens published the sum"},
    "length_extrapolation": {
        r"Llama-2 with 13 billion|5158 with|5\.4[03]\b": "published perplexities, with their citation",
        r"at 2048 and 4096, trained at 1024": "sizes of a cited experiment",
        r"22\.56 and 28\.43|21\.60 and 20\.73|25\.57 and 25\.65": "published perplexities, cited",
        r"73\.60 and 294\.45": "published perplexities, cited",
        r"512, read at 3512: 18\.40 from 19\.73|35\.54 from 20\.07": "published perplexities, cited",
    },
    "cross": {r"27216 dominated colourings": "the proved answer stands in the title"},
}


def source(slug):
    return (ROOT / "book" / f"{slug}.md").read_text("utf-8")


@cache
def executed(slug):
    path = ROOT / "out" / "executed" / f"{slug}.ipynb"
    if not path.is_file():
        pytest.fail(f"{path} is missing: run `make book` first")
    return nbformat.read(path, 4)


# -- the chapters -----------------------------------------------------------------------------


def test_there_is_a_chapter():
    assert "hubness" in SLUGS


@pytest.mark.parametrize("slug", SLUGS)
@pytest.mark.parametrize("rule", contract.RULES, ids=lambda rule: rule.__name__)
def test_contract(slug, rule):
    pages = [path.read_text("utf-8") for path in (ROOT / "book").glob("*.md")]
    read = {name for page in pages for name in re.findall(rf"\{{record\}}`{slug} (\w+)", page)}
    recorded = set(notebooks.record_of(executed(slug)))
    chapter = Chapter(source(slug), FIXED.get(slug, {}), recorded=recorded, read=read)
    if found := list(rule(chapter)):
        pytest.fail(f"book/{slug}.md breaks the contract:\n  " + "\n  ".join(found), pytrace=False)


def test_no_two_chapters_share_a_label():
    where = {}
    for slug in SLUGS:
        for label in re.findall(r"\$\$ *\(([\w-]+)\)|^:(?:label|name): *([\w-]+)", source(slug), re.M):
            where.setdefault("".join(label), set()).add(slug)
    assert not {label: slugs for label, slugs in where.items() if len(slugs) > 1}


def notation(text):
    """Return (symbol, chapter or '') for what the table of notation explains."""
    found = []
    for row in re.findall(r"^\| (\$.*\$) \| (.*) \|$", text, re.M):
        scope = re.match(r"in `(\w+)`", row[1])
        for formula in re.findall(r"\$([^$]+)\$", row[0]):
            parts = re.split(r"[,;]\\?\s*|=|\\in\b", formula)
            found += [(part.strip(), scope[1] if scope else "") for part in parts if part.strip()]
    return found


def test_a_symbol_has_one_meaning_or_names_the_chapter_where_it_has_another():
    found = notation((ROOT / "book" / "notation.md").read_text("utf-8"))
    assert len(found) > 70
    assert {one: count for one, count in Counter(found).items() if count > 1} == {}
    for symbol, slug in found:
        if slug:
            heart = re.sub(r"[{}\s]", "", symbol)
            assert heart in re.sub(r"[{}\s]", "", source(slug)), (symbol, slug)


def test_a_clash_of_symbols_would_be_seen():
    table = "| $n$, $k_i=2$ | points |\n| $k_i$ | in `sde`: steps |\n| $n$ | norm |\n"
    found = notation(table)
    assert found == [("n", ""), ("k_i", ""), ("2", ""), ("k_i", "sde"), ("n", "")]
    assert [one for one, count in Counter(found).items() if count > 1] == [("n", "")]


@pytest.mark.parametrize("slug", SLUGS)
def test_no_draft_is_a_chapter(slug):
    assert not Chapter(source(slug)).draft, f"book/{slug}.md is a draft: finish it, or take it off _toc.yml"


@pytest.mark.parametrize("slug", SLUGS)
def test_a_chapter_has_its_rooms(slug):
    assert (ROOT / "kexue_lib" / f"{slug}.py").is_file()
    assert (ROOT / "tests" / f"test_{slug}.py").is_file()
    page = (ROOT / "book" / "api" / f"{slug}.md").read_text("utf-8")
    assert f"automodule:: kexue_lib.{slug}\n" in page
    assert f"](api/{slug}.md)" in (ROOT / "book" / "api.md").read_text("utf-8")


def test_the_library_names_no_equation_that_the_book_does_not_have():
    known = {label for slug in SLUGS for label in Chapter(source(slug)).equations}
    named = {
        label
        for name in (*SLUGS, "window", "mixture")
        for label in re.findall(
            r"\beq-[a-z0-9]+(?:-[a-z0-9]+)*", (ROOT / "kexue_lib" / f"{name}.py").read_text("utf-8")
        )
    }
    assert len(named) > 40
    assert named <= known


@pytest.mark.parametrize("slug", SLUGS)
def test_its_module_too_uses_no_shared_random_numbers(slug):
    path = ROOT / "kexue_lib" / f"{slug}.py"
    found = [
        contract.ast.unparse(call) for call in contract.draws([contract.ast.parse(path.read_text("utf-8"))])
    ]
    assert found == []


@pytest.mark.parametrize("slug", SLUGS)
def test_parameters_are_checked_as_declared(slug):
    names = {row["name"] for row in notebooks.check_parameters(slug)[1].rows()}
    assert names == set(notebooks._declared(slug))


@pytest.mark.parametrize("slug", SLUGS)
def test_every_statement_was_decided_in_the_run_with_a_control(slug):
    verdicts = notebooks.verdicts_of(executed(slug))
    stated = [label for label in Chapter(source(slug)).equations if label.startswith("eq-")]
    assert {v["label"] for v in verdicts} == set(stated)
    assert all(v["controls"] for v in verdicts)
    if slug == "hubness":
        assert len(stated) >= 18


@pytest.mark.parametrize("slug", SLUGS)
def test_the_run_has_no_warnings(slug):
    outputs = [out for cell in executed(slug).cells for out in cell.get("outputs", [])]
    assert [out.text for out in outputs if out.get("name") == "stderr"] == []


@pytest.mark.parametrize("slug", SLUGS)
def test_a_page_is_not_heavy(slug):
    page = ROOT / "_build" / "html" / "book" / f"{slug}.html"
    text = page.read_text("utf-8")
    figures = {page.parent / name for name in re.findall(r'(?:src|href)="(\.\./_images/[^"]+)"', text)}
    assert len(text.encode()) + sum(path.stat().st_size for path in figures) <= HEAVIEST


# -- the template -----------------------------------------------------------------------------


def finished(text):
    """Return the template as if its author had finished it."""
    text = text.replace("kexue:\n  draft: true\n", "").replace("# Draft: ", "# ")
    text = re.sub(r"^%.*\n+", "", text, flags=re.M)
    levels = ["Check", "Check", "Extend", "Extend", "Refute", "Refute", "Research"]
    more = "".join(map(exercise, "abcdefg", levels))
    return text.replace("## Summary", more + "## Summary")


def exercise(k, level):
    task = f":::{{exercise}}\n:label: ex-{k}\n**{level}.** What?\n:::\n\n"
    return task + f":::{{solution}} ex-{k}\n:class: dropdown\nThat.\n:::\n\n"


DONE = finished(TEMPLATE)


def test_the_template_is_a_draft_and_otherwise_keeps_the_contract():
    assert "_template" not in SLUGS
    assert Chapter(TEMPLATE).draft
    assert faults(Chapter(TEMPLATE)) == []


def test_without_its_mark_it_is_no_chapter():
    found = faults(Chapter(TEMPLATE.replace("kexue:\n  draft: true\n", "")))
    assert {fault.split(":")[0] for fault in found} == {"opening", "markup", "exercises"}


def test_finished_it_is_one():
    assert faults(Chapter(DONE)) == []


def test_jupyterlab_keeps_the_mark(tmp_path):
    """jupytext drops what its settings in pyproject.toml do not name."""
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    (tmp_path / "new.md").write_text(TEMPLATE, "utf-8")
    lab = jupytext.TextFileContentsManager(root_dir=str(tmp_path))
    lab.save(lab.get("new.md", type="notebook"), "new.md")
    assert Chapter((tmp_path / "new.md").read_text("utf-8")).draft


# -- every rule can fail ----------------------------------------------------------------------

CODE = "```{code-cell} ipython3\n"
BAD = [
    # rule, what is replaced in the finished template, by what, words of the complaint
    ("opening", "## One round", "# Another title\n\n## One round", "there are 2"),
    ("opening", "# a random point", "# Draft: a random point", "go together"),
    ("opening", "Throw a dart at a square without aiming.", "Source: none.", "begins with a paragraph"),
    ("opening", "28 June 2022", "summer", "link and date"),
    ("opening", "](https://kexue.fm/archives/9147)", "]", "link and date"),
    ("opening", "You need", "You may need", "`You need …`"),
    ("opening", "{record}`runtime:.0f`", "few", "runtime"),
    ("sections", "## Beyond the post", "## Further", "must come once each, in this order"),
    ("sections", "## From scratch", "## Exercises\n\n## From scratch", "in this order"),
    ("sections", "## How large is the disc?", "### How large is the disc?", "at least two sections"),
    ("sections", "## Summary", "## Summary\n\nIt.\n\n## Coda", "last section is `Summary`"),
    ("parameters", ":tags: [parameters]", ":tags: [other]", "first code cell is tagged"),
    ("parameters", "seed: int = 2 ", "seed = 2 ", "typed assignment"),
    ("parameters", "  # darts in a round, 100 to 10000", "", "`darts` has no comment"),
    ("parameters", 'profile: str = "quick"', 'size: str = "quick"', "the parameter `profile`"),
    ("parameters", "    darts=Integer", "    arrows=Integer", "arrows, darts"),
    ("picture", "## One round", "## One\n\n$$ 1=1 $$ (def-one)\n\n## One round", "before the first"),
    ("scratch", "def volume(n):\n", "def volume(n):\n" + "    n\n" * 15, "at most 15 lines, not 19"),
    ("scratch", "    assert math.isclose", "    print", "must compare"),
    ("scratch", "{py:func}", "{eq}", "link to the library"),
    ("claims", "| confirmed |", "| nice |", "not `nice`"),
    ("claims", "| Claim | What we found | Verdict |\n|---|---|---|\n| The", "The", "has no table"),
    ("last_cell", "Record(\n", "print(\n", "ends with `Record"),
    ("last_cell", "To cite this chapter, cite", "See", "how to cite"),
    ("labels", " (eq-disc)", "", "needs a label"),
    ("labels", " (def-hit)", " (hit)", "has `hit`"),
    ("labels", " (def-hit)", " (eq-disc)", "used twice"),
    ("labels", "## From scratch", "```{math}\n1=1\n```\n\n## From scratch", "is written $$"),
    ("labels", "$$ (eq-", "$$ (def-", "there is no statement"),
    ("decisions", '"eq-hit"', '"def-hit"', "is the label of no statement"),
    ("decisions", '"eq-hit"', '"eq-" + "hit"', "written out"),
    ("decisions", "\nprove(", "\nprint(", "no check decides eq-disc"),
    ("decisions", '{"took the upper half for the whole": sp.pi / 2}', "{}", "has no control"),
    ("decisions", ',\n      refutes={"took the upper half for the whole": sp.pi / 2}', "", "has no control"),
    ("decisions", "$$ (eq-hit)\n", "$$ (eq-hit)\n\n## Next\n", "in the same section"),
    ("references", "{eq}`eq-disc`", "{eq}`eq-disk`", "is not on this page"),
    ("references", "{eq}`eq-disc`", "eq-disc", "without a role"),
    ("references", "{numref}`fig-radii`", "{numref}`Figure %s <fig-radius>`", "is not on this page"),
    ("pictures", '\n    alt="Dots all over a square, and a circle inside it.",', "", "no alt text"),
    (
        "pictures",
        "    caption: One round of darts at the square. The corners take their share.\n",
        "",
        "no caption",
    ),
    ("pictures", "    name: fig-radii\n", "", "no caption and name"),
    ("pictures", "figures.slider(", "figures.show(", "figures.slider"),
    ("numbers", "In all rounds together", "In all 60 rounds together", "all 60 rounds"),
    ("numbers", "In all rounds together", "In 3.5% of all rounds", "In 3.5% of"),
    ("numbers", "In all rounds together", "With $p=0.785$", "0.785"),
    ("numbers", "The corners take their share.", "The corners take 21 percent.", "take 21 percent"),
    ("numbers", "| The ball's share", "| 78 percent of the share", "78 percent"),
    ("record", "Record(\n    {", "Record(\n    {} | {", "only a run can tell"),
    ("record", "{record}`hits:d`", "Many", "`hits` is used nowhere"),
    (
        "record",
        "{record}`hits:d`",
        "{record}`hits:d` or {record}`shots±:.1f`",
        "`shots` is not in the record",
    ),
    ("markup", "In all rounds together", "In <b>all</b> rounds together", "no raw HTML: <b>"),
    ("markup", "## Summary", "```{raw} html\n```\n\n## Summary", "no raw HTML"),
    ("markup", "## Summary", "% later\n\n## Summary", "a comment is left"),
    ("assertions", "one_round = throw", "assert darts\none_round = throw", "in place of: assert darts"),
    ("python", "one_round = throw", "%time\none_round = throw", "not plain Python: %time"),
    ("width", "one_round = throw", "# " + "x" * 87 + "\none_round = throw", "has 89 characters"),
    ("exercises", "{exercise}\n:label: ex-dart", "{exercise} Darts\n:label: ex-dart", "has a title"),
    ("exercises", "**Check.** How many", "How many", "ex-dart begins with"),
    (
        "exercises",
        "## Summary",
        "## Summary\n\n:::{exercise}\n:label: ex-h\n**Check.** What?\n:::\n",
        "stand in",
    ),
    ("exercises", exercise("a", "Check"), "", "at least eight exercises, not 7"),
    ("exercises", "{solution} ex-a", "{solution} ex-z", "has its solution, in order"),
    ("exercises", ":::{solution-end}\n:::\n", "", "0 solution-end"),
    (
        "exercises",
        ":::{exercise}\n:label: ex-dart\n",
        ":::{exercise-start}\n:label: ex-dart\n:::\n",
        "exercise-end",
    ),
    ("exercises", CODE + "p = math.pi", "```python\np = math.pi", "a code cell"),
    ("exercises", "**Refute.** What", "**Check.** What", "at least 2 exercises begin with **Refute.**"),
    ("exercises", "**Research.** What", "**Check.** What", "**Research.**, not 0"),
]
DRAWS = [
    *(
        "torch.manual_seed(1)",
        "torch.cuda.manual_seed_all(1)",
        "torch.rand(3)",
        "torch.randn(\n    3,\n    4,\n)",
    ),
    *(
        "torch.rand_like(shares)",
        "torch.normal(0.0, 1.0, (3,))",
        "shares.normal_()",
        "(shares + 1).uniform_(0, 1)",
    ),
    *("torch.nn.init.normal_(shares)", "import numpy as np\nnp.random.seed(1)"),
    *("import numpy\nnumpy.random.rand(3)", "import numpy as np\nnp.random.default_rng()"),
    *("from numpy.random import normal\nnormal()", "import random\nrandom.shuffle([1])"),
    *(
        "import random as r\nr.seed(3)",
        "from random import choice\nchoice([1])",
        "import random\nrandom.Random()",
    ),
    *("from torch import randn as noise\nnoise(3)", "from scipy import stats\nstats.norm.rvs(size=3)"),
]
FINE = [
    *(
        "torch.rand(3, generator=stream(seed, 7))",
        "shares.normal_(generator=stream(seed, 7))",
        "torch.nn.init.zeros_(shares)",
    ),
    *(
        "import numpy as np\nnp.random.default_rng(seed).normal()",
        "import random\nrandom.Random(seed).random()",
    ),
    *("stats.norm.rvs(size=3, random_state=seed)", "rand(3)", "torch.Generator().manual_seed(seed)"),
]
BAD += [
    ("randomness", "one_round = throw", f"{code}\none_round = throw", "generator of their own")
    for code in DRAWS
]


@pytest.mark.parametrize(("rule", "old", "new", "words"), BAD, ids=lambda value: str(value)[:20])
def test_a_broken_rule_is_named(rule, old, new, words):
    assert old in DONE
    found = [fault for fault in faults(Chapter(DONE.replace(old, new))) if fault.startswith(f"{rule}: ")]
    assert any(words in fault for fault in found), found


def test_every_rule_was_broken():
    assert {rule for rule, *_ in BAD} == {rule.__name__ for rule in contract.RULES}


@pytest.mark.parametrize("code", FINE)
def test_generators_of_ones_own_are_fine(code):
    text = DONE.replace("one_round = throw", f"{code}\none_round = throw")
    assert faults(Chapter(text)) == []


def test_numbers_are_allowed_only_for_a_reason_and_while_they_are_there():
    text = DONE.replace("In all rounds together", "In 60 rounds together")
    assert faults(Chapter(text, {r"In 60 rounds": "a cell fixes it"})) == []
    assert "needs a reason" in faults(Chapter(text, {r"In 60 rounds": "so"}))[0]
    assert "not in the prose any more" in faults(Chapter(DONE, {r"In 60 rounds": "a cell fixes it"}))[0]


def test_an_exercise_may_be_gated_like_its_solution():
    text = DONE.replace(":::{exercise}\n:label: ex-dart\n", ":::{exercise-start}\n:label: ex-dart\n:::\n\n")
    text = text.replace("a hundredth?\n:::\n", "a hundredth?\n\n:::{exercise-end}\n:::\n")
    assert faults(Chapter(text)) == []


def test_other_pages_may_use_what_the_chapter_does_not():
    text = DONE.replace("{record}`hits:d`", "Many")
    assert faults(Chapter(text, read={"hits"})) == []


@pytest.fixture(scope="module")
def recommended():
    spec = importlib.util.spec_from_file_location("recommended_sweeps", ROOT / "tools" / "sweeps.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.recommended


@pytest.mark.parametrize("slug", SLUGS)
def test_the_recommended_sweep_can_be_made_and_changes_what_it_shows(slug, recommended):
    command, parameters = recommended(slug)
    assert len(sweeps.plan(slug, parameters).points) > 2
    entry = re.search(r"^:entry: (\w+)$", source(slug), re.M)[1]
    assert entry in notebooks.record_of(executed(slug))
    if kept := recorded.load_sweep(slug):
        assert kept.command == command
        assert len(set(kept.table[entry])) > 1


def test_words_beside_recorded_sweeps_are_so():
    """What four chapters say of theirs, in the order of their words."""

    def column(slug, entry):
        return recorded.load_sweep(slug).table[entry]

    points, k, share = (column("hubness", name) for name in ("points", "k", "antihub_gaussian"))
    of = {(n, many): value for n, many, value in zip(points, k, share, strict=True)}
    assert all(of[500, many] < of[1000, many] < of[2000, many] for many in (5, 20))
    assert all(of[n, 20] < of[n, 5] / 2 for n in (500, 1000, 2000))
    price = column("ddpm", "gradient_ratio")  # steps go four times up
    assert all(3 < b / a < 4 for a, b in pairwise(price))
    width = column("guidance", "simulated_sde")
    assert all(0.63 < b / a < 0.7 for a, b in pairwise(width))  # two thirds
    loss = column("length_extrapolation", "rope_full")
    assert all(a < b for a, b in pairwise(loss))
