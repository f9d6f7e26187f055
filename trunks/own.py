"""A network that a file of the user's own builds: `path/to/my_net.py:build`, a function without
arguments that returns a module.

Its last layer makes room for the heads of the tasks; a network without one gives features. The file
is run like any Python module, so that nothing but the command line may name it.
"""
import importlib.util
import sys
from pathlib import Path

import numpy as np

import toolchain
from packing.parameters import STATISTICS, parameters_of
from settings.config import ConfigError
from trunks.differs import differences
from trunks.layers import layer_at, put

jt = toolchain.start()
from jittor import nn


def make(path: Path, function: str) -> nn.Module:
    """What the function returns. Raises ConfigError where there is none, it fails, or returns no
    module."""
    where = f"--arch {path}:{function}"
    spec = importlib.util.spec_from_file_location(f"packnet_own_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # as for import: dataclasses look a class's module up
    sys.path.append(str(path.resolve().parent))  # for what it imports
    try:
        spec.loader.exec_module(module)
        if not callable(getattr(module, function, None)):
            raise ConfigError(f"{where}: the file has no function {function}")
        model = getattr(module, function)()
    except Exception as error:
        sys.modules.pop(spec.name, None)
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{where}: {said(error)}") from error
    finally:
        sys.path.pop()
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{where}: returns {type(model).__name__}, not a jittor.nn.Module")
    return model


def split(model: nn.Module, last: str | None, image_size: int, where: str) -> tuple[str, int]:
    """Take the last layer out of the network. Returns (its name, "" for none; the features that its
    heads get).

    `last`: its name, "none" for a network that gives features, or None: the linear layer whose
    output is the network's. Raises ConfigError, for a parameter that cannot be packed too.
    """
    try:
        parameters_of(model)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    if last is None:
        last = found_last(model, image_size, where)
    elif last == "none":
        last = ""
    elif not isinstance(layer_at(model, last), nn.Linear):
        linear = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
        raise ConfigError(f"--last {last}: {where} has no linear layer of that name; it has "
                          f"{', '.join(linear) or 'none at all'}")
    width = None
    if last:
        width = layer_at(model, last).weight.shape[1]
        put(model, last, nn.Identity())
    features = tried(model, image_size, where)
    if len(features.shape) != 2 or width and features.shape[1] != width:
        begin = "it has no last linear layer, and gives"
        if last:
            begin = f"without its layer {last} it gives"
        raise ConfigError(f"{where}: {begin} {list(features.shape)} for 2 images, not float32 "
                          f"[2, {width or 'features'}]. --last names the layer that the tasks' "
                          "heads replace.")
    return last, features.shape[1]


def found_last(model: nn.Module, image_size: int, where: str) -> str:
    """The name of the linear layer whose output is the network's; "" where there is none."""
    outputs = {}

    def listen(name: str, layer: nn.Linear) -> None:
        def execute(x: jt.Var) -> jt.Var:
            outputs[name] = type(layer).execute(layer, x)
            return outputs[name]
        layer.execute = execute

    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    for name, layer in layers.items():
        listen(name, layer)
    try:
        result = tried(model, image_size, where).numpy().ravel()
    finally:
        for layer in layers.values():
            del layer.execute
    same = [name for name, output in outputs.items()
            if np.array_equal(output.numpy().ravel(), result)]
    return same[-1] if same else ""


def tried(model: nn.Module, image_size: int, where: str) -> jt.Var:
    """What the network, in test mode, gives for 2 images. Raises ConfigError where it fails, or
    makes a parameter anew."""
    pixels = np.random.default_rng(0).normal(size=(2, 3, image_size, image_size))
    images = jt.array(pixels.astype(np.float32))
    modes = [(module, vars(module).get("is_train")) for module in model.modules()]
    before = {name: id(parameter) for name, parameter in model.state_dict().items()}
    for module, _ in modes:
        module.is_train = False
    try:
        with jt.no_grad():
            result = model(images)
            if not isinstance(result, jt.Var):
                raise ConfigError(f"{where}: gives {type(result).__name__} for images of "
                                  f"{image_size} x {image_size}, not one Var")
            result.sync()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{where}: fails on images float32 {list(images.shape)}: "
                          f"{said(error)}") from error
    finally:
        for module, mode in modes:
            if mode is None:
                del module.is_train
            else:
                module.is_train = mode
    for name, parameter in model.state_dict().items():
        if before.get(name) != id(parameter) and name.rpartition(".")[2] not in STATISTICS:
            raise ConfigError(f"{where}: {name} is made anew in every pass, so that it cannot be "
                              "frozen")
    return result


def differences_of(trunk: nn.Module, image_size: int, where: str) -> list[str]:
    """What its layers do otherwise than PyTorch's on images of this size (trunks/differs.py)."""
    return differences(trunk, lambda: tried(trunk, image_size, where))


def said(error: Exception) -> str:
    """An exception of somebody else's code in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
