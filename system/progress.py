"""Progress: a bar on a terminal; in a cluster's log, or any other file, now and then a line."""
import io
import sys
import threading
import time
from collections.abc import Iterable

from tqdm import tqdm

from system import processes

SIGN_OF_LIFE = 60.0  # seconds between two lines where there is no terminal

# tqdm's own lock is one for several processes, too, and from Python 3.14 on a program that ends
# with such a lock in its hands is told of a leak.
tqdm.set_lock(threading.RLock())


class Progress(tqdm):
    """tqdm, gone once it is done. Without a terminal nothing is redrawn: a line on stderr every
    SIGN_OF_LIFE seconds. Under mpirun only the first process shows it."""

    def __init__(self, iterable: Iterable | None = None, desc: str | None = None,
                 total: float | None = None, **options) -> None:
        self.terminal = sys.stderr.isatty()
        if self.terminal:
            rhythm = dict(delay=1)
        else:
            rhythm = dict(delay=SIGN_OF_LIFE, mininterval=SIGN_OF_LIFE, maxinterval=SIGN_OF_LIFE,
                          file=io.StringIO())  # which takes tqdm's carriage returns
        super().__init__(iterable, desc, total, leave=False, disable=processes.RANK > 0,
                         **rhythm | options)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        if self.terminal:
            return super().display(msg, pos)
        if msg != "" and time.time() >= self.start_t + self.delay:  # "" would clear the bar
            print(msg or str(self), file=sys.stderr, flush=True)
        return True


def say(line: str) -> None:
    """A line on stdout, past any bar that is shown."""
    if sys.stdout.isatty():
        tqdm.write(line)
    else:
        print(line, flush=True)
