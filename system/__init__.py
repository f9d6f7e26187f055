"""What every room needs of the machine: files in one step, progress on a terminal or in a log,
processes. Needs no Jittor.

Every program of this project imports this package before any other that was installed: where
Python, the system or a package is not there it ends with one sentence, and exit code 2.
"""
import importlib.util
import os
import sys

OLDEST = (3, 10)
INSTALL = "pip install -r requirements.txt && "\
          "pip install --no-deps jittor==1.3.11.0"  # requirements.txt says why
PACKAGES = {  # {module: package}
    "numpy": "numpy",
    "PIL": "pillow",
    "tqdm": "tqdm",
    "matplotlib": "matplotlib",
    "scipy": "scipy",
    "safetensors": "safetensors",
}


def problem() -> str:
    """What is missing and how it is mended, in one sentence; "" where all is there."""
    if os.name == "nt":
        return ("this project runs on Linux x86-64, which Windows has as WSL: `wsl --install` in "
                "PowerShell, and then everything in the Linux that it opens")
    if sys.version_info < OLDEST:
        return (f"Python {sys.version.split()[0]} is too old: this project needs "
                f"{OLDEST[0]}.{OLDEST[1]} or newer")
    missing = [PACKAGES[module] for module in PACKAGES if not importlib.util.find_spec(module)]
    if not missing:
        return ""
    return (f"{', '.join(missing)}: not installed in this Python ({sys.executable}): run "
            f"`{INSTALL}` in it, or activate the environment in which you did")


if _problem := problem():
    print(f"error: {_problem}", file=sys.stderr)
    raise SystemExit(2)
