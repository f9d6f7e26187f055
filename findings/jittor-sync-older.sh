#!/usr/bin/env bash
# jittor 1.3.11.0: asking for one result also computes older ones that nobody asked for.
#
# Jittor computes when a value is needed. One expects `y.numpy()`, `y.item()` and `jt.sync([y])` to
# compute y and what y is made of, so that a second branch of a network, as a classifier half-way,
# costs nothing where its output is not used. Whatever was made earlier from the same inputs is
# computed too, and what was made later is not: it depends on the order of two lines.
# `jt.sync([y], weak_sync=False)` computes y alone. (Compiles Jittor: 2 minutes on two cores; needs
# g++.)
source "$(dirname "$0")/common"
install_jittor
python - > seen.log 2> jittor.log <<'END' && code=0 || code=$?
import os
import sys

import jittor as jt
import numpy as np


def told(x, name):
    """x + 1, by a kernel that leaves a file when it computes."""
    kernel = f"""fclose(fopen("{name}", "w"));
                 for (int i = 0; i < in0_shape0; i++) out0_p[i] = in0_p[i] + 1;"""
    return jt.code(x.shape, x.dtype, [x], cpu_src=kernel)


def computed(ask, kind):
    """Which of three results of one input are computed when the second is asked for."""
    x = jt.array(np.ones(4, np.float32))
    x.sync()
    names = [f"{kind}-{place}" for place in ("before", "asked", "after")]
    results = [told(x, name) for name in names]
    ask(results[1])
    return [name.split("-")[1] for name in names if os.path.exists(name)]


seen = [computed(lambda y: y.numpy(), "numpy"), computed(lambda y: jt.sync([y]), "sync"),
        computed(lambda y: jt.sync([y], weak_sync=False), "alone")]
print("seen: computed by numpy():", seen[0], " by sync:", seen[1], " with weak_sync=False:", seen[2])
sys.exit(seen != [["before", "asked"], ["before", "asked"], ["asked"]])
END
cat seen.log
# A compiler that fails can end Jittor's import with 0.
grep -q ^seen: seen.log || { tail -n 3 jittor.log; exit 2; }
exit $code
