"""matplotlib's settings for our pictures, with a font that has the characters of the names in
them."""
import contextlib
import sys
import warnings
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no screen needed
from matplotlib import font_manager
from matplotlib import pyplot as plt

STYLE = {"figure.dpi": 150, "savefig.bbox": "tight", "font.size": 10, "axes.spines.top": False,
         "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "legend.frameon": False}
# Of several fonts that have all characters, one whose file is named so is taken.
PREFERRED = ("notosanscjk", "sourcehansans", "wqy", "simhei", "msyh", "pingfang", "noto")


@contextlib.contextmanager
def style(names: Iterable[str]) -> Iterator[None]:
    """Inside it pictures are drawn in our style. `names`: of tasks, which may be Chinese."""
    usual = font_manager.findfont(font_manager.FontProperties(family=["sans-serif"]))
    lacking = "".join(sorted(set("".join(names)) - characters(usual)))
    family = fallback(lacking) if lacking else None
    look = STYLE | {"font.family": ["sans-serif", family]} if family else STYLE
    with plt.rc_context(look), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def characters(path: str) -> set[str]:
    """All that a font can show."""
    return set(map(chr, font_manager.get_font(path).get_charmap()))


@cache
def fallback(lacking: str) -> str | None:
    """The name of a font of this system that has all these characters. Where there is none, that is
    said, once."""
    for path in sorted(font_manager.findSystemFonts(), key=rank):
        try:
            if set(lacking) <= characters(path):
                # matplotlib's own list of fonts may be from before this one was installed
                font_manager.fontManager.addfont(path)
                return font_manager.FontProperties(fname=path).get_name()
        except (OSError, RuntimeError, ValueError):  # a file that FreeType does not read
            continue
    print(f"warning: no font of this system has {lacking}: boxes stand for them in the pictures. "
          "`sudo apt install fonts-noto-cjk` (Debian, Ubuntu) brings one.", file=sys.stderr)
    return None


def rank(path: str) -> tuple:
    """Known fonts for screens first, and of a family the regular one."""
    name = Path(path).stem.lower().replace("-", "").replace("_", "")
    known = [number for number, start in enumerate(PREFERRED) if name.startswith(start)]
    return (known[0] if known else len(PREFERRED), "regular" not in name, "mono" in name, path)
