#!/usr/bin/env bash
# torchvision 0.28.0: PyPI's wheel installs beside PyTorch 2.13.0 for the CPU; its import fails.
#
# PyTorch's own index has torch 2.13.0+cpu; a torchvision that is installed later comes from PyPI.
# One expects that it works but for its CUDA operators, or that pip objects. pip finds that 2.13.0
# matches; the import raises RuntimeError: operator torchvision::nms does not exist, since the
# compiled part, which wants CUDA's libraries, was passed over in silence before. timm needs it too.
# (Where pip finds torch 2.13.0+cpu: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu.)
source "$(dirname "$0")/common"
NEWEST=  # the newest torch would be the one with CUDA
install torch==2.13.0+cpu
add torchvision==0.28.0
python - <<'END'
import sys

import torch

try:
    import torchvision
    seen = f"torchvision {torchvision.__version__} works"
except Exception as error:
    seen = f"{type(error).__name__}: {error}"
print("seen:", seen, " beside torch", torch.__version__)
sys.exit(seen != "RuntimeError: operator torchvision::nms does not exist")
END
