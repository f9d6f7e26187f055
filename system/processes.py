"""Several processes: those that mpirun has started to work as one, and strangers on the same
cores."""
import hashlib
import json
import os
import signal
import sys
import time

import numpy as np

from system.errors import SCREEN_GONE, silence

# This process's number among those of mpirun, and among those of them on this machine; how many
# there are on this machine.
RANK = int(os.environ.get("OMPI_COMM_WORLD_RANK", 0))
LOCAL_RANK = int(os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", 0))
LOCAL_SIZE = int(os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", 1))


def in_mpi() -> bool:
    """Whether mpirun started this process."""
    return "OMPI_COMM_WORLD_SIZE" in os.environ


def share_cores() -> None:
    """Share this machine's cores with whoever else computes on them. To be called before libgomp is
    loaded.

    OpenMP's threads sleep after some microseconds of waiting for work. By default they spin for
    milliseconds, so that two runs on the same cores keep them from each other: a step takes each of
    them three times as long and more, with this less than twice (benchmarks/sharing.py). The
    processes of one mpirun get equal shares: by default OpenMPI binds each to a core or two,
    whatever the machine has, and unbound ones would start a thread for every core each. What the
    user has set stays.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "2000"
    if in_mpi():
        if "OMPI_MCA_hwloc_base_binding_policy" not in os.environ:  # set by --bind-to
            os.sched_setaffinity(0, mpirun_cores())
        together = LOCAL_SIZE if cores() == len(mpirun_cores()) else 1
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // together)))


def cores() -> int:
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def mpirun_cores() -> set[int]:
    """The cores of the process that started this one: mpirun, or its daemon on another machine,
    which bind only others."""
    return os.sched_getaffinity(os.getppid())


def wait_for_all() -> None:
    """Return once every process of mpirun has called this. Jittor must have been started."""
    import jittor
    if jittor.in_mpi:
        # item: on a GPU the sum is only under way before it
        jittor.zeros(1).mpi_all_reduce("add").item()


def all_agree(value) -> bool:
    """Whether every process of mpirun has called this with the same plain value. Jittor must have
    been started."""
    import jittor
    if not jittor.in_mpi:
        return True
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
    # Each process fills its own row, and the sum has all of them.
    rows = np.zeros((jittor.world_size, 32), np.float32)
    rows[jittor.rank] = np.frombuffer(digest, np.uint8)
    rows = jittor.array(rows).mpi_all_reduce("add").numpy()
    return bool((rows == rows[0]).all())


def leave(code: int) -> None:
    """End the program at once, with all that was printed and no process of ours left behind.

    Nothing is tidied up in memory: what was interrupted in the middle of a computation can crash
    there, or wait for ever for a thread, which would hide the code; and one of mpirun's processes
    that fails must not wait for the others. Only one that ends well has to take its leave from MPI.
    What could not be printed, on a full disk say, makes of code 0 a 1; that a terminal is gone does
    not.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            silence(stream)
            code = code or int(error.errno not in SCREEN_GONE)
    if in_mpi() and not code:
        sys.exit(0)
    if "multiprocessing" in sys.modules:
        stop_children()
    os._exit(code)


def stop_children() -> None:
    """End the processes that multiprocessing has started: those that compiled Jittor wait for more.
    """
    import multiprocessing
    from multiprocessing.pool import Pool

    # Jittor's own ends a process whose child is killed, with a line and another code.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # A pool's thread would put a new process in the place of each; one that is being made just now
    # is there the second time.
    Pool._repopulate_pool_static = staticmethod(lambda *_: None)
    for _ in range(2):
        for child in multiprocessing.active_children():
            child.kill()
        time.sleep(0.01)


def fail(*error) -> None:
    """sys.excepthook under mpirun: the traceback, then `leave`."""
    sys.__excepthook__(*error)
    leave(1)
