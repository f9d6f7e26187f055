"""The figures to stand beside ours, what to say of them, and the names of the methods."""
from images.folders import CIFAR100

# Published top-1 errors in percent, to stand beside ours (order CUBS, Cars, Flowers): (network, {data set: error}).
PUBLISHED = {
    "paper, VGG-16, ratio 0.75": ("vgg16", {"cubs": 24.95, "cars": 15.75, "flowers": 9.75}),
    "authors' release, VGG-16": ("vgg16", {"imagenet": 29.19, "cubs": 22.56, "cars": 17.09, "flowers": 11.07}),
    "first seed, Jittor": ("vgg16", {"cubs": 31.31, "cars": 20.86, "flowers": 12.26}),
    "first seed, PyTorch": ("vgg16", {"cubs": 24.06, "cars": 16.61, "flowers": 12.57}),
    "LwF, VGG-16": ("vgg16", {"imagenet": 36.58, "cubs": 34.24, "cars": 22.07, "flowers": 12.15}),
    "authors' release, VGG-16 BN": ("vgg16-bn", {"imagenet": 27.10, "cubs": 20.43, "cars": 14.92, "flowers": 8.59}),
    "authors' release, ResNet-50": ("resnet50", {"imagenet": 24.33, "cubs": 19.59, "cars": 14.03, "flowers": 8.12}),
    "authors' release, DenseNet-121": ("densenet121", {"imagenet": 25.51, "cubs": 20.11, "cars": 16.18, "flowers": 9.07}),
    "PackNet by CPG's authors, ResNet-50": ("resnet50", {"imagenet": 24.29, "cubs": 19.59, "cars": 13.89, "flowers": 6.96, "wikiart": 30.60,
                                                         "sketch": 23.83}),
    "fine-tuned networks, ResNet-50": ("resnet50", {"cubs": 17.17, "cars": 8.17, "flowers": 3.44, "wikiart": 24.40, "sketch": 19.22}),
    "Piggyback, ResNet-50": ("resnet50", {"imagenet": 23.84, "cubs": 15.41, "cars": 10.38, "flowers": 5.23, "wikiart": 28.67,
                                          "sketch": 20.09}),
    "PackNet by CPG's authors, VGG-16 BN": ("vgg16-bn-cifar", dict(zip(CIFAR100, (
        33.6, 20.0, 23.8, 21.6, 20.0, 20.2, 32.2, 38.6, 31.2, 22.8, 21.0, 40.6, 33.6, 42.8, 64.0, 45.8, 48.4, 41.2, 32.2, 16.8)))),
}
# What to say of a run without it.
OTHER_BASE = "The base network of the paper and of the authors' release was re-trained after its prune: their figures are of another base."
METHODS = {"packnet": "PackNet", "classifier": "classifier only", "individual": "individual networks", "finetune": "sequential fine-tuning",
           "lwf": "Learning without Forgetting", "joint": "joint training"}


def of_the_release(arch: str) -> dict[str, float]:
    """{data set: error} of the authors' release for a network, in the order CUBS, Cars, Flowers; empty for others."""
    return next((figures for source, (network, figures) in PUBLISHED.items() if network == arch and source.startswith("authors' release")),
                {})
