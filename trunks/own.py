"""A network that a file of the user's own builds: `path/to/my_net.py:build`, a function without
arguments that returns a module.

Its last layer makes room for the heads of the tasks; a network without one gives features. The file
is run like any Python module, so that nothing but the command line may name it.
"""
import contextlib
import importlib.util
import sys
import traceback
from pathlib import Path

import numpy as np

import toolchain
from packing.parameters import STATISTICS, parameters_of
from settings.config import ConfigError
from trunks.differs import differences
from trunks.layers import layer_at, put

jt = toolchain.start()
from jittor import nn

OWN = "packnet_own_"  # in the name of the module that such a file becomes


def make(path: Path, function: str) -> nn.Module:
    """What the function returns. Raises ConfigError where there is none, it fails, or returns no
    module."""
    where = f"--arch {path}:{function}"
    spec = importlib.util.spec_from_file_location(f"{OWN}{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # as for import: dataclasses look a class's module up
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.append(folder)  # for what it imports, now or when it runs
    try:
        spec.loader.exec_module(module)
        if not callable(getattr(module, function, None)):
            raise ConfigError(f"{where}: the file has no function {function}")
        model = getattr(module, function)()
    except (Exception, SystemExit) as error:
        sys.modules.pop(spec.name, None)
        if isinstance(error, ConfigError):
            raise
        if isinstance(error, SystemExit):
            raise ConfigError(f"{where}: ends the program, by a command line of its own or sys.exit"
                              f"{place_of(error)}. What is for `python {path.name}` alone stands "
                              "below `if __name__ == \"__main__\":`.") from error
        raise ConfigError(f"{where}: {said(error)}") from error
    if not isinstance(model, nn.Module):
        of = " of PyTorch" if type(model).__module__.startswith("torch.") else ""
        raise ConfigError(f"{where}: returns {type(model).__name__}{of}, not a jittor.nn.Module")
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
    kind = "" if features.dtype == "float32" else f"{features.dtype} "
    begin = f"without its layer {last} it" if last else "it has no last linear layer, and"
    other = (f"{begin} gives {kind}{list(features.shape)} for 2 images, not float32 "
             f"[2, {width or 'features'}].")
    if kind or len(features.shape) != 2 or width and features.shape[1] != width:
        raise ConfigError(f"{where}: {other} --last names the layer that the tasks' heads replace.")
    if features.shape[0] != 2:
        raise ConfigError(f"{where}: {other} A reshape for images of another size than {image_size}"
                          f" x {image_size} does this; x.reshape((x.shape[0], -1)) does not.")
    alone = tried(model, image_size, where, count=1)
    if alone.shape != [1, features.shape[1]]:
        raise ConfigError(f"{where}: gives {list(alone.shape)} for one image, and "
                          f"{list(features.shape)} for two. A squeeze() without an axis takes the "
                          "images' own: name the others.")
    if are_shares(features.numpy()):
        raise ConfigError(f"{where}: what it gives are shares that add up to 1, or their "
                          "logarithms, as of softmax. Leave that out: each task's head follows, "
                          "and the loss has it.")
    return last, features.shape[1]


def are_shares(values: np.ndarray) -> bool:
    """Whether each row of float32 [images, numbers] is what softmax gives, or log_softmax."""
    with np.errstate(over="ignore"):
        both = values, np.exp(values)
    return values.shape[1] > 1 and any(
        (shares >= 0).all() and np.allclose(shares.sum(1), 1, atol=1e-4) for shares in both)


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


def tried(model: nn.Module, image_size: int, where: str, training: bool = False,
          count: int = 2) -> jt.Var:
    """What the network, in test or training mode, gives for `count` images. Raises ConfigError
    where it fails, or makes a parameter anew."""
    pixels = np.random.default_rng(0).normal(size=(count, 3, image_size, image_size))
    images = jt.array(pixels.astype(np.float32))
    modes = [(module, vars(module).get("is_train")) for module in model.modules()]
    before = {name: id(parameter) for name, parameter in model.state_dict().items()}
    for module, _ in modes:
        module.is_train = training
    mode = "in training " if training else ""
    try:
        with contextlib.nullcontext() if training else jt.no_grad():
            result = model(images)
            if not isinstance(result, jt.Var):
                raise ConfigError(f"{where}: {mode}gives {type(result).__name__} for images of "
                                  f"{image_size} x {image_size}, not one Var")
            result.sync()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{where}: {mode}fails on images float32 {list(images.shape)}: "
                          f"{said(error)}") from error
    finally:
        for module, before_it in modes:
            if before_it is None:
                del module.is_train
            else:
                module.is_train = before_it
    for name, parameter in model.state_dict().items():
        if before.get(name) != id(parameter) and name.rpartition(".")[2] not in STATISTICS:
            raise ConfigError(f"{where}: {name} is made while the network runs, at first or in "
                              "every pass, so that it cannot be frozen. Make it in __init__.")
    return result


def check_training(trunk: nn.Module, image_size: int, where: str) -> None:
    """Raise ConfigError unless the network gives in training what it gives in a test, as features
    go, and gradients. Every value is afterwards what it was; random states are not."""
    before = {name: var.numpy() for name, var in trunk.state_dict().items()}
    shape = list(tried(trunk, image_size, where).shape)
    features = tried(trunk, image_size, where, training=True)
    if list(features.shape) != shape:
        raise ConfigError(f"{where}: in training gives {list(features.shape)} for 2 images, and "
                          f"{shape} in a test: the heads need the same of both")
    moving = [var for var in trunk.parameters() if not var.is_stop_grad()]
    try:
        jt.sync(jt.grad(features.sum(), moving))
    except Exception as error:
        raise ConfigError(f"{where}: gives no gradient: {said(error)}") from error
    for name, var in trunk.state_dict().items():
        if not np.array_equal(var.numpy(), before[name]):
            value = jt.array(before[name], dtype=str(before[name].dtype))
            var.assign(value.stop_grad() if var.is_stop_grad() else value)


def differences_of(trunk: nn.Module, image_size: int, where: str) -> list[str]:
    """What its layers do otherwise than PyTorch's on images of this size (trunks/differs.py)."""
    return differences(trunk, lambda: tried(trunk, image_size, where))


def said(error: Exception) -> str:
    """An exception of somebody else's code in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}{f': {lines[0]}' if lines else ''}{place_of(error)}"


def place_of(error: BaseException) -> str:
    """The line of the user's file that led to an exception; "" where none did."""
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if frame.f_globals.get("__name__", "").startswith(OWN):
            place = f" (line {line} of {Path(frame.f_code.co_filename).name})"
    return place
