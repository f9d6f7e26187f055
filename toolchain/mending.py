"""What Jittor 1.3.11.0 needs changed for this year's Python and NumPy, as it is imported and compiled.

Nothing is written into the installed package, which several users may share; any other version of Jittor is left as it is.

* Python 3.13: exec no longer writes into a function's locals(), from which Jittor takes the modules it has compiled.
* NumPy 2: its array descriptor has another layout than the one that Jittor's header knows (numpy/ndarraytypes.h).
"""
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
from pathlib import Path

import numpy as np

from system.files import write
from toolchain.base import ToolchainError, cache_folder

JITTOR = "1.3.11.0"
# {module: (text that is there once, what takes its place)}
SOURCES = {"jittor.compiler": ("mod = locals()[gen_name]", "mod = os.sys.modules[gen_name]"),
           "jittor_utils": ("mod = locals()[hash]", "mod = sys.modules[hash]")}
NUMPY_1 = """    char flags;
    int type_num;
    int elsize;
    int alignment;
"""
NUMPY_2 = """    char former_flags;
    int type_num;
    unsigned long long flags;
    Py_ssize_t elsize;
    Py_ssize_t alignment;
"""


def replaced(text: str, old: str, new: str, what: str) -> str:
    if text.count(old) != 1:
        raise ToolchainError(f"{what} is not that of Jittor {JITTOR}: `pip install --force-reinstall --no-deps jittor=={JITTOR}`")
    return text.replace(old, new)


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles the mended source. Bytecode is neither read nor written: it would be that of the source as it is."""

    def get_code(self, fullname: str):
        source = replaced(self.get_source(fullname), *SOURCES[fullname], self.path)
        return compile(source, self.path, "exec", dont_inherit=True)


class _Finder:
    """First on sys.meta_path: finds the modules of SOURCES as ever, and has them loaded by _Loader."""

    @staticmethod
    def find_spec(fullname: str, path=None, target=None):
        if fullname not in SOURCES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec and spec.origin:
            spec.loader = _Loader(fullname, spec.origin)
        return spec


def is_known() -> bool:
    """Whether the Jittor that is installed is the version that this module mends."""
    try:
        return importlib.metadata.version("jittor") == JITTOR
    except importlib.metadata.PackageNotFoundError:
        return False


def mend_imports() -> None:
    """Put the finder in place, once."""
    if is_known() and _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)


def numpy_flags(version: str = np.__version__) -> str:
    """Compiler flags with which Jittor reads this NumPy's arrays: "" for NumPy 1; for 2 the folder of its header with the layout
    of NumPy 2. Raises ToolchainError and OSError."""
    package = importlib.util.find_spec("jittor")
    if version.startswith("1.") or not is_known() or not package:
        return ""
    original = Path(package.origin).parent / "src" / "pyjt" / "numpy.h"
    folder = cache_folder() / f"numpy2-jittor-{JITTOR}"
    header, text = folder / "pyjt" / "numpy.h", replaced(original.read_text(), NUMPY_1, NUMPY_2, str(original))
    if not header.exists() or header.read_text() != text:
        write(header, text.encode())
    return f'-I"{folder}"'
