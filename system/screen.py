"""A screen that is only a copy: a run writes all that it says into log.txt too, and goes on when
its terminal is gone."""
import contextlib
import sys
from collections.abc import Iterator

from system.errors import silence, silence_if_gone


class Copy:
    """A text stream that takes everything, and drops it once it cannot be written any more."""

    def __init__(self, stream) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except OSError:
            silence(self.stream)
            return len(text)

    def flush(self) -> None:
        silence_if_gone(self.stream)

    def __getattr__(self, name: str):
        return getattr(self.stream, name)


@contextlib.contextmanager
def screen_may_go() -> Iterator[None]:
    """Inside it, what cannot be written on stdout and stderr (the terminal was closed, `| head` has
    ended) ends nothing."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(Copy, before)
    try:
        yield
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        sys.stdout, sys.stderr = before
