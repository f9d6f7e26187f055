#!/usr/bin/env bash
# safetensors 0.8.0: an array of the name "__metadata__" is saved, and the file cannot be read.
#
# The header has that key for itself. One expects save_file to refuse the name; it writes the file
# without a word, and every reader refuses the whole of it, the other arrays too.
source "$(dirname "$0")/common"
install safetensors==0.8.0 numpy==2.4.6
python - <<'END'
import os
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

save_file({"__metadata__": np.ones(2), "weight": np.ones(3)}, "x.safetensors")
size = os.path.getsize("x.safetensors")
try:
    load_file("x.safetensors")
    seen = "loaded"
except Exception as error:
    seen = type(error).__name__
    print("seen:", size, "bytes saved; loading:", error)
sys.exit(seen != "SafetensorError")
END
