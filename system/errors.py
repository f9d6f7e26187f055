"""What a user can mend, as an exception; and the one way in which a program of ours ends."""
import argparse
import errno
import functools
import os
import sys
from collections.abc import Callable, Sequence

SCREEN_GONE = (errno.EPIPE, errno.EIO)  # `| head` has read enough; the terminal was closed


class UserError(Exception):
    """Something that the user can mend. The message is one or two lines that say what is wrong,
    where, and what to do.

    `code`: the exit code of a program that it ends.
    """
    code = 2


class TrainingError(UserError):
    """Training cannot go on. The message names task, phase and epoch."""
    code = 1


class CommandLine(argparse.ArgumentParser):
    """What a program's arguments may be. What is wrong with them is one message as well, without
    the list of all that there are. Raises UserError."""

    def __init__(self, description: str, prog: str | None = None) -> None:
        super().__init__(prog, description=description, allow_abbrev=False)

    def parse_args(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """An empty word is none that anybody means: so a shell writes a variable that is not
        set."""
        words = sys.argv[1:] if arguments is None else arguments
        for before, word in zip(("", *words), words):
            if not word or word.startswith("--") and word.endswith("="):
                self.error(f"{word or before}: nothing stands behind it, or a shell variable that "
                           "is not set")
        return super().parse_args(words)

    def error(self, message: str) -> None:
        raise UserError(f"{message}. `--help` lists what there is.")


def complain(error: Exception | str) -> int:
    """Say what is wrong with the input; the exit code for it."""
    print(f"error: {error}", file=sys.stderr)
    return UserError.code


def run_cli(main: Callable[..., int]) -> Callable[..., int]:
    """`main`, a program that takes its arguments and returns its exit code, with one way out for
    whatever ends it early: a UserError is one message and its code; so is a file that cannot be
    read or written (2), and Ctrl-C (130). A bug of ours keeps its traceback. Where nobody reads the
    output any more, the program ends in silence, as if by the signal SIGPIPE (141)."""
    @functools.wraps(main)
    def program(arguments: list[str] | None = None) -> int:
        prepare_streams()
        try:
            code = main(arguments)
            sys.stdout.flush()
            return code
        except UserError as error:
            complain(error)
            return error.code
        except OSError as error:
            silence_if_gone(sys.stdout)
            if not error.filename and error.errno in SCREEN_GONE:
                return 141
            return complain(reason(error))
        except KeyboardInterrupt:
            print("\nInterrupted.", file=sys.stderr)
            return 130
    return program


def reason(error: OSError, place: str | None = None) -> str:
    """The file, or else the `place`, and what is wrong there; of an error of ours, its message."""
    if not error.strerror:
        return str(error)
    place = error.filename or place
    return f"{place}: {error.strerror}" if place else error.strerror


def prepare_streams() -> None:
    """What a terminal or a log cannot show (Chinese names where it knows ASCII only) is shown as
    \\u82b1; streams that were closed (`>&-`) take everything and keep nothing."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf8"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def silence_if_gone(stream) -> None:
    """Where a stream cannot be written any more, what it still holds must not fail once more at the
    program's end."""
    try:
        stream.flush()
    except OSError:
        silence(stream)


def silence(stream) -> None:
    """Let what is written to this stream from now on vanish, with what it still holds."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):  # no file is behind it
        pass
