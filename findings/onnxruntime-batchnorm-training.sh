#!/usr/bin/env bash
# onnxruntime 1.32.0: the plain package trains batch norm, and keeps another variance than PyTorch.
#
# One expects BatchNormalization with training_mode=1 to be refused outside the training build. It
# runs on the CPU and gives the new running statistics; the variance among them is that
# of the batch as it is (n), where PyTorch's is n / (n - 1) times that. The node must name all
# three outputs: with one, the session is refused though the others are optional in the operator.
source "$(dirname "$0")/common"
install onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
python - <<'END'
import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, helper


def trained(x, outputs):
    values = dict(x=x, scale=np.ones(1, np.float32), bias=np.zeros(1, np.float32),
                  mean=np.zeros(1, np.float32), var=np.ones(1, np.float32))
    node = helper.make_node("BatchNormalization", list(values), outputs, training_mode=1,
                            momentum=0.0)
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(value.shape))
             for name, value in values.items()]
    graph = helper.make_graph([node], "g", given,
                              [helper.make_empty_tensor_value_info(name) for name in outputs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, values)


x = np.float32([0, 2]).reshape(2, 1, 1, 1)
y, mean, variance = trained(x, ["y", "new_mean", "new_var"])
try:
    trained(x, ["y"])
    alone = "accepted"
except Exception as error:
    alone = type(error).__name__
print("seen: output", y.ravel(), " mean", mean, " variance of 0 and 2:", variance, " alone:", alone)
sys.exit([np.round(y.ravel(), 3).tolist(), mean.item(), variance.item(), alone]
         != [[-1, 1], 1, 1, "Fail"])
END
