"""Names in pictures that the usual font cannot show: another font of the system shows them, or
boxes stand for them and that is said."""

import warnings
from pathlib import Path

import matplotlib
import pytest
from matplotlib import font_manager
from matplotlib import pyplot as plt

from reporting import fonts

HERE = Path(matplotlib.get_data_path()) / "fonts/ttf"
NAME = "花卉"


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    fonts.fallback.cache_clear()
    monkeypatch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))


def drawn(name: str, path: Path) -> bytes:
    """A picture with the name in it. Raises whatever is warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fonts.style([name]):
            figure, axes = plt.subplots()
            axes.set_title(name, fontweight="bold")
            figure.savefig(path)
            plt.close(figure)
    return path.read_bytes()


def test_a_font_of_the_system_takes_over_what_the_usual_one_lacks(tmp_path, monkeypatch, capsys):
    """One of matplotlib's own stands for it, with characters that are in its bold face too."""
    files = ("DejaVuSans", "DejaVuSans-Bold", "STIXGeneral", "STIXGeneralBol")
    usual, usual_bold, regular, bold = (
        fonts.characters(str(HERE / f"{name}.ttf")) for name in files
    )
    name = "".join(sorted((regular & bold) - usual - usual_bold))[-3:]
    assert len(name) == 3
    broken = tmp_path / "wqy-broken.ttf"
    broken.write_bytes(b"no font")
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
    boxes = drawn(name, tmp_path / "boxes.png")
    fonts.fallback.cache_clear()
    capsys.readouterr()
    monkeypatch.setattr(
        font_manager, "findSystemFonts", lambda: [str(broken), str(HERE / "STIXGeneral.ttf")]
    )
    assert drawn(name, tmp_path / "shown.png") != boxes
    assert capsys.readouterr().err == ""


def test_where_no_font_has_them_it_is_said_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(HERE / "DejaVuSans.ttf")])
    for number in range(2):
        drawn(NAME, tmp_path / f"{number}.png")
    error = capsys.readouterr().err
    assert error.count("\n") == error.count("no font of this system has 卉花") == 1


def test_names_that_the_usual_font_has_look_for_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: pytest.fail("looked"))
    with plt.rc_context():
        drawn("my_birds, Vögel, цветы", tmp_path / "x.png")


def test_the_regular_font_of_a_known_family_is_preferred():
    paths = [
        "/a/Aaa.ttf",
        "/a/NotoSansCJK-Bold.ttc",
        "/a/NotoSansCJK-Regular.ttc",
        "/b/wqy-zenhei.ttc",
    ]
    assert sorted(paths, key=fonts.rank) == [paths[2], paths[1], paths[3], paths[0]]
