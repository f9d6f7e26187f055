#!/usr/bin/env bash
# PyTorch 2.13.0: of its optimizers, AdamW alone cannot be made again from its own defaults.
#
# Programs that learn task by task make a new optimizer of the old one's kind for each task, as
# type(o)(parameters, **o.defaults); so does the PackNet of avalanche-lib 0.6.0, which ends with a
# TypeError where it is given AdamW. One expects that to work as with the other fourteen. AdamW,
# which is an Adam underneath, puts Adam's argument decoupled_weight_decay into `defaults` and does
# not take it itself; Adam does. Without `defaults`: dict(lr=..., weight_decay=...), kept from the
# first time.
source "$(dirname "$0")/common"
install torch==2.13.0 numpy==2.4.6
python - <<'END'
import sys

import torch
from torch import nn

parameters = [nn.Parameter(torch.zeros(2, 2))]
said = {}
for name, kind in vars(torch.optim).items():
    if not isinstance(kind, type) or kind is torch.optim.Optimizer:
        continue
    if not issubclass(kind, torch.optim.Optimizer):
        continue
    optimizer = kind(parameters)
    try:
        kind(parameters, **optimizer.defaults)
        said[name] = "made again"
    except TypeError as error:
        said[name] = str(error)
for name, what in said.items():
    print(f"seen: {name}: {what}")
failed = {name for name, what in said.items() if what != "made again"}
sys.exit(
    failed != {"AdamW"} or len(said) != 15 or "decoupled_weight_decay" not in said["AdamW"])
END
