#!/usr/bin/env bash
# onnxruntime 1.32.0: an array of the other byte order is read as if it were of this machine's.
#
# MNIST's idx files and some .mat files are big-endian, and NumPy computes with them as they are.
# One expects an input of dtype >f4 to be converted, or refused as float64 is. It is taken, and its
# bytes are read backwards: 1, 2, 3, 4 arrive as numbers near 1e-41. (PyTorch and pyarrow refuse.)
source "$(dirname "$0")/common"
install onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
python - <<'END'
import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
session = onnxruntime.InferenceSession(model.SerializeToString())
numbers = np.arange(1, 5, dtype=">f4")
seen = session.run(None, {"x": numbers})[0]
backwards = np.maximum(numbers.view("<f4"), 0)
print("seen:", seen, "of", numbers)
sys.exit(not (seen == backwards).all())
END
