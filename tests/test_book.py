"""The contract of a chapter, read off its source and off its executed notebook."""

import re

import nbformat
import pytest

from kexue_lib import notebooks

SLUGS = notebooks.chapters()
ROOT = notebooks.book_root()


def source(slug):
    return (ROOT / "book" / f"{slug}.md").read_text("utf-8")


def prose(slug):
    """Return the text outside code cells, mathematics, roles, links and headings."""
    text = re.sub(r"^---\n.*?\n---\n", "", source(slug), flags=re.S)
    text = re.sub(r"^(`{3,}).*?^\1", "", text, flags=re.S | re.M)
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]*\$|\{[\w:]+\}`[^`]*`|`[^`]*`|\]\([^)]*\)", " ", text, flags=re.S)
    return text


@pytest.fixture(params=SLUGS)
def slug(request):
    return request.param


@pytest.fixture
def executed(slug):
    path = ROOT / "out" / "executed" / f"{slug}.ipynb"
    if not path.is_file():
        pytest.fail(f"{path} is missing: run `make book` first")
    return nbformat.read(path, 4)


def test_there_is_a_chapter():
    assert "hubness" in SLUGS


def test_a_chapter_has_its_module_and_its_tests(slug):
    assert (ROOT / "kexue_lib" / f"{slug}.py").is_file()
    assert (ROOT / "tests" / f"test_{slug}.py").is_file()


def test_sections_stand_in_order(slug):
    headings = re.findall(r"^## (.+)$", source(slug), re.M)
    places = [headings.index(h) for h in ("From scratch", "Claimed and measured", "Exercises", "Summary")]
    assert places == sorted(places)
    assert places[0] >= 2  # a picture and a derivation come first


def test_parameters_come_first_and_are_validated_at_once(slug):
    tags = [c.metadata.get("tags", []) for c in notebooks.read_chapter(slug).cells if c.cell_type == "code"]
    assert "parameters" in tags[0]
    assert "validate" in tags[1]
    names = {row["name"] for row in notebooks.check_parameters(slug)[1].rows()}
    assert {"seed", "device", "profile"} <= names
    assert names == set(notebooks._declared(slug))


def test_every_equation_is_labelled_and_decided_with_a_control(slug, executed):
    labels = re.findall(r"^\$\$.*?\$\$ ?(\([^)]*\))?$", source(slug), re.S | re.M)
    assert labels
    assert all(re.fullmatch(r"\((eq|def)-[a-z0-9-]+\)", label) for label in labels), labels
    claims = {label[1:-1] for label in labels if label.startswith("(eq-")}
    verdicts = notebooks.verdicts_of(executed)
    assert {v["label"] for v in verdicts} == claims
    assert all(v["controls"] for v in verdicts)
    if slug == "hubness":
        assert len(claims) >= 18


def test_no_global_random_numbers(slug):
    code = "\n".join(c.source for c in notebooks.read_chapter(slug).cells if c.cell_type == "code")
    assert not re.search(
        r"torch\.manual_seed|np\.random\.(?!default_rng|Generator)|(?<!np\.)\brandom\.\w+\(", code
    )
    for call in re.findall(r"torch\.(?:rand|randn|randint|randperm)\([^\n]*", code):
        assert "generator=" in call, call


def test_figures_have_captions_and_alt_text(slug):
    cells = [
        c for c in notebooks.read_chapter(slug).cells if re.search(r"figures\.(show|slider)\(", c.source)
    ]
    assert cells
    for cell in cells:
        assert "alt=" in cell.source
        assert cell.metadata["mystnb"]["figure"]["caption"]


# Numbers a run cannot change: definitions of an experiment, dates, names, sizes fixed in a cell.
FIXED = {
    "hubness": r"28 June 2022|9147|10 000|\b(50|3|100|4|20|600|8|2)\b",
}


def test_numbers_in_prose_come_from_the_run(slug):
    text = re.sub(FIXED.get(slug, r"(?!)"), " ", prose(slug))
    assert not re.findall(r"\b\d[\d.,]*\s*%?", text), re.findall(r".{20}\b\d[\d.,]*.{0,20}", text)


def test_exercises_have_solutions_and_some_refute(slug):
    text = source(slug)
    labels = re.findall(r":::+\{exercise\}\n:label: ([\w-]+)", text)
    solved = re.findall(r":::+\{solution\} ([\w-]+)", text)
    assert len(labels) >= 8
    assert labels == solved
    assert text.count("**Refute.**") >= 2
    assert "**Research.**" in text


def test_the_record_is_complete_and_read(slug, executed):
    record = notebooks.record_of(executed)
    used = {re.split("[:±]", name)[0] for name in re.findall(r"\{record\}`([^`]*)`", source(slug))}
    assert used
    assert used <= set(record) | {"runtime"}
