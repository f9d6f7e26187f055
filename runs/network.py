"""The network of a run: the base it starts from, and a packed one from its arrays and back."""
from pathlib import Path

import numpy as np

import toolchain
from networks import MultiHead, assign, build, load_pretrained
from pruning import PackNet
from runs.addition import Earlier
from settings.config import Config, ConfigError
from storage.downloads import published_weights
from storage.packed import Packed, other_content


def base_network(config: Config, classes: int | None) -> MultiHead:
    """The network with the head of the base task: pretrained weights, or random ones where it is to be trained from scratch.

    `classes`: of the base task's data set, None where it is not there. Raises ConfigError and WeightsError.
    """
    net = build(**config.network())
    if config.num_epochs_base:
        net.add_head(config.base_task, classes)
        return net
    path = config.pretrained or published_weights(net.shape.pretrained, toolchain.cache_folder())
    load_pretrained(net, path, config.base_task)
    if classes and classes != net.num_classes(config.base_task):
        raise ConfigError(f"{config.folder(config.base_task)} has {classes} classes, the pretrained network "
                          f"{net.num_classes(config.base_task)}: they must be the same")
    return net


def packed_network(net: MultiHead, config: Config) -> PackNet:
    """A PackNet of it with the run's options. Raises ConfigError for a network that cannot be packed."""
    try:
        return PackNet(net, **config.packnet_options())
    except ValueError as error:
        raise ConfigError(f"--arch {config.arch}: {error}") from error


def first_network(config: Config, earlier: Earlier | None, classes: int | None) -> PackNet:
    """What a run begins with: the base network, of which nothing is packed yet, or `earlier`. `classes`: as of base_network."""
    if earlier is None:
        return packed_network(base_network(config, classes), config)
    heads = {entry["name"]: entry["num_classes"] for entry in earlier.entries}
    ratios = {entry["name"]: entry["pruning_ratio"] for entry in earlier.entries}
    try:
        return rebuild(config.network(), heads, earlier.packed, config.packnet_options(), earlier.path, list(heads), ratios)
    except ValueError as error:
        raise other_content(earlier.path, error) from error


def contents(packnet: PackNet) -> Packed:
    """All arrays of a packed network."""
    def arrays(variables: dict) -> dict[str, np.ndarray]:
        return {name: variable.numpy() for name, variable in variables.items()}

    return Packed(arrays(packnet.model.state_dict()), arrays(packnet.owners),
                  {task: arrays(values) for task, values in packnet.private.items()})


def rebuild(network: dict, heads: dict[str, int], packed: Packed, options: dict, source: str | Path, tasks: list[str],
            ratios: dict[str, float] | None = None) -> PackNet:
    """The packed network of these arrays. `network`: for networks.build, `heads`: {task: classes}, `tasks`: those that were started,
    in order, `options`: of PackNet, `source`: the file, for messages. Raises WeightsError and ValueError where something does not
    fit."""
    net = build(**network)
    for task, classes in heads.items():
        net.add_head(task, classes)
    assign(net, packed.parameters, source)
    packnet = PackNet(net, **options)
    packnet.restore(tasks, packed.owners, ratios, packed.private)
    return packnet
