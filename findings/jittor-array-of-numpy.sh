#!/usr/bin/env bash
# jittor 1.3.11.0: what jt.array makes of a NumPy array depends on its layout and byte order.
#
# One expects int64 to become int32, as Jittor's numbers have 32 bits, and other byte orders and
# long doubles to be converted or refused. An int64 array that is contiguous becomes int32; the same
# numbers as every second one, reversed or transposed stay int64. Big-endian numbers, as MNIST's and
# some .mat files have them, are read backwards: 1 is 16777216. Long doubles come out as numbers
# that were never there. No error. (Compiles Jittor: 2 minutes on two cores; needs g++.)
source "$(dirname "$0")/common"
install_jittor
python - > seen.log 2> jittor.log <<'END' && code=0 || code=$?
import sys

import jittor as jt
import numpy as np

whole = np.arange(1, 7)
layouts = {"contiguous": whole, "every second": whole[::2], "reversed": whole[::-1],
           "transposed": whole.reshape(2, 3).T}
kinds = {name: str(jt.array(array).dtype) for name, array in layouts.items()}
backwards = jt.array(np.array([1, 2], ">i4")).numpy().tolist()
halves = jt.array(np.array([1, 2, 3], np.longdouble)).numpy().tolist()
print("seen:", kinds, " big-endian 1, 2:", backwards, " long doubles 1, 2, 3:", halves)
seen = [list(kinds.values()), backwards, halves == [1, 2, 3]]
sys.exit(seen != [["int32", "int64", "int64", "int64"], [1 << 24, 2 << 24], False])
END
cat seen.log
# A compiler that fails can end Jittor's import with 0.
grep -q ^seen: seen.log || { tail -n 3 jittor.log; exit 2; }
exit $code
