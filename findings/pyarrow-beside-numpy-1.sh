#!/usr/bin/env bash
# pyarrow 26.0.1: pip installs it beside NumPy 1.26 without a word, and its import fails.
#
# Jittor asks for NumPy below 2; data sets from the Hub come as Parquet. One expects that pyarrow
# works with NumPy 1, or that pip takes an older one or refuses. Its metadata name no NumPy at all
# (it is optional); the import raises ImportError as soon as it finds one below 2.
source "$(dirname "$0")/common"
install pyarrow==26.0.1 "numpy<2"
python - <<'END'
import subprocess
import sys
from importlib.metadata import requires

needed = [name for name in requires("pyarrow") or () if "numpy" in name and "extra" not in name]
conflicts = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
try:
    import pyarrow
    seen = f"pyarrow {pyarrow.__version__} works"
except ImportError as error:
    seen = type(error).__name__
    print("seen:", error)
print("seen: pip check:", conflicts.stdout.strip(), " NumPy in its requirements:", needed)
sys.exit([seen, conflicts.returncode, needed] != ["ImportError", 0, []])
END
