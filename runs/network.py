"""The network of a run: the base it starts from, and a packed one from its arrays and back."""

from pathlib import Path

import numpy as np

import toolchain
from networks import MultiHead, assign, build, load_pretrained
from pruning import PackNet
from runs.addition import Earlier
from settings.archs import own
from settings.config import PUBLISHED, Config, ConfigError
from storage.downloads import published_weights
from storage.packed import Packed, other_content
from system.progress import say
from trunks.own import check_training, differences_of


def base_network(config: Config, classes: int | None) -> MultiHead:
    """The network with the head of the base task: pretrained weights, or random ones where it is
    to be trained from scratch. What is to be trained from pretrained weights has a new head.

    `classes`: of the base task's data set, None where it is not there. Raises ConfigError and
    WeightsError.
    """
    net = build(**config.network())
    warn_of_own(net, config)
    if config.num_epochs_base:
        if config.pretrained:
            load_pretrained(net, weights_of(net, config), None)
        net.add_head(config.base_task, classes)
        return net
    load_pretrained(net, weights_of(net, config), config.base_task)
    if classes and classes != net.num_classes(config.base_task):
        raise ConfigError(
            f"{config.folder(config.base_task)} has {classes} classes, the pretrained network "
            f"{net.num_classes(config.base_task)}: they must be the same"
        )
    return net


def weights_of(net: MultiHead, config: Config) -> str | Path:
    """The file of pretrained weights that is named, or the published ones. Raises WeightsError."""
    if config.pretrained not in (None, PUBLISHED):
        return config.pretrained
    return published_weights(net.shape.pretrained, toolchain.cache_folder())


def warn_of_own(net: MultiHead, config: Config) -> None:
    """Say of a network of the user's own what may not be meant: that it is taken to give features,
    and what it does otherwise than in PyTorch, without an error."""
    if own(config.arch):
        where = f"--arch {config.arch}"
        if not net.last and config.last is None:
            say(f"warning: {where}: what it gives is no linear layer's output, so all "
                f"{net.num_features:,} numbers of it are taken as features; --last NAME names a "
                "layer that the heads replace, and --last none says that features are meant")
        for difference in differences_of(net.trunk, config.image_size, where):
            say(f"warning: {where}: {difference}")


def check_own(net: MultiHead, config: Config) -> None:
    """Raise ConfigError where a network of the user's own cannot be trained."""
    if own(config.arch):
        check_training(net.trunk, config.image_size, f"--arch {config.arch}")


def packed_network(net: MultiHead, config: Config) -> PackNet:
    """A PackNet of the network, with the run's options. Raises ConfigError where the network cannot
    be packed."""
    try:
        return PackNet(net, **config.packnet_options())
    except ValueError as error:
        raise ConfigError(f"--arch {config.arch}: {error}") from error


def first_network(config: Config, earlier: Earlier | None, classes: int | None) -> PackNet:
    """What a run begins with: the base network, of which nothing is packed yet, or `earlier`.
    `classes`: as of base_network."""
    if earlier is None:
        packnet = packed_network(base_network(config, classes), config)
        check_own(packnet.model, config)
        return packnet
    try:
        return rebuild(earlier.packed, config)
    except (KeyError, ValueError) as error:
        raise other_content(earlier.path, error) from error


def contents(packnet: PackNet) -> Packed:
    """All arrays of a packed network."""

    def arrays(variables: dict) -> dict[str, np.ndarray]:
        return {name: variable.numpy() for name, variable in variables.items()}

    private = {task: arrays(values) for task, values in packnet.private.items()}
    return Packed(
        arrays(packnet.model.state_dict()),
        arrays(packnet.owners),
        private,
        list(packnet.tasks),
        dict(packnet.ratios),
    )


def rebuild(packed: Packed, config: Config, options: dict | None = None) -> PackNet:
    """The packed network of these arrays; the settings say which network it is. `options`: of its
    PackNet, by default the settings'. Raises WeightsError and ValueError where something does not
    fit."""
    net = build(**config.network())
    for task, classes in packed.heads().items():
        net.add_head(task, classes)
    assign(net, packed.parameters, packed.source)
    packnet = PackNet(net, **config.packnet_options() if options is None else options)
    packnet.restore(packed.tasks, packed.owners, packed.ratios, packed.private)
    return packnet
