"""The pages: both languages say the same, what they name exists, what they show is right."""

import re
from collections import Counter
from urllib.parse import unquote

import pytest
from conftest import ROOT, jt

from reporting.published import COLUMNS
from settings.experiments import EXPERIMENTS

PAGES = (
    "data",
    "experiments",
    "adding-tasks",
    "networks",
    "gpu",
    "faithfulness",
    "performance",
    "running",
    "jittor",
)
PAIRS = [
    ("README.md", "README.zh.md"),
    ("CONTRIBUTING.md", "CONTRIBUTING.zh.md"),
    *((f"docs/{name}.md", f"docs/zh/{name}.md") for name in PAGES),
]
ALL = [page for pair in PAIRS for page in pair]
ALL += ["data/README.md", "checkpoints/README.md"]


MONTHS = (
    "January February March April May June July August September October November December"
).split()


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf8")


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def headings(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^(#+) (.+)$", prose(text), re.MULTILINE)


def columns(text: str) -> list[int]:
    """How many cells each row of the tables has."""
    return [line.count("|") for line in text.splitlines() if line.startswith("|")]


def commands(text: str) -> list[str]:
    """The lines of the fenced blocks that name a language, without their comments."""
    lines = [
        re.sub(r"\s*#.*", "", line)
        for language, content in blocks(text)
        if language
        for line in content.splitlines()
    ]
    return [line for line in lines if line]


def inline(text: str) -> Counter:
    """What stands in backticks in the prose. A placeholder in angle brackets is translated."""
    return Counter(re.sub(r"<.*?>", "<>", code) for code in re.findall(r"`([^`\n]+)`", prose(text)))


def figures(text: str) -> Counter:
    """The numbers of the prose, tables and comments, as often as they stand there."""
    text = re.sub(r"\]\([^)]*\)|https?://\S+|`[^`\n]*`", " ", text)
    text = text.replace("1.34 亿", "134 M")
    for number, month in enumerate(MONTHS, start=1):  # a Chinese date has the number
        text = re.sub(rf"\b{month} (?=20\d\d\b)", f"{number} ", text)
    text = text.replace("十一月", "11 月")
    return Counter(re.findall(r"\d+(?:[.,]\d+)*", text))


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    heading = re.sub(r"[`*]|\[|\]\([^)]*\)", "", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", heading).replace(" ", "-")


def table(text: str, first: str) -> list[list[str]]:
    """The rows of the table whose heading line begins with `first`."""
    lines = text[text.index(f"\n| {first} |") + 1 :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_page_has_its_other_language():
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} == set(PAGES)
    assert {path.stem for path in (ROOT / "docs/zh").glob("*.md")} == set(PAGES)


@pytest.mark.parametrize("page", ["README.md", "README.zh.md"])
def test_the_readme_is_one_screen(page):
    assert len(read(page).splitlines()) <= 120


@pytest.mark.parametrize("english, chinese", PAIRS)
def test_both_languages_have_the_same_structure(english, chinese):
    ours, theirs = read(english), read(chinese)
    assert [level for level, _ in headings(ours)] == [level for level, _ in headings(theirs)]
    assert [kind for kind, _ in blocks(ours)] == [kind for kind, _ in blocks(theirs)]
    assert columns(ours) == columns(theirs)


@pytest.mark.parametrize("english, chinese", PAIRS)
def test_both_languages_have_the_same_commands(english, chinese):
    assert commands(read(english)) == commands(read(chinese))
    assert inline(read(english)) == inline(read(chinese))


@pytest.mark.parametrize("english, chinese", PAIRS)
def test_both_languages_have_the_same_figures(english, chinese):
    assert figures(read(english)) == figures(read(chinese))


@pytest.mark.parametrize("page", ALL)
def test_links_lead_somewhere(page):
    here = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(read(page))):
        if target.startswith(("https://", "http://")):
            continue
        name, _, place = unquote(target).partition("#")
        path = (here / name).resolve() if name else ROOT / page
        assert path.exists(), f"{page}: {target}"
        if place:
            text = path.read_text(encoding="utf8")
            assert place in [anchor(heading) for _, heading in headings(text)], f"{page}: {target}"


@pytest.mark.parametrize("page", ALL)
def test_files_that_are_named_exist(page):
    """Paths in backticks below the project's folders, and the scripts that commands call."""
    text = read(page)
    rooms = "|".join({path.parent.name for path in ROOT.glob("*/*.py")})
    named = re.findall(rf"`((?:{rooms})/[\w/]*\.\w+)`", text)
    if page.startswith("CONTRIBUTING"):
        named += re.findall(r"`(\w+\.py)`", text)
    named += re.findall(r"(?:^|`|&& )python ((?:benchmarks/)?\w+\.py)", text, re.MULTILINE)
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAIRS[1])
def test_the_map_shows_all_that_is_there(page):
    """Every folder of Python files."""
    folders = {f"{path.parent.name}/" for path in ROOT.glob("*/*.py") if path.parent.name[0] != "."}
    shown = re.findall(r"\]\(([^)]*)\)", read(page))
    assert folders <= {*shown}


@pytest.mark.parametrize("page", PAIRS[3])
def test_every_experiment_is_told_of(page):
    assert [name for name in EXPERIMENTS if f"`{name}`" not in read(page)] == []


@pytest.mark.parametrize("page, first", [("README.md", "data set"), ("README.zh.md", "数据集")])
def test_the_readmes_figures_are_the_published_ones(page, first):
    paper = COLUMNS["paper, VGG-16, ratio 0.50"].errors
    release = COLUMNS["authors' release, VGG-16"].errors
    rows = table(read(page), first)
    assert [row[1:3] for row in rows] == [
        [f"{paper[name]:.2f}", f"{release[name]:.2f}"] for name in paper
    ]


HEADS = """
from networks import MultiHead
model = MultiHead(trunk, num_features=128)
for task in classes:
    model.add_head(task, 3)
"""


@pytest.mark.parametrize("page", [page for pair in (PAIRS[0], PAIRS[5]) for page in pair])
def test_the_pages_python_runs(page):
    """Word for word, but for the number of epochs."""
    from jittor import nn

    python = [content for language, content in blocks(read(page)) if language == "python"]
    code = next(content for content in python if "PackNet(" in content)
    heads = next((content for content in python if "MultiHead(" in content), HEADS)
    jt.set_global_seed(0)
    tasks = ["one", "two"]
    made = dict(trunk=nn.Sequential(nn.Linear(4, 128), nn.ReLU()), classes=dict.fromkeys(tasks, 3))
    exec(heads, made)
    images, labels = jt.randn(8, 4), jt.array([0, 1, 2, 0, 1, 2, 0, 1])
    loaders = test_loaders = {task: [(images, labels)] for task in tasks}
    names = dict(model=made["model"], tasks=tasks, loaders=loaders, test_loaders=test_loaders)
    exec(re.sub(r"epochs=\d+", "epochs=1", code), names)
    assert list(names["packnet"].tasks) == tasks
