"""Which network a file of weights looks like, by the names and shapes of its parameters: for
messages, not for decisions."""

import re

Shapes = dict[str, tuple[int, ...]]

VGG_DEPTHS = (11, 13, 16, 19)
RESNETS = {(2, 2, 2, 2): "18", (3, 4, 6, 3): "34", (3, 4, 23, 3): "101", (3, 8, 36, 3): "152"}
# Of networks that are only named: a name of a parameter that no other has.
MARKS = {
    r"trunk\..*|heads\.[^.]+\.(weight|bias)": "a packed network of this project",
    r"encoder\.layers\.encoder_layer_\d+\.": "a vision transformer in torchvision's names",
    r"blocks\.\d+\.attn\.qkv\.": "a vision transformer in timm's names",
    r"(vit|deit)\..*attention\.": "a vision transformer in Hugging Face's names",
    r"resnet\.(embedder|encoder)\.": "a ResNet in Hugging Face's names",
    r"(_conv_stem|_blocks\.\d+)\.": "an EfficientNet",
    r"(conv_stem|blocks\.\d+\.\d+)\.": "an EfficientNet or MobileNet in timm's names",
    r"features\.\d+\.block\.": "an EfficientNet or MobileNetV3 in torchvision's names",
    r"features\.\d+\.conv\.\d+\.": "a MobileNetV2",
    r"stage2\.0\.branch2\.": "a ShuffleNetV2",
    r"features\.\d+\.squeeze\.": "a SqueezeNet",
    r"Mixed_5b\.": "an Inception v3",
    r"inception3a\.": "a GoogLeNet",
    r"layers\.0\.blocks\.0\.": "a Swin transformer",
    r"stages\.\d+\.\d+\.|downsample_layers\.": "a ConvNeXt",
    r".*\.word_embeddings\.|model\.embed_tokens\.|transformer\.wte\.": "a language model",
}


def likeness(shapes: Shapes) -> str | None:
    """ "a VGG-16 with batch norm", for the names and shapes of all parameters; None where they say
    nothing."""
    for kind in (_vgg, _alexnet, _resnet, _densenet):
        if text := kind(shapes):
            return text
    for mark, text in MARKS.items():
        if any(re.match(mark, name) for name in shapes):
            return text
    return None


def _vgg(shapes: Shapes) -> str | None:
    convolutions = [
        shape
        for name, shape in shapes.items()
        if re.fullmatch(r"features\.\d+\.weight", name) and len(shape) == 4
    ]
    if len(convolutions) < 4 or any(shape[2:] != (3, 3) for shape in convolutions):
        return None
    depth = len(convolutions) + 3
    text = f"a VGG-{depth}" if depth in VGG_DEPTHS else f"a VGG of {len(convolutions)} convolutions"
    if convolutions[0][0] != 64:
        text = text.replace("a ", "a narrow ", 1)
    if any(re.fullmatch(r"features\.\d+\.running_mean", name) for name in shapes):
        text += " with batch norm"
    if any(name.startswith("pre_logits.") for name in shapes):
        return f"{text} in timm's names"
    return (
        text
        if any(name.startswith("classifier.") for name in shapes)
        else f"{text}, without its linear layers"
    )


def _alexnet(shapes: Shapes) -> str | None:
    return "an AlexNet" if shapes.get("features.0.weight", ())[2:] == (11, 11) else None


def _resnet(shapes: Shapes) -> str | None:
    blocks = [_count(shapes, rf"layer{stage}\.(\d+)\.conv1\.weight") for stage in (1, 2, 3, 4)]
    if not all(blocks):
        return None
    bottleneck = "layer1.0.conv3.weight" in shapes
    depth = RESNETS.get(tuple(blocks), str((3 if bottleneck else 2) * sum(blocks) + 2))
    if tuple(blocks) == (3, 4, 6, 3) and bottleneck:
        depth = "50"
    middle = shapes.get("layer1.0.conv2.weight", (0, 0))
    if bottleneck and middle[0] != middle[1]:
        return f"a ResNeXt-{depth}"
    if bottleneck and shapes["layer1.0.conv1.weight"][0] == 128:
        return f"a wide ResNet-{depth}"
    if any(".convs." in name for name in shapes):
        return f"a Res2Net-{depth}"
    return f"a ResNet-{depth}"


def _densenet(shapes: Shapes) -> str | None:
    layers = [
        _count(shapes, rf"features\.denseblock{block}\.denselayer(\d+)\.conv\.?1\.weight")
        for block in (1, 2, 3, 4)
    ]
    return f"a DenseNet-{2 * sum(layers) + 5}" if all(layers) else None


def _count(shapes: Shapes, pattern: str) -> int:
    return len({match[1] for name in shapes if (match := re.fullmatch(pattern, name))})
