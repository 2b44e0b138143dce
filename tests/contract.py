"""What a chapter is, as rules: each takes a `Chapter` and yields what is wrong, in one sentence each.

`faults` asks them all. A chapter marked as a draft (``kexue: {draft: true}`` in its front matter) is a
skeleton: it owes the full set of exercises, and may keep the template's advice.
"""

import ast
import re
from dataclasses import dataclass, field
from functools import cached_property

import jupytext

SECTIONS = ("From scratch", "Claimed and measured", "Beyond the post", "Exercises", "Summary")
CHECKS = {"prove", "compute", "support", "agree", "rate"}
WIDTH = 79  # characters of code that fit into the column of a page
SCRATCH = 15  # lines of the algorithm in "From scratch"
DATE = (
    r"\d{1,2} (?:January|February|March|April|May|June|July|August|September|October|November|December) \d{4}"
)
FENCE = re.compile(r"^(`{3,}).*?^\1`*$", re.S | re.M)
MATH = re.compile(r"\$\$(.*?)\$\$[ \t]*(?:\(([^)\n]*)\))?", re.S)
ROLE = re.compile(r"\{([\w:]+)\}`([^`]*)`")
RECORD = re.compile(r"\{record\}`([^`]*)`")
EXERCISE = re.compile(r"^:{3,}\{exercise(?:-start)?\}(.*)\n((?::\w+:.*\n)*)(?:[ \t]*\n|:{3,}\n)*(.*)", re.M)
SOLUTION = re.compile(r"^:{3,}\{solution(?:-start)?\} *([\w-]*)", re.M)


@dataclass
class Cell:
    """A code cell, and where it stands."""

    source: str
    tags: list[str]
    caption: str | None  # of its figure
    name: str | None
    section: str  # heading of level 2 above it, or ""
    solution: bool  # it is part of the solution of an exercise
    labels: set[str]  # equations displayed above it in its section

    @cached_property
    def tree(self):
        try:
            return ast.parse(self.source)
        except SyntaxError:  # the rule `python` complains
            return ast.Module([], [])

    def calls(self):
        """Yield every call with the dotted name of what is called."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield dotted(node.func), node


@dataclass
class Chapter:
    """A chapter as its text and code cells, and what is known about it from elsewhere."""

    text: str
    fixed: dict[str, str] = field(default_factory=dict)  # numbers allowed in prose: the reason
    recorded: set[str] | None = None  # names in the executed record; by default those written out
    read: set[str] = field(default_factory=set)  # names that other pages read from the record

    def __post_init__(self):
        notebook = jupytext.reads(self.text, "md:myst")
        self.draft = bool(notebook.metadata.get("kexue", {}).get("draft", False))
        self.body = re.sub(r"\A---\n.*?\n---\n", "", self.text, count=1, flags=re.S)
        self.cells, section, solution, labels = [], "", False, set()
        for cell in notebook.cells:
            if cell.cell_type == "code":
                figure = cell.metadata.get("mystnb", {}).get("figure", {})
                about = cell.metadata.get("tags", []), figure.get("caption"), figure.get("name")
                self.cells.append(Cell(cell.source, *about, section, solution, set(labels)))
                continue
            for line in outside(cell.source).splitlines():
                if line.startswith("## "):
                    section, labels = line[3:].strip(), set()
                if re.match(r":{3,}\{solution-(start|end)\}", line):
                    solution = "-start" in line
                labels |= set(re.findall(r"\$\$[ \t]*\(([\w-]+)\)", line))
        if self.recorded is None:
            self.recorded = written_out(self.cells[-1])

    @cached_property
    def prose(self):
        """The text without code, directives' heads, mathematics, roles and addresses."""
        text = re.sub(r"^:{3,}.*$|^:\w+:.*$|^\([\w-]+\)=$|^%.*$", "", outside(self.body), flags=re.M)
        text = MATH.sub(" ", text)
        text = re.sub(r"\{[\w:]+\}`[^`]*`|`[^`]*`|\]\([^)]*\)", " ", text)
        return text

    def section(self, name):
        """Return the text of a section, without code."""
        found = re.search(rf"^## {re.escape(name)}$(.*?)(?=^## |\Z)", outside(self.body), re.M | re.S)
        return found[1] if found else ""

    @cached_property
    def equations(self):
        """Labels of displayed equations, in order."""
        return [label or "" for _, label in MATH.findall(outside(self.body))]


def written_out(cell):
    """Return the names in a `Record({...})`, or None where only a run can tell."""
    given = [call.args[0] for name, call in cell.calls() if name == "Record" and call.args]
    if len(given) == 1 and isinstance(given[0], ast.Dict) and None not in given[0].keys:
        return {key.value for key in given[0].keys}
    return None


def outside(text):
    """Return text without code."""
    return FENCE.sub("", text)


def dotted(node):
    """Return `torch.nn.init` for that expression, and "" for one that is no name."""
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else f".{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def short(text):
    """Return the beginning of a piece of source, on one line."""
    line = " ".join(text.split())
    return line if len(line) < 60 else line[:57] + "…"


# -- order ------------------------------------------------------------------------------------


def opening(chapter):
    """One title, a paragraph, the source with link and date, what is needed, the run time."""
    titles = re.findall(r"^# (.*)$", outside(chapter.body), re.M)
    if len(titles) != 1:
        yield f"there must be one title (#), there are {len(titles)}"
        return
    if titles[0].startswith("Draft") != chapter.draft:
        yield "`Draft:` in the title and `kexue: {draft: true}` in the front matter go together"
    head = re.search(r"^# [^\n]*$(.*?)(?=^```|^## |\Z)", chapter.body, re.M | re.S)[1]
    blocks = [block for block in re.split(r"\n\s*\n", head.strip()) if not block.startswith("%")]
    source = next((block for block in blocks if block.startswith("Source:")), "")
    if not blocks or blocks[0] == source or len(blocks[0].split()) < 20:
        yield "the opening begins with a paragraph: the question, the surprise, what it is good for"
    if not re.search(r"\]\(https?://", source) or not re.search(DATE, source):
        yield "the opening has a line `Source: …` with the post's link and date (1 January 2026)"
    if "You need" not in head:
        yield "the opening says what the reader needs: `You need …`"
    if "{record}`runtime" not in head:
        yield "the opening says how long the page took: {record}`runtime:.0f` s"


def sections(chapter):
    """The five named sections, in order, after a picture and a derivation."""
    found = re.findall(r"^## (.+)$", outside(chapter.body), re.M)
    named = [heading for heading in found if heading in SECTIONS]
    if named != list(SECTIONS):
        yield f"the sections {', '.join(SECTIONS)} must come once each, in this order; found {named}"
    elif found.index(SECTIONS[0]) < 2:
        yield "before `From scratch` come at least two sections: a picture, and the derivation"
    if found and found[-1] != SECTIONS[-1]:
        yield f"the last section is `{SECTIONS[-1]}`, not `{found[-1]}`"


def parameters(chapter):
    """First the parameters, typed and with a comment each, then their validation."""
    tags = [cell.tags for cell in chapter.cells]
    if ["parameters" in tags[0], "validate" in tags[1]] != [True, True]:
        yield "the first code cell is tagged `parameters`, the second `validate`"
        return
    names, lines = set(), chapter.cells[0].source.splitlines()
    for node in chapter.cells[0].tree.body:
        if not isinstance(node, ast.AnnAssign) or node.value is None:
            yield f"a parameter is a typed assignment (`size: int = 3`), not `{short(ast.unparse(node))}`"
        elif not re.search(r"  # \w+", lines[node.end_lineno - 1]):
            yield f"the parameter `{ast.unparse(node.target)}` has no comment"
        names |= {target.id for target in ast.walk(node) if isinstance(target, ast.Name)} - {
            "int",
            "float",
            "str",
        }
    if missing := {"seed", "device", "profile"} - names:
        yield f"every chapter has the parameter `{min(missing)}`"
    calls = [call for name, call in chapter.cells[1].calls() if name == "validate"]
    checked = {keyword.arg for call in calls for keyword in call.keywords} - {"rules"}
    if checked != names:
        yield f"validate() must know the parameters and no others: {', '.join(sorted(checked ^ names))}"


def picture(chapter):
    """A figure comes before the first displayed equation."""
    figure = re.search(r"^figures\.(show|slider)\(", chapter.body, re.M)
    equation = re.search(r"^\$\$", chapter.body, re.M)
    if not figure or (equation and equation.start() < figure.start()):
        yield "a figure comes before the first displayed equation"


def scratch(chapter):
    """The algorithm in a few lines, the same from the library, and that they agree."""
    cells = [cell for cell in chapter.cells if cell.section == SECTIONS[0] and not cell.solution]
    if not cells:
        yield f"`{SECTIONS[0]}` has no code"
        return
    lines = [line for line in cells[0].source.splitlines() if re.match(r"\s*[^\s#]", line)]
    if len(lines) > SCRATCH:
        yield f"`{SECTIONS[0]}` shows the algorithm in at most {SCRATCH} lines, not {len(lines)}"
    calls = {name for cell in cells for name, _ in cell.calls()}
    compared = any(isinstance(node, ast.Assert) for cell in cells for node in ast.walk(cell.tree))
    if not compared and not calls & CHECKS:
        yield f"`{SECTIONS[0]}` must compare its result with the library's, by `assert` or a check"
    if "{py:" not in chapter.section(SECTIONS[0]):
        yield f"`{SECTIONS[0]}` must link to the library: {{py:func}}`~kexue_lib.…`"


def claims(chapter):
    """A table of claims, each with a verdict in the agreed words."""
    rows = re.findall(r"^\|(.*)\|[ \t]*$", chapter.section(SECTIONS[1]), re.M)[2:]
    if not rows:
        yield f"`{SECTIONS[1]}` has no table"
    for row in rows:
        verdict = row.split("|")[-1].strip(" *")
        if not re.match(r"(not )?confirmed\b", verdict):
            yield f"a verdict begins with `confirmed` or `not confirmed`, not `{short(verdict)}`"


def last_cell(chapter):
    """The last code cell shows the record."""
    body = chapter.cells[-1].tree.body
    last = body[-1].value if body and isinstance(body[-1], ast.Expr) else None
    if not isinstance(last, ast.Call) or dotted(last.func) != "Record":
        yield "the last code cell ends with `Record(…)`"
    if "cite" not in chapter.section(SECTIONS[-1]):
        yield f"`{SECTIONS[-1]}` says how to cite the chapter"


# -- equations --------------------------------------------------------------------------------


def labels(chapter):
    """Every displayed equation has a label of its own, def-… or eq-…."""
    text = outside(chapter.body)
    for formula, label in MATH.findall(text):
        if not re.fullmatch(r"(eq|def)-[a-z0-9]+(-[a-z0-9]+)*", label):
            yield f"a displayed equation needs a label (eq-… or def-…): {short(formula)} has `{label}`"
    if re.search(r"^\s*(?:`{3,}|:{3,})\{math\}|\\begin\{(equation|align)", chapter.body, re.M):
        yield "a displayed equation is written $$ … $$ (label)"
    if twice := {label for label in chapter.equations if label and chapter.equations.count(label) > 1}:
        yield f"the label {min(twice)} is used twice"
    if not any(label.startswith("eq-") for label in chapter.equations):
        yield "there is no statement (eq-…), so nothing is checked"


def decisions(chapter):
    """Every statement is decided where it stands, with a control; nothing else is."""
    stated = {label for label in chapter.equations if label.startswith("eq-")}
    decided = set()
    for cell in chapter.cells:
        for name, call in cell.calls():
            if name.rpartition(".")[2] not in CHECKS or not call.args:
                continue
            label = call.args[0].value if isinstance(call.args[0], ast.Constant) else None
            decided.add(label)
            if label is None:
                yield f"a check's first argument is its label, written out: {short(ast.unparse(call))}"
            elif label not in stated:
                yield f"a check decides `{label}`, which is the label of no statement"
            elif label not in cell.labels:
                yield f"the check of {label} must stand below it, in the same section"
            controls = next((word.value for word in call.keywords if word.arg == "refutes"), None)
            if controls is None or (isinstance(controls, ast.Dict) and not controls.keys):
                yield f"the check of {label} has no control: `refutes={{story: wrong variant}}`"
    for label in sorted(stated - decided):
        yield f"no check decides {label}"


def references(chapter):
    """Labels in the prose are references, and lead somewhere."""
    text = outside(chapter.body)
    known = {*chapter.equations, *re.findall(r"^:label: *([\w-]+)", text, re.M)}
    known |= {*re.findall(r"^\(([\w-]+)\)=$", text, re.M), *(cell.name for cell in chapter.cells)}
    for role, target in ROLE.findall(text):
        label = re.sub(r"^.*<(.*)>$", r"\1", target)
        if role in ("eq", "numref", "ref", "prf:ref") and label not in known:
            yield f"{{{role}}}`{target}` names a label that is not on this page"
    for label in re.findall(r"\b(?:eq|def|fig|ex)-[a-z0-9][\w-]*\b", chapter.prose):
        if label in known:
            yield f"the prose names {label} without a role: write {{eq}}`{label}` or the like"


# -- figures ----------------------------------------------------------------------------------


def pictures(chapter):
    """Every figure has alt text, a caption and a name; one is a slider."""
    kinds = set()
    for cell in chapter.cells:
        for name, call in cell.calls():
            if name not in ("figures.show", "figures.slider"):
                continue
            kinds.add(name)
            if "alt" not in {word.arg for word in call.keywords}:
                yield f"a figure has no alt text: {short(ast.unparse(call))}"
            if not cell.caption or not str(cell.name).startswith("fig-"):
                yield f"a figure has no caption and name (fig-…): {short(ast.unparse(call))}"
    if "figures.slider" not in kinds:
        yield "one figure of a chapter is a `figures.slider`"


# -- prose ------------------------------------------------------------------------------------


def numbers(chapter):
    """Numbers in prose, captions and inline decimals come from the run, or are allowed for a reason."""
    text = "\n".join(line for line in chapter.prose.splitlines() if not line.startswith("Source:"))
    captions = [ROLE.sub(" ", cell.caption) for cell in chapter.cells if cell.caption]
    text = "\n".join([text, *captions])
    decimals = "\n".join(re.findall(r"(?<!\$)\$[^$\n]*\d\.\d[^$\n]*\$", text))
    text = re.sub(r"\$[^$]*\$|^ *\d+\. |\(\d\) ", " ", text, flags=re.M) + "\n" + decimals
    for pattern, reason in chapter.fixed.items():
        if not re.search(pattern, text):
            yield f"the allowed number `{pattern}` ({reason}) is not in the prose any more"
        if len(reason.split()) < 3:
            yield f"the allowed number `{pattern}` needs a reason"
    text = re.sub("|".join([*chapter.fixed, r"(?!)"]), " ", text)
    for found in re.finditer(r".{0,20}(?<![\w.])\d[\d., \u00a0]*\d?%?.{0,20}", text):
        yield f"a number is typed into the prose (take it from the record): …{found[0].strip()}…"


def record(chapter):
    """Every name that the prose uses is in the record, and every name in the record is used."""
    names = [re.split("[:±]", name)[0].strip() for name in RECORD.findall(chapter.body)]
    own = {name for name in names if " " not in name} - {"runtime"}
    if chapter.recorded is None:
        yield "the names in the record are not written out, so only a run can tell them"
        return
    for name in sorted(own - chapter.recorded):
        yield f"{{record}}`{name}` is not in the record"
    for name in sorted(chapter.recorded - own - chapter.read):
        yield f"the record's `{name}` is used nowhere in the prose"


def markup(chapter):
    """No HTML, and no advice of the template left."""
    text = re.sub(r"`[^`]*`|\$[^$]*\$|<https?:[^>]*>", " ", MATH.sub(" ", outside(chapter.body)))
    for found in re.findall(r"<[a-zA-Z/!][^>]*>", text) + re.findall(r"\{raw\}", chapter.body):
        yield f"no raw HTML: {short(found)}"
    if not chapter.draft and (advice := re.search(r"^%.*$", chapter.body, re.M)):
        yield f"a comment is left: {short(advice[0])}"


# -- code -------------------------------------------------------------------------------------

# Names of calls that draw from, or seed, a generator that all code shares: always; unless one is
# given; unless they are given a seed.
SHARED = r"""torch\.((random|cuda|mps)\.)?(manual_seed|seed)(_all)?|torch\.random\.set_rng_state
|numpy\.random\.(?!default_rng|Generator|SeedSequence|PCG64|Philox|SFC64|MT19937)\w+|random\.(?!Random$)\w+"""
NEEDS_OWN = r"""torch\.(rand|randn|randint|randperm|normal|bernoulli|multinomial|poisson|rand\w*_like)
|torch\.nn\.init\.(?!zeros_|ones_|constant_|eye_|dirac_)\w+
|.*\.(normal_|uniform_|bernoulli_|random_|exponential_|cauchy_|geometric_|log_normal_|rvs)"""
NEEDS_SEED = r"numpy\.random\.(default_rng|SeedSequence|PCG64\w*|Philox|SFC64|MT19937)|random\.Random"
SHARED, NEEDS_OWN = (re.sub(r"\n", "", pattern) for pattern in (SHARED, NEEDS_OWN))


def draws(trees):
    """Yield the calls in code (as syntax trees) that use a generator which other code shares."""
    nodes, aliases = [node for tree in trees for node in ast.walk(tree)], {}
    for node in nodes:
        if isinstance(node, ast.Import):
            aliases |= {one.asname: one.name for one in node.names if one.asname}
            aliases |= {
                one.name.split(".")[0]: one.name.split(".")[0] for one in node.names if not one.asname
            }
        elif isinstance(node, ast.ImportFrom) and node.module:
            aliases |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    for call in (node for node in nodes if isinstance(node, ast.Call)):
        root, dot, rest = dotted(call.func).partition(".")
        # `random` is the module only where it was imported; `.normal_` is a method of anything.
        name = (aliases.get(root, "") or ("" if dot else "?")) + dot + rest
        own = {"generator", "random_state"} & {word.arg for word in call.keywords}
        if (
            re.fullmatch(SHARED, name)
            or (re.fullmatch(NEEDS_OWN, name) and not own)
            or (re.fullmatch(NEEDS_SEED, name) and not call.args and not call.keywords)
        ):
            yield call


def randomness(chapter):
    """No random number comes from a generator that other code shares."""
    for call in draws([cell.tree for cell in chapter.cells]):
        yield f"random numbers need a generator of their own: {short(ast.unparse(call))}"


def python(chapter):
    """Cells are plain Python: a magic would be hidden from every tool that reads code."""
    for cell in chapter.cells:
        try:
            ast.parse(cell.source)
        except SyntaxError as error:
            yield f"a line of code is not plain Python: {short(error.text or cell.source)}"


def assertions(chapter):
    """An `assert` is no check: it has no control and no verdict."""
    for cell in chapter.cells:
        if cell.section != SECTIONS[0] and not cell.solution:
            for node in ast.walk(cell.tree):
                if isinstance(node, ast.Assert):
                    yield f"use a check with a control in place of: {short(ast.unparse(node))}"


def width(chapter):
    """Code fits into the column."""
    for cell in chapter.cells:
        for line in cell.source.splitlines():
            if len(line) > WIDTH:
                yield f"a line of code has {len(line)} characters, more than {WIDTH}: {short(line)}"


# -- exercises --------------------------------------------------------------------------------


def exercises(chapter):
    """Each has a level and a solution, in order; some refute, one is for research, one is executed."""
    text = outside(chapter.body)
    found = EXERCISE.findall(text)
    names = [(re.findall(r":label: *([\w-]+)", options) or [""])[0] for _, options, _ in found]
    for (title, _, first), name in zip(found, names, strict=True):
        if title.strip():
            yield f"the exercise {name} has a title; begin its text with the level in bold instead"
        if not re.match(r"\*\*(Check|Extend|Research|Refute)\.\*\* \S", first):
            yield f"the exercise {name} begins with **Check.**, **Extend.**, **Research.** or **Refute.**"
    if len(found) != len(EXERCISE.findall(chapter.section("Exercises"))):
        yield "exercises stand in the section `Exercises`"
    if names != (solved := SOLUTION.findall(text)):
        yield f"each exercise has its solution, in order: {names} against {solved}"
    for kind in ("exercise", "solution"):
        starts, ends = (
            len(re.findall(rf"^:{{3,}}\{{{kind}-{end}\}}", text, re.M)) for end in ("start", "end")
        )
        if starts != ends:
            yield f"{starts} {kind}-start, {ends} {kind}-end"
    if not any(cell.solution for cell in chapter.cells):
        yield "at least one solution has a code cell, between solution-start and solution-end"
    if chapter.draft:
        return
    if len(found) < 8:
        yield f"at least eight exercises, not {len(found)}"
    for level, least in {"Refute": 2, "Research": 1}.items():
        if (count := sum(first.startswith(f"**{level}.**") for *_, first in found)) < least:
            yield f"at least {least} exercises begin with **{level}.**, not {count}"


RULES = (opening, sections, parameters, picture, scratch, claims, last_cell, labels, decisions, references)
RULES += (pictures, numbers, record, markup, python, randomness, assertions, width, exercises)


def faults(chapter):
    """Return all that is wrong, one sentence each."""
    return [f"{rule.__name__}: {fault}" for rule in RULES for fault in rule(chapter)]
