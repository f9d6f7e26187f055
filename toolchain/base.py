"""What every room of the toolchain uses: its error, its folders, the output of a program."""
import json
import os
import re
import subprocess
from pathlib import Path

from system.errors import UserError

NEEDS_HOME = ("set HOME (and XDG_CACHE_HOME, if you use it) to a folder you can write to; "
              "JITTOR_HOME alone does not do")


class ToolchainError(UserError):
    """Something Jittor needs is missing. The message is one or two lines that say what to do."""


def cache_folder() -> Path:
    """This project's folder in the user's cache. Raises ToolchainError where there is no home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or home() / ".cache") / "packnet-jittor"


def home() -> Path:
    """The user's home folder. Raises ToolchainError where there is none."""
    try:
        return Path.home()
    except RuntimeError as error:
        raise ToolchainError(f"there is no home folder: {NEEDS_HOME}") from error


def jittor_home() -> Path:
    """Where Jittor keeps its caches (jittor_utils.home)."""
    config = home() / ".cache" / "jittor" / "config.json"
    saved = json.loads(config.read_text()).get("JITTOR_HOME") if config.exists() else None
    return Path(os.environ.get("JITTOR_HOME") or saved or Path.home())


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToolchainError(
            f"cannot make the folder {folder}: {error.strerror}; {NEEDS_HOME}") from error


def compiler() -> str:
    """The C++ compiler that Jittor will call."""
    return os.environ.get("cc_path") or "g++"


def gcc_version() -> int:
    """The compiler's major version, as in 12; 0 where it is not GCC's g++, or does not say."""
    said = output([compiler(), "--version"])
    found = re.search(r"\b(\d+)\.\d+\.\d+", said) if "Free Software Foundation" in said else None
    return int(found[1]) if found else 0


def output(command: list[str]) -> str:
    """What a program prints; "" where there is no such program."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    except OSError:
        return ""
