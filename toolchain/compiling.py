"""Jittor's compilation, made shorter and visible: a precompiled header, one progress bar, and the
import itself."""
import contextlib
import glob
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

from system import INSTALL, processes
from system.files import write
from system.progress import Progress
from toolchain import mending
from toolchain.base import (
    NEEDS_HOME,
    ToolchainError,
    cache_folder,
    compiler,
    gcc_version,
    home,
    jittor_home,
    output,
)
from toolchain.cpu import cpu_name, flush_denormals

# What is parsed beforehand: Jittor's own var.h, and for kernels what most of them include.
STANDARD_HEADERS = (
    "algorithm",
    "cmath",
    "functional",
    "iostream",
    "map",
    "memory",
    "sstream",
    "string",
    "unordered_map",
    "vector",
)
KERNEL_HEADERS = (
    "fused_op.h",
    "executor.h",
    "mem/allocator.h",
    "misc/cpu_math.h",
    "ops/array_op.h",
    "ops/binary_op.h",
    "ops/broadcast_to_op.h",
    "ops/op_register.h",
    "ops/reduce_op.h",
    "ops/ternary_op.h",
    "ops/unary_op.h",
)


def precompiled_header() -> str:
    """Compiler flags that spare Jittor most of a kernel's compilation: parsing the same headers
    again (benchmarks/compile.py).

    g++ takes the parsed form only where compiler and flags are those it was made with, else it
    reads the header itself, which is slower and gives the same code. "" where it cannot be made.
    """
    version = output([compiler(), "--version"])
    # g++ crashes on one that was made with other flags.
    if not mending.is_known() or "Free Software Foundation" not in version:
        return ""
    source = Path(importlib.util.find_spec("jittor").origin).parent / "src"
    text = "".join(f"#include <{name}>\n" for name in STANDARD_HEADERS) + '#include "var.h"\n'
    of_kernels = "".join(f'#include "{name}"\n' for name in KERNEL_HEADERS)
    text += f"#ifdef JIT\n{of_kernels}#endif\n"
    if gcc_version() >= 15:
        text = mending.GCC_15 + text
    language = ["-std=c++14", "-fPIC", "-march=native"]
    # As Jittor and toolchain/mending.py have them; made with -g, it serves the kernels that are
    # compiled without, too.
    variants = {"kernels": [*language, "-fopenmp", "-Ofast", "-g", "-DJIT=1"],
                "core": [*language, "-O1"]}
    jittor = importlib.metadata.version("jittor")
    key = repr((version, cpu_name(), jittor, str(source), text, variants))
    folder = cache_folder() / f"headers-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    header = folder / "jittor.h"
    if not header.exists():
        partial = folder.with_name(f"{folder.name}.{os.getpid()}")
        try:
            (partial / "jittor.h.gch").mkdir(parents=True)
            (partial / "jittor.h").write_text(text)
            running = []
            for name, flags in variants.items():
                command = [
                    compiler(), *flags, f"-I{source}", f"-I{sysconfig.get_path('include')}",
                    "-x", "c++-header", partial / "jittor.h",
                    "-o", partial / "jittor.h.gch" / name]
                running.append(subprocess.Popen(
                    command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            if not any([process.wait() for process in running]):
                partial.rename(folder)
        except OSError:  # full disk, another process that was faster, an unknown compiler
            pass
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return f'-include "{header}"' if header.exists() else ""


class CompileBar:
    """Takes the place of Jittor's own progress line (jittor_utils.DelayProgress): same calls, one
    bar."""

    def __init__(self, message: str, total: int) -> None:
        if "jittor_core" in message:
            what = "Jittor's core"
        elif "jit_utils" in message:
            what = "Jittor's helper"
        elif "mkl" in message:
            what = "oneDNN operators"
        else:
            what = "operators"
        self.bar = Progress(None, f"Compiling {what}", total, unit="file")

    def update(self, index: int) -> None:
        self.bar.update()
        if self.bar.n == self.bar.total:
            self.bar.close()


def failure(error: BaseException) -> ToolchainError | None:
    """What is said of an error of Jittor's that a compiler caused, None of any other. All that the
    compiler said is in a file."""
    command, _, said = str(error).partition("Run cmd failed:")[2].strip().partition("\n")
    if not command:
        return None
    said = re.sub("\x1b\\[[0-9;]*[mK]", "", said)
    words = re.findall(r'[^\s"\']+', command)
    source = next((word for word in words if word.endswith((".cc", ".cpp", ".cu"))), command)
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["it said nothing"]
    mistakes = [line for line in lines if re.search("error|undefined reference", line, re.I)]
    file = cache_folder() / "compiler-output.txt"
    with contextlib.suppress(OSError):
        write(file, f"{command}\n{said}\n".encode())
    return ToolchainError(
        f"the compiler could not make {Path(source).name} of Jittor: {[*mistakes, *lines][0]}\n"
        f"All that it said: {file}. `python -m toolchain` says which compilers were tried; another "
        "is named in cc_path (`export cc_path=g++-12`).")


def excepthook(kind: type, error: BaseException, trace) -> None:
    """sys.excepthook: of a kernel that could not be compiled, two lines and code 2; else as
    ever."""
    if failed := failure(error):
        print(f"error: {failed}", file=sys.stderr)
        processes.leave(2)
    hook = processes.fail if processes.in_mpi() else sys.__excepthook__
    hook(kind, error, trace)


def import_jittor() -> ModuleType:
    """The import, once everything it needs is there. Raises ToolchainError."""
    flush_denormals()
    try:
        import jittor_utils
        jittor_utils.DelayProgress = CompileBar
        if not glob.glob("**/jittor_core*.so", root_dir=jittor_utils.cache_path, recursive=True):
            print("First start in this environment: Jittor compiles itself, once. "
                  "This takes one to two minutes on two cores.", file=sys.stderr, flush=True)
        import jittor
    except SystemExit as error:  # nothing was done yet, and that must not look like success
        raise ToolchainError(
            f"Jittor has ended the process as it was imported (exit code {error.code}): run the "
            f"command again; if that does not help, delete {jittor_home()}/.cache/jittor, where "
            "its compiled code is") from error
    except ModuleNotFoundError as error:
        raise ToolchainError(f"the package {error.name} is not installed: "
                             f"run `{INSTALL}`") from error
    except ImportError as error:
        if "GLIBCXX" not in str(error):
            raise
        raise ToolchainError(
            "the libstdc++ that this Python loads is older than the g++ that compiles for it "
            f"({error}). With conda: `conda install -c conda-forge libstdcxx-ng`; else name an "
            "older compiler in cc_path.") from error
    except OSError as error:
        raise ToolchainError(
            f"Jittor cannot start: {error}; its cache is in {jittor_home()}/.cache/jittor, its "
            f"settings in {home()}/.cache/jittor: {NEEDS_HOME}") from error
    except Exception as error:
        if failed := failure(error):
            raise failed from error
        raise
    return jittor
