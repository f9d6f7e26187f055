#!/usr/bin/env bash
# jittor 1.3.11.0: the DenseNets of its zoo take a drop_rate, and never drop anything.
#
# One expects models.densenet121(drop_rate=0.5) to drop in training, as torchvision's does, also
# after train(). Its dropout is an attribute of a Sequential beside the layers of that: modules()
# does not list it, so that train() does not reach it, and a Dropout of Jittor begins in test mode.
# Two passes over one batch are equal to the bit. (Compiles Jittor: 2 minutes on two cores; needs
# g++.)
source "$(dirname "$0")/common"
install_jittor
python - > seen.log 2> jittor.log <<'END' && code=0 || code=$?
import sys

import jittor as jt
import numpy as np
from jittor import models, nn

net = models.densenet.DenseNet(4, (2, 2), 8, drop_rate=0.5, num_classes=5)
net.train()
images = jt.array(np.random.default_rng(0).normal(size=(4, 3, 64, 64)).astype(np.float32))
passes = [net(images).numpy() for _ in range(2)]
same = bool((passes[0] == passes[1]).all())
layer = net.features["denseblock1"]["denselayer1"]
listed = sum(isinstance(module, nn.Dropout) for module in net.modules())
print("seen: two passes in training equal:", same, " drop_rate:", layer.drop_rate,
      " dropouts in modules():", listed, " drops:", layer.drop.is_train)
sys.exit([same, layer.drop_rate, listed, layer.drop.is_train] != [True, 0.5, 0, False])
END
cat seen.log
# A compiler that fails can end Jittor's import with 0.
grep -q ^seen: seen.log || { tail -n 3 jittor.log; exit 2; }
exit $code
