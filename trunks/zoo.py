"""The image classifiers of Jittor's model zoo, as trunks for heads of ours. Names of layers are
torchvision's."""
import toolchain
from trunks import channels_last
from trunks.layers import AdaptivePool, Dropout, NormReLU, Pool, put

jt = toolchain.start()
from jittor import models, nn

# The layer that the heads replace, by the beginning of the network's name.
LAST = {
    "alexnet": "classifier.6",
    "densenet": "classifier",
    "googlenet": "fc",
    "inception": "fc",
    "mnasnet": "classifier.1",
    "mobilenet": "classifier.1",
    "res": "fc",
    "wide_resnet": "fc",
    "shufflenet": "fc",
    "squeezenet": "classifier.1",
}
# Classifiers half-way that help to train from scratch: nothing of their output is used here, or by
# torchvision in a test.
AUXILIARY = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}
# Jittor's file of weights, where it is not called after the network.
FILES = {"res2net50": "res2net50_26w_4s.pkl", "res2net101": "res2net101_26w_4s.pkl"}


def last_of(name: str) -> str:
    return next(last for start, last in LAST.items() if name.startswith(start))


def make(name: str) -> nn.Module:
    """The whole classifier, with random weights."""
    model = refitted((getattr(models, name, None) or getattr(models.res2net, name))())
    for auxiliary in AUXILIARY.get(name, ()):
        setattr(model, auxiliary, nn.Identity())
    if name in AUXILIARY:  # torchvision's weights of these two were trained on images from -1 to 1
        model.register_pre_forward_hook(from_minus_one_to_one)
    if name.startswith("squeezenet"):
        # its head is a convolution, ReLU and the mean: trunks.layers.PooledConv
        put(model, "classifier.2", nn.Identity())
        put(model, "classifier.3", nn.Identity())
    return model


def refitted(model: nn.Module) -> nn.Module:
    """With layers of ours where Jittor's cannot take small images, know nothing of several
    processes, or are slower."""
    norms = any(isinstance(layer, nn.BatchNorm) for layer in model.modules())
    for place, layer in model.named_modules():
        if type(layer) is nn.AdaptiveAvgPool2d and layer.output_size not in (1, (1, 1)):
            put(model, place, AdaptivePool(layer.output_size[0]))
        elif type(layer) is nn.Pool:
            layer.__class__ = Pool
        elif type(layer) is nn.ReLU and norms and toolchain.device == "cpu":
            layer.__class__ = NormReLU
        elif type(layer) is nn.Dropout:
            put(model, place, Dropout(layer.p))
    if channels_last.wanted(model):
        channels_last.rearrange(model)
    return model


def from_minus_one_to_one(_, images: tuple) -> tuple:
    """Images normalised as for the other networks, as (x - 0.5) / 0.5."""
    mean = jt.array((0.485, 0.456, 0.406)).reshape((1, 3, 1, 1))
    deviation = jt.array((0.229, 0.224, 0.225)).reshape((1, 3, 1, 1))
    return (((images[0] * deviation + mean) - 0.5) / 0.5,), {}
