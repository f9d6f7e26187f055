"""The networks that --arch knows, by name; and those that a file of the user's own builds. Nothing here needs Jittor."""
import hashlib
import re
from pathlib import Path

# The least side of the images that leaves something to the last layers.
PAPERS = {"vgg16": 32, "vgg16-bn": 32, "resnet50": 32, "densenet121": 32}
SLIM = {"vgg16-slim": 32, "vgg-slim": 8, "vgg-bn-slim": 8, "resnet-slim": 32, "densenet-slim": 32}
SMALL = {"vgg16-bn-cifar": 32, "mlp": 1}  # for images of 32 and 28 pixels, from scratch
FIXED_SIZE = {"vit_b_16": 224, "vit-slim": 48}  # no other size: their position embedding
ZOO = {  # the image classifiers of jittor.models
    "alexnet": 63, "densenet121": 32, "densenet161": 32, "densenet169": 32, "densenet201": 32, "googlenet": 32, "inception_v3": 171,
    "mnasnet0_5": 32, "mnasnet0_75": 32, "mnasnet1_0": 32, "mnasnet1_3": 32, "mobilenet_v2": 32, "res2net101": 49,
    "res2net101_26w_4s": 49, "res2net50": 49, "res2net50_14w_8s": 49, "res2net50_26w_4s": 49, "res2net50_26w_6s": 49,
    "res2net50_26w_8s": 49, "res2net50_48w_2s": 49, "resnet101": 32, "resnet152": 32, "resnet18": 32, "resnet26": 32, "resnet34": 32,
    "resnet38": 32, "resnet50": 32, "resnext101_32x8d": 32, "resnext50_32x4d": 32, "shufflenet_v2_x0_5": 32, "shufflenet_v2_x1_0": 32,
    "shufflenet_v2_x1_5": 32, "shufflenet_v2_x2_0": 32, "squeezenet1_0": 32, "squeezenet1_1": 32, "vgg11": 32, "vgg11_bn": 32,
    "vgg13": 32, "vgg13_bn": 32, "vgg16": 32, "vgg16_bn": 32, "vgg19": 32, "vgg19_bn": 32, "wide_resnet101_2": 32, "wide_resnet50_2": 32}
ARCHS = PAPERS | SLIM | SMALL | FIXED_SIZE | ZOO
PUBLISHED_WEIGHTS = PAPERS.keys() | ZOO.keys()  # on Jittor's server


def own(arch: str) -> tuple[Path, str] | None:
    """(file, function) of `path/to/my_net.py:build`; None for a network with a name."""
    match = re.fullmatch(r"(.+\.py):([^\W\d]\w*)", arch)
    return match and (Path(match[1]), match[2])


def source_of(arch: str) -> dict[str, str] | None:
    """What a packed file says about a network of the user's own: file, function, and the file's SHA-256. Raises OSError."""
    if not own(arch):
        return None
    path, function = own(arch)
    return dict(file=path.name, function=function, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
