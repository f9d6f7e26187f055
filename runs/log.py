"""Lines for a person: on the terminal and in log.txt."""
import fcntl
import os
import sys
from pathlib import Path

from settings.config import ConfigError
from system import processes
from system.progress import say


class Log:
    """Holds the run's folder: while it is open, a second process that opens it gets a ConfigError.
    Under mpirun the first process writes for all."""

    def __init__(self, path: Path, length: int = 0) -> None:
        """Goes on after the first `length` bytes; what a killed process wrote after them is written
        again."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = None
        if processes.RANK:
            return
        self.file = open(path, "ab")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"--output-dir {path.parent}: another process is running there. "
                              "Wait for it, or choose another folder.") from error
        except OSError as error:
            print(f"warning: {path.parent}: this file system knows no locks ({error.strerror}): "
                  "make sure that no other process runs in this folder.", file=sys.stderr)
        self.file.truncate(min(length, self.length))  # it may have been moved away since

    def __call__(self, line: str = "") -> None:
        if not self.file:
            return
        say(line)
        self.file.write(f"{line}\n".encode(errors="backslashreplace"))  # a path may be no UTF-8
        self.file.flush()

    @property
    def length(self) -> int:
        return os.fstat(self.file.fileno()).st_size
