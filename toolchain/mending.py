"""What Jittor 1.3.11.0 needs changed for this year's Python and NumPy, as it is imported and compiled.

Nothing is written into the installed package, which several users may share; any other version of Jittor is left as it is.

* Python 3.13: exec no longer writes into a function's locals(), from which Jittor takes the modules it has compiled.
* NumPy 2: its array descriptor has another layout than the one that Jittor's header knows (numpy/ndarraytypes.h).
* Kernels that are compiled while a run goes on report themselves on stderr in lines of their own, in a log too: now on a
  terminal only, in one line that is gone afterwards.
"""
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path

import numpy as np

from system.files import write
from toolchain.base import ToolchainError, cache_folder

JITTOR = "1.3.11.0"
# {module: [(text that is there once, what takes its place), ...]}
SOURCES = {"jittor.compiler": [("mod = locals()[gen_name]", "mod = os.sys.modules[gen_name]"),
                               ("files = registers + files2 + files4\n",
                                "files = registers + files2 + [os.environ['packnet_compiler'] if file == 'src/parallel_compiler.cc' "
                                "else file for file in files4]\n")],
           "jittor_utils": [("mod = locals()[hash]", "mod = sys.modules[hash]")]}
COMPILER = [("#include <atomic>\n", "#include <atomic>\n#include <unistd.h>\n"),
            ("if (diff > 2e9) {", "if (diff > 2e9 && isatty(2)) {"),
            ("""                std::cerr << "\\n";\n""", ""),
            ("""<< "Compiling Operators(" << i << '/' << n << ")"\n""", """<< "\\r\\033[KCompiling kernels: " << i << '/' << n\n"""),
            ("        std::cerr << std::endl;\n", '        std::cerr << "\\r\\033[K" << std::flush;\n')]
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


def replaced(text: str, replacements: list[tuple[str, str]], what: str) -> str:
    """`text` with all replacements made. Raises ToolchainError unless each is there once; `what`: the file, for the message."""
    for old, new in replacements:
        if text.count(old) != 1:
            raise ToolchainError(f"{what} is not that of Jittor {JITTOR}: `pip install --force-reinstall --no-deps jittor=={JITTOR}`")
        text = text.replace(old, new)
    return text


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles the mended source. Bytecode is neither read nor written: it would be that of the source as it is."""

    def get_code(self, fullname: str):
        source = replaced(self.get_source(fullname), SOURCES[fullname], self.path)
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
    """Put the finder in place, once, and the source file that jittor.compiler is to compile. Raises ToolchainError and OSError."""
    if is_known() and _Finder not in sys.meta_path:
        os.environ["packnet_compiler"] = str(_mended("parallel_compiler.cc", COMPILER) / "parallel_compiler.cc")
        sys.meta_path.insert(0, _Finder)


def _mended(name: str, replacements: list[tuple[str, str]]) -> Path:
    """A folder of our cache with a mended copy of the file `name` of Jittor's src/."""
    original = Path(importlib.util.find_spec("jittor").origin).parent / "src" / name
    folder = cache_folder() / f"jittor-{JITTOR}"
    text = replaced(original.read_text(), replacements, str(original))
    if not (folder / name).exists() or (folder / name).read_text() != text:
        write(folder / name, text.encode())
    return folder


def numpy_flags(version: str = np.__version__) -> str:
    """Compiler flags with which Jittor reads this NumPy's arrays: "" for NumPy 1; for 2 the folder of its header with the layout
    of NumPy 2. Raises ToolchainError and OSError."""
    if version.startswith("1.") or not is_known():
        return ""
    return f'-I"{_mended("pyjt/numpy.h", [(NUMPY_1, NUMPY_2)])}"'
