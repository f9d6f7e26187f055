"""Jittor's backends for other accelerators: off unless they are asked for.

Jittor switches one on wherever its compiler is on the PATH, and where that compiler does not do
each start takes seconds more and prints a linker's errors. None was tried with this project.
"""
import os
import shutil
from typing import NamedTuple


class Backend(NamedTuple):
    name: str
    compiler: str  # what Jittor looks for
    variable: str  # the environment variable that names it: "" switches the backend off

    def found(self) -> str:
        """What the doctor says of it."""
        if path := os.environ.get(self.variable):
            return f"asked for by {self.variable}={path} (not tried with this project)"
        if path := shutil.which(self.compiler):
            return (f"{path} is not used: `export {self.variable}={path}` asks for it "
                    "(not tried with this project)")
        return "none"


BACKENDS = (Backend("ROCm, DCU", "hipcc", "hipcc_path"), Backend("Ascend", "ccec", "tikcc_path"))
