#!/usr/bin/env bash
# onnxruntime 1.32.0 and onnx 1.23.2: whether a NaN passes a max-pooling depends on its place.
#
# One expects the maximum of a window with a NaN to be NaN, as in PyTorch and in NumPy, and as these
# two do for Relu. onnxruntime gives NaN only if it stands last in the window; ONNX's own reference
# evaluator only if it stands first (and of a picture of one window not even then). GlobalMaxPool
# drops it, ArgMax of [1, NaN, 3] is 2. A network that has diverged looks sound behind its poolings.
source "$(dirname "$0")/common"
install onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
python - <<'END'
import sys

import numpy as np
import onnxruntime
from onnx import helper
from onnx.reference import ReferenceEvaluator


def models(operator, x, **settings):
    """What onnxruntime and the reference make of x."""
    node = helper.make_node(operator, ["x"], ["y"], **settings)
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    given = helper.make_tensor_value_info("x", kind, list(x.shape))
    graph = helper.make_graph([node], "g", [given], [helper.make_empty_tensor_value_info("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return [run.run(None, {"x": x})[0] for run in (session, ReferenceEvaluator(model))]


passed = []
for place in range(4):
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    x[0, 0, place // 2, place % 2] = np.nan
    both = models("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    passed.append([bool(np.isnan(y[0, 0, 0, 0])) for y in both])
row = np.float32([1, np.nan, 3])
globally = models("GlobalMaxPool", np.float32([np.nan, 1, 2, 3]).reshape(1, 1, 2, 2))[0].item()
largest = models("ArgMax", row, axis=0)[0].item()
relu = bool(np.isnan(models("Relu", row)[0][1]))
print("seen: NaN passes from places 1 to 4 of the first window (onnxruntime, reference):", passed)
print("seen: GlobalMaxPool", globally, " ArgMax", largest, " Relu passes it:", relu)
seen = [passed, globally, largest, relu]
sys.exit(seen != [[[False, True], [False, False], [False, False], [True, False]], 3.0, 2, True])
END
