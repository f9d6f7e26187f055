#!/usr/bin/env bash
# safetensors 0.8.0: a slice of a file is no slice of an array.
#
# `safe_open(...).get_slice(name)` takes [a:b] like NumPy. One expects that an end beyond the array
# is cut there, and that negative numbers count from the end, or are refused. A negative index
# counts so, a negative bound raises OverflowError; an end beyond raises SafetensorError; an empty
# slice whose end is before its start raises SystemError (bytearray of negative size); True is 1.
source "$(dirname "$0")/common"
install safetensors==0.8.0 numpy==2.4.6
python - <<'END'
import sys

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

array = np.arange(6.0)
save_file({"x": array}, "x.safetensors")
stored = safe_open("x.safetensors", "np").get_slice("x")


def taken(index):
    try:
        return np.asarray(stored[index]).tolist()
    except Exception as error:
        return type(error).__name__


places = {"[-1]": -1, "[-2:]": slice(-2, None), "[2:100]": slice(2, 100), "[4:2]": slice(4, 2),
          "[True]": True}
seen = {name: taken(place) for name, place in places.items()}
for name, place in places.items():
    print("seen:", name, seen[name], " NumPy:", array[place].tolist())
sys.exit(seen != {"[-1]": 5.0, "[-2:]": "OverflowError", "[2:100]": "SafetensorError",
                  "[4:2]": "SystemError", "[True]": 1.0})
END
