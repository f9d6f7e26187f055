#!/usr/bin/env bash
# PyTorch 2.13.0: of weights that are equally small, torch.nn.utils.prune takes the last.
#
# Weights that no training has moved are all 0, so that a prune of them is a choice among equals.
# One expects all of them (a threshold), the first, or a random choice; l1_unstructured frees
# exactly the share asked for, from the end: of a layer of 0s the output units that come last lose
# all their weights. Its documentation says nothing of ties. Half of 5 weights are 2, half of 7 are
# 4: Python rounds to the even number.
source "$(dirname "$0")/common"
install torch==2.13.0 numpy==2.4.6
python - <<'END'
import sys

import torch
from torch import nn
from torch.nn.utils import prune


def freed(weight, share):
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data.copy_(weight)
    prune.l1_unstructured(layer, "weight", amount=share)
    return layer.weight_mask == 0


units = freed(torch.zeros(8, 25), 0.5).sum(1).tolist()
counts = [int(freed(torch.arange(float(n)).reshape(1, n), 0.5).sum()) for n in (5, 7)]
print("seen: of each of 8 units with 25 equal weights, freed:", units)
print("seen: half of 5 and half of 7:", counts)
sys.exit([units, counts] != [[0] * 4 + [25] * 4, [2, 4]])
END
