"""The steps of a run, carried out from wherever they were stopped to the report at the end."""
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator

from methods.steps import Step
from reporting import plots
from reporting.summary import summary
from runs.run import Run
from settings.config import ConfigError
from system import processes
from system.files import STATE
from system.progress import say

SAVING_SHARE = 0.05  # of the time, at most, for the state that --resume goes on from


def carry_out(run: Run, take: Callable[[Run, Step], None]) -> None:
    """Let `take` carry out what is left of the run's steps, save the state between them, and end
    with report, results.json and no state."""
    if not processes.all_agree([run.position, len(run.steps)]):
        raise ConfigError(f"--output-dir {run.folder}: the processes of mpirun would go on from "
                          "different states in it. Every box must see the same folder (a shared "
                          "one, or a copy).")
    if run.position:
        say(f"Going on in {run.folder} after step {run.position} of {len(run.steps)}.")
    saved_at, saving_seconds = 0.0, 0.0
    with noticing_interrupts() as interrupted:
        while run.position < len(run.steps):
            take(run, run.steps[run.position])
            run.position += 1
            start = time.monotonic()
            # On a fast GPU an epoch can take less time than saving the state.
            if start - saved_at >= saving_seconds / SAVING_SHARE:
                run.save_state()
                saved_at = time.monotonic()
                saving_seconds = saved_at - start
            if interrupted.is_set():
                raise KeyboardInterrupt
        report(run)
        if interrupted.is_set():
            raise KeyboardInterrupt
    run.save_results(finished=True)
    if not processes.RANK:
        (run.folder / STATE).unlink(missing_ok=True)  # results and checkpoint are complete


def report(run: Run) -> None:
    """The end of the log, and the pictures."""
    if processes.RANK:
        return
    results = run.content()
    run.log("\n== Result ==")
    for line in summary(results):
        run.log(line)
    for path in plots.draw(results, run.folder / "plots"):
        run.log(f"Drawn: {path}")
    run.log(f"Done in {results['seconds']:.0f} s. `python evaluate.py --output-dir {run.folder}` "
            "checks every task again from the checkpoint.")


@contextlib.contextmanager
def noticing_interrupts() -> Iterator[threading.Event]:
    """Ctrl-C raises KeyboardInterrupt as ever, and sets the event: where C code had called Python,
    the exception itself can get lost."""
    seen = threading.Event()
    before = signal.getsignal(signal.SIGINT)

    def interrupt(*_) -> None:
        seen.set()
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    signal.signal(signal.SIGINT, interrupt if before is signal.default_int_handler else before)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)
