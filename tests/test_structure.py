"""How the project is built: imports that run one way, Jittor started only where it is needed."""

import ast
import subprocess
import sys
from functools import cache

import pytest
from conftest import ROOT

PACKAGES = (
    "images",
    "kernels",
    "methods",
    "packing",
    "reporting",
    "runs",
    "settings",
    "storage",
    "system",
    "toolchain",
    "trunks",
)
FILES = sorted(
    [*ROOT.glob("*.py"), *(path for package in PACKAGES for path in (ROOT / package).glob("*.py"))]
)
assert len(FILES) > 30


def module(path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room(name: str) -> str:
    """A package is one room; of the root, each module is."""
    return name.partition(".")[0]


def running(tree: ast.Module) -> ast.Module:
    """Without what stands under `if TYPE_CHECKING`: names for a reader, which no run imports."""
    tree.body = [
        node
        for node in tree.body
        if not (
            isinstance(node, ast.If)
            and isinstance(node.test, ast.Name)
            and node.test.id == "TYPE_CHECKING"
        )
    ]
    return tree


@cache
def imports() -> dict[str, set[str]]:
    """{module: our own modules that it imports, anywhere in it}"""
    names = {module(path) for path in FILES}
    found = {}
    for path in FILES:
        found[module(path)] = set()
        for node in ast.walk(running(ast.parse(path.read_text()))):
            targets = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            found[module(path)] |= {target for target in targets if target in names} - {
                module(path)
            }
    return found


def circle(arrows: dict[str, set[str]]) -> list[str]:
    done, way = set(), []

    def visit(name: str) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        way.append(name)
        for target in sorted(arrows.get(name, ())):
            if target != name and (found := visit(target)):
                return found
        done.add(way.pop())
        return []

    return next((found for name in sorted(arrows) if (found := visit(name))), [])


def test_the_search_for_circles_finds_one():
    assert (
        circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
        and circle({"a": {"b", "c"}, "b": {"c"}}) == []
    )


def test_no_room_imports_one_that_imports_it():
    rooms: dict[str, set[str]] = {}
    for name, targets in imports().items():
        rooms.setdefault(room(name), set()).update(map(room, targets))
    assert circle(rooms) == []
    # a package's face stands above its rooms
    inside = {name: targets - {"toolchain"} for name, targets in imports().items()}
    assert circle(inside) == []


def test_no_two_modules_are_imported_by_the_same_name():
    """The root, tests and benchmarks are on the path at once: which of two is imported would follow
    from the order of the tests, or from where a program is started."""
    places = {}
    for folder in (ROOT, ROOT / "tests", ROOT / "benchmarks"):
        modules = {path.stem for path in folder.glob("*.py")}
        packages = {path.parent.name for path in folder.glob("*/__init__.py")}
        for name in modules | packages:
            places.setdefault(name, []).append(folder.name)
    assert len(places) > 60
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
    assert places.keys() & sys.stdlib_module_names == set()


def test_no_module_global_is_written_after_import():
    """But for the device, which toolchain.start decides."""
    writers = {
        module(path)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Global)
    }
    assert writers == {"toolchain"}
    assignments = {
        f"{module(path)}: {ast.unparse(target)}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assign | ast.AugAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Attribute)
        and isinstance(target.value, ast.Name)
        and target.value.id in imports()
    }
    assert assignments == set()


def test_every_program_ends_by_leave():
    """Nothing that is tidied up at the end can hang it, or hide its code."""
    programs = []
    for path in [*FILES, *(ROOT / "benchmarks").glob("*.py")]:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test):
                programs.append(path.name)
                assert (
                    ast.unparse(node.body[-1]).startswith("processes.leave(")
                    or path.name == "crops.py"
                ), path
    assert {
        "main.py",
        "evaluate.py",
        "report.py",
        "prepare_data.py",
        "test_basic.py",
        "step.py",
    } <= set(programs)
    assert (ROOT / "toolchain/__main__.py").read_text().endswith("\nprocesses.leave(main())\n")


LIGHT = [
    "main",
    "evaluate",
    "report",
    "prepare_data",
    "test_basic",
    "images.drawings",
    "images.cache",
    "settings.experiments",
    "storage.packed",
    "storage.state",
    "storage.seals",
    "storage.pretrained",
    "storage.release",
    "reporting.page",
    "reporting.overview",
    "reporting.plots",
    "reporting.table",
    "settings.effort",
    "settings.plan",
    "methods",
    "runs.addition",
    "runs.folder",
    "packing.which_task",
    "packing.portrait",
    "toolchain.doctor",
]


@pytest.mark.parametrize("name", LIGHT)
def test_what_needs_no_jittor_does_not_start_it(name):
    code = f"import sys, {name}; sys.exit('jittor' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    "arguments", [[], ["--predict", "x.jpg", "--task", "a"], ["--export", "a", "x.pth"]]
)
def test_evaluate_looks_at_the_file_before_it_starts_jittor(tmp_path, arguments):
    (tmp_path / "packnet.safetensors").write_bytes(b"broken")
    code = (
        "import sys, evaluate; code = evaluate.main(sys.argv[1:]); sys.exit(code if 'jittor' "
        "not in sys.modules else 'Jittor')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--output-dir", tmp_path, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "packnet.safetensors: not a readable checkpoint" in done.stderr
