#!/usr/bin/env bash
# onnx 1.23.2: saving a model with external data takes the weights out of the model in memory.
#
# One expects `onnx.save(model, ..., save_as_external_data=True)` to write and leave the model as it
# is. After it the model holds no weights but the name of the file. Saved again as one file
# elsewhere it is 100-odd bytes without weights, and no error; a runtime finds that out. And a
# second save to the same place raises FileExistsError instead of replacing the file.
source "$(dirname "$0")/common"
install onnx==1.23.2 numpy==2.4.6
python - <<'END'
import os
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

weight = numpy_helper.from_array(np.ones((1000, 1000), np.float32), "w")
x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1000]) for name in "xy")
node = helper.make_node("MatMul", ["x", "w"], ["y"])
model = helper.make_model(helper.make_graph([node], "g", [x], [y], [weight]))
held = len(model.graph.initializer[0].raw_data)

onnx.save(model, "a.onnx", save_as_external_data=True, location="a.data")
left = len(model.graph.initializer[0].raw_data)
os.mkdir("elsewhere")
onnx.save(model, "elsewhere/b.onnx")
size = os.path.getsize("elsewhere/b.onnx")
try:
    onnx.save(model, "a.onnx", save_as_external_data=True, location="a.data")
    again = "saved"
except Exception as error:
    again = type(error).__name__
print(f"seen: {held} bytes of weights in memory, {left} after saving; saved again as one file: "
      f"{size} bytes; at the same place: {again}")
sys.exit([held, left, size < 1000, again] != [4_000_000, 0, True, "FileExistsError"])
END
