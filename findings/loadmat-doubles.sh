#!/usr/bin/env bash
# scipy 1.17.1: numbers that MATLAB holds as double come out of loadmat as uint8, and wrap.
#
# MATLAB stores whole numbers of a double array in the smallest type that holds them, as its format
# allows; lists of boxes, as Stanford Cars has them, are such. One expects the class that the file
# declares, double (and `whosmat` names it); loadmat gives the type of storage, and NumPy computes in
# it: 30 - 200 is 86. `mat_dtype=True` gives float64.
source "$(dirname "$0")/common"
install scipy==1.17.1 numpy==2.4.6
python -W ignore - <<'END'
import struct
import sys

import scipy.io


def element(kind, data):
    return struct.pack("<II", kind, len(data)) + data + b"\0" * (-len(data) % 8)


double, uint8 = 6, 2  # mxDOUBLE_CLASS, miUINT8
array = (element(6, struct.pack("<II", double, 0)) + element(5, struct.pack("<ii", 1, 2))
         + element(1, b"box") + element(uint8, bytes([30, 200])))
header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<HH", 0x0100, 0x4D49)
with open("box.mat", "wb") as file:
    file.write(header + element(14, array))

box = scipy.io.loadmat("box.mat")["box"][0]
declared = scipy.io.whosmat("box.mat")[0][2]
asked = scipy.io.loadmat("box.mat", mat_dtype=True)["box"].dtype
seen = [declared, str(box.dtype), int(box[0] - box[1]), int(box[0] + box[1]), str(asked)]
print("seen: declared, loaded as, 30 - 200, 30 + 200, with mat_dtype:", *seen)
sys.exit(seen != ["double", "uint8", 86, 230, "float64"])
END
