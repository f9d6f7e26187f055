#!/usr/bin/env bash
# jittor 1.3.11.0: a mask times a number, or times what Jittor knows to be one, is float16.
#
# One expects float32, as of a mask times any other float32, and as in PyTorch. `mask * 0.1`,
# `mask / 3` and `1.0 - mask` are float16, so that 1e5 becomes infinite and 1e-8 becomes 0; so are
# uint8 and int16 times a number. Of a Var whose dtype is float32 it depends on where it comes from:
# jt.ones(3), jt.full((3,), 0.1), jt.array(0.1) and x.mean() times a mask are float16, and float32
# once they were multiplied by 1.0. In a jt.Function the gradient that a sum hands down is such a
# number: gradient * mask is float16. (Compiles Jittor: 2 minutes on two cores; needs g++.)
source "$(dirname "$0")/common"
install_jittor
python - > seen.log 2> jittor.log <<'END' && code=0 || code=$?
import sys

import jittor as jt
import numpy as np

x = jt.array(np.array([1, -2, 3], np.float32))
mask = x > 0
products = {"mask * x": mask * x, "mask * 0.1": mask * 0.1, "mask / 3": mask / 3,
            "1.0 - mask": 1.0 - mask, "jt.ones(3) * mask": jt.ones(3) * mask,
            "x.mean() * mask": x.mean() * mask, "x.mean() * 1.0 * mask": x.mean() * 1.0 * mask}
kinds = {name: str(product.dtype) for name, product in products.items()}
values = [(mask * number).numpy().tolist()[0] for number in (1e5, 1e-8)]
print("seen:", kinds, " 1 * 1e5 and 1 * 1e-8:", *values, " jt.ones(3):", jt.ones(3).dtype)
half = ["float16"] * 5
sys.exit([*kinds.values(), *values] != ["float32", *half, "float32", float("inf"), 0.0])
END
cat seen.log
# A compiler that fails can end Jittor's import with 0.
grep -q ^seen: seen.log || { tail -n 3 jittor.log; exit 2; }
exit $code
