"""The files of a run by name, and writing so that a crash, a full disk or a second process never leaves half of one."""
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

# In the output directory of a run:
CHECKPOINT = "packnet.safetensors"
STATE = "state.safetensors"
RESULTS = "results.json"
LOG = "log.txt"


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` to write to; on leaving, the file takes the place of `path` in one step.

    After an exception `path` is as it was and the temporary file is gone. Makes missing folders. Temporary files
    left behind by processes that were killed are removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    for name in os.listdir(path.parent):
        if name.startswith(f".{path.name}.") and not os.path.exists(f"/proc/{name.rpartition('.')[2]}"):
            (path.parent / name).unlink(missing_ok=True)
    try:
        yield temporary
        if temporary.is_file() and not temporary.is_symlink():
            with open(temporary, "rb") as f:
                os.fsync(f.fileno())  # the data before the name
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write(path: str | Path, data: bytes) -> None:
    """Replace the content of `path` in one step."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)
