#!/usr/bin/env bash
# onnx 1.23.2: the reference evaluator's LRN is wrong for batches of another size than the channels.
#
# AlexNet and GoogLeNet normalise across channels with LRN; one expects ONNX's reference to follow
# ONNX's formula. It counts the channels by the length of the batch axis: with 1 image of 6 channels
# only the first channel gets a sum of squares, the others are divided by bias ** beta alone.
# onnxruntime follows the formula, and refuses an even size, which PyTorch takes.
source "$(dirname "$0")/common"
install onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
python - <<'END'
import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator


def model(size, shape):
    node = helper.make_node("LRN", ["x"], ["y"], size=size, alpha=1.0, beta=0.75, bias=1.0)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    graph = helper.make_graph([node], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def formula(x, size):
    squares = np.zeros_like(x)
    for channel in range(x.shape[1]):
        around = slice(max(0, channel - (size - 1) // 2), channel + size // 2 + 1)
        squares[:, channel] = (x[:, around] ** 2).sum(1)
    return x / (1 + squares / size) ** 0.75


x = np.ones((1, 6, 1, 1), np.float32)
made = model(3, [1, 6, 1, 1])
reference = ReferenceEvaluator(made).run(None, {"x": x})[0]
runtime = onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"x": x})[0]
try:
    onnxruntime.InferenceSession(model(4, [1, 6, 1, 1]).SerializeToString())
    even = "accepted"
except Exception as error:
    even = type(error).__name__
for name, y in (("formula", formula(x, 3)), ("onnxruntime", runtime), ("reference", reference)):
    print("seen:", name, y.ravel().round(4))
print("seen: onnxruntime with size 4:", even)
right = [bool(np.allclose(y, formula(x, 3), atol=1e-6)) for y in (runtime, reference)]
untouched = bool((reference[0, 1:] == 1).all())
sys.exit([right, untouched, even] != [[True, False], True, "Fail"])
END
