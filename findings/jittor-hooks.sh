#!/usr/bin/env bash
# jittor 1.3.11.0: a layer has one forward hook, and hooking it changes its whole class.
#
# One expects, as in PyTorch, that several hooks on a layer all run, that other layers of its class
# are not touched, and that what a pre-hook returns are the layer's arguments. A second hook takes
# the place of the first without a word. The class's `__call__` is exchanged, for good, also if the
# hook is removed. A pre-hook's tuple of two is taken as (arguments, keywords): a layer of two
# arguments gets the first, unpacked along its rows, and the second as keywords: TypeError.
# (Compiles Jittor: 2 minutes on two cores; needs g++.)
source "$(dirname "$0")/common"
install_jittor
python - > seen.log 2> jittor.log <<'END' && code=0 || code=$?
import sys

import jittor as jt
from jittor import nn


class Sum(nn.Module):
    def execute(self, x, y):
        return x + y


ran = []
layer, before = nn.Linear(2, 2), nn.Linear.__call__
layer.register_forward_hook(lambda *_: ran.append("first"))
layer.register_forward_hook(lambda *_: ran.append("second"))
layer(jt.ones((1, 2)))
layer.remove_forward_hook()
exchanged = nn.Linear.__call__ is not before

both = Sum()
both.register_pre_forward_hook(lambda module, arguments: tuple(2 * x for x in arguments))
try:
    doubled = both(jt.ones(2), jt.ones(2)).numpy().tolist()
except Exception as error:
    doubled = type(error).__name__
print("seen: hooks that ran:", ran, " __call__ of the class is another:", exchanged,
      " both arguments doubled:", doubled)
sys.exit([ran, exchanged, doubled] != [["second"], True, "TypeError"])
END
cat seen.log
# A compiler that fails can end Jittor's import with 0.
grep -q ^seen: seen.log || { tail -n 3 jittor.log; exit 2; }
exit $code
