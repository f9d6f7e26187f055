"""The files of a run by name, and writing so that a crash, a full disk or a second process never
leaves half of one."""
import contextlib
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

# In the output directory of a run:
CHECKPOINT = "packnet.safetensors"
STATE = "state.safetensors"
RESULTS = "results.json"
LOG = "log.txt"

MARK = ".packnet-tmp-"  # in the name of a temporary file


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` to write to; on leaving, the file takes the place of
    `path` in one step.

    After an exception `path` is as it was and the temporary file is gone.
    """
    temporary = temporary_beside(path)
    try:
        yield temporary
        if temporary.is_file() and not temporary.is_symlink():
            with open(temporary, "rb") as f:
                os.fsync(f.fileno())  # the data before the name
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_beside(path: str | Path) -> Path:
    """A name beside `path` for a file or folder in the making, of this thread alone. Makes missing
    folders.

    What processes that were killed left behind under such names of `path` is removed: what bears
    our mark and the name of this machine, and whose process is gone. That of other machines on a
    shared folder, and of other programs, stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    start = f".{path.name}{MARK}{_here()}."
    for left in path.parent.iterdir():
        process = left.name.removeprefix(start).partition(".")[0]
        if not left.name.startswith(start) or not process.isdigit():
            continue
        if os.path.exists(f"/proc/{process}"):
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
    return path.with_name(f"{start}{os.getpid()}.{threading.get_ident()}")


def _here() -> str:
    """Where a process id means a process: this boot of this machine, and in it this namespace (a
    container has its own)."""
    boot_id = Path("/proc/sys/kernel/random/boot_id")
    boot = boot_id.read_text() if os.path.exists(boot_id) else ""
    space = os.readlink("/proc/self/ns/pid") if os.path.exists("/proc/self/ns/pid") else ""
    return hashlib.sha256(f"{os.uname().nodename} {boot} {space}".encode()).hexdigest()[:12]


def write(path: str | Path, data: bytes) -> None:
    """Replace the content of `path` in one step."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)
