"""The files of a run by name, and writing so that a crash, a full disk or a second process never leaves half of one."""
import contextlib
import hashlib
import os
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
    """Yields a temporary path beside `path` to write to; on leaving, the file takes the place of `path` in one step.

    After an exception `path` is as it was and the temporary file is gone. Makes missing folders. Temporary files of `path` that
    were left behind by processes that were killed are removed: those that bear our mark and the name of this machine, and whose
    process is gone. Those of other machines on a shared folder, and files of other programs, are not ours to judge.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    start = f".{path.name}{MARK}{_here()}."
    for name in os.listdir(path.parent):
        process = name.removeprefix(start).partition(".")[0]
        if name.startswith(start) and process.isdigit() and not os.path.exists(f"/proc/{process}"):
            (path.parent / name).unlink(missing_ok=True)
    temporary = path.with_name(f"{start}{os.getpid()}.{threading.get_ident()}")
    try:
        yield temporary
        if temporary.is_file() and not temporary.is_symlink():
            with open(temporary, "rb") as f:
                os.fsync(f.fileno())  # the data before the name
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _here() -> str:
    """Where a process id means a process: this boot of this machine, and in it this namespace (a container has its own)."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text() if os.path.exists("/proc/sys/kernel/random/boot_id") else ""
    space = os.readlink("/proc/self/ns/pid") if os.path.exists("/proc/self/ns/pid") else ""
    return hashlib.sha256(f"{os.uname().nodename} {boot} {space}".encode()).hexdigest()[:12]


def write(path: str | Path, data: bytes) -> None:
    """Replace the content of `path` in one step."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)
