"""The networks that --arch knows, by name; and those that a file of the user's own builds. Nothing
here needs Jittor."""
import hashlib
import re
from pathlib import Path

# The least side of the images in pixels: of smaller ones nothing would be left for the last layers.
PAPERS = {"vgg16": 32, "vgg16-bn": 32, "resnet50": 32, "densenet121": 32}
SLIM = {"vgg16-slim": 32, "vgg-slim": 8, "vgg-bn-slim": 8, "resnet-slim": 32, "densenet-slim": 32}
SMALL = {  # for images of 28 to 64 pixels, from scratch
    "vgg16-bn-cifar": 32, "mlp": 1, "vgg-slim-28": 8,
    "vgg9-small": 16, "vgg9-base": 16, "vgg9-wide": 16, "vgg22-deep": 16,
}
FIXED_SIZE = {"vit_b_16": 224, "vit-slim": 48}  # no other size: their position embedding
# The image classifiers of jittor.models, by that least side.
OF_THE_ZOO = {
    32: """
        densenet121 densenet161 densenet169 densenet201 googlenet mnasnet0_5 mnasnet0_75
        mnasnet1_0 mnasnet1_3 mobilenet_v2 resnet101 resnet152 resnet18 resnet26 resnet34
        resnet38 resnet50 resnext101_32x8d resnext50_32x4d shufflenet_v2_x0_5
        shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1
        vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn wide_resnet101_2
        wide_resnet50_2""",
    49: """
        res2net101 res2net101_26w_4s res2net50 res2net50_14w_8s res2net50_26w_4s
        res2net50_26w_6s res2net50_26w_8s res2net50_48w_2s""",
    63: "alexnet",
    171: "inception_v3",
}
ZOO = {name: least for least, names in OF_THE_ZOO.items() for name in names.split()}
ZOO = dict(sorted(ZOO.items()))
ARCHS = PAPERS | SLIM | SMALL | FIXED_SIZE | ZOO
PUBLISHED_WEIGHTS = PAPERS.keys() | ZOO.keys()  # on Jittor's server


def own(arch: str) -> tuple[Path, str] | None:
    """(file, function) of `path/to/my_net.py:build`; None for a network with a name."""
    match = re.fullmatch(r"(.+\.py):([^\W\d]\w*)", arch)
    return match and (Path(match[1]), match[2])


def source_of(arch: str) -> dict[str, str] | None:
    """What a packed file says about a network of the user's own: file, function, and the file's
    SHA-256. Raises OSError."""
    if not own(arch):
        return None
    path, function = own(arch)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return dict(file=path.name, function=function, sha256=digest)
