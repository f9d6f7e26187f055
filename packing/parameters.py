"""Every parameter of a network, by identity: where it lives, and what becomes of it when the
network is packed.

    owned     packed weight by weight: each has an owner, and is pruned, frozen and hidden as the
              rules of pruning.py say
    shared    moves with the first task and stays as it is for all later ones
    private   each task has its own, which start as those of the task before
    head      belongs to the head of one task

Jittor's `state_dict` is not enough to go by: it lists a parameter that has two names once, and
passes over what is in a plain list. What cannot be packed to the bit is refused with a sentence
that names it.
"""
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import toolchain

jt = toolchain.start()
from jittor import nn
from jittor.attention import MultiheadAttention
from jittor.weightnorm import WeightNorm

OWNED, SHARED, PRIVATE, HEAD = "owned", "shared", "private", "head"

CONVOLUTIONS = (nn.Conv, nn.Conv1d, nn.Conv3d, nn.ConvTranspose, nn.ConvTranspose3d)
# (layers, the names of the matrices they multiply by, the names of what they add)
LAYERS = (
    ((nn.Linear, nn.Bilinear, *CONVOLUTIONS), "weight", "bias"),
    ((MultiheadAttention,), "(in|q|k|v)_proj_weight", "in_proj_bias"),
    ((nn.RNNBase, nn.RNNCell, nn.LSTMCell, nn.GRUCell), "weight_(ih|hh|hr).*", "bias_(ih|hh).*"))
# which layers are packed, in words
PACKED = {
    "all": "convolution or linear layer",
    "conv": "convolution",
    "fc": "linear layer",
    "no-depthwise": "convolution (but depthwise ones) or linear layer",
}
NORMS = (nn.BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm)
DROPOUTS = (nn.Dropout, nn.Dropout2d, nn.DropPath)
STATISTICS = ("running_mean", "running_var")
HIDDEN = "hidden from Jittor: no optimizer gets it, no file holds it"


# ------------------------------------------------------------------------ what is found

@dataclass(eq=False)
class Place:
    """Where a Var is: `attribute` of `module` (of a ParameterList the key, in a plain list "").

    `path` leads there from the model. `hidden`: whether Jittor takes it for no parameter, as the
    Var's own attribute begins with _, or that of the plain list or dictionary which it is in. A
    module whose name begins with _ is a module like any other.
    """
    module: nn.Module
    attribute: str
    path: tuple[str, ...]
    hidden: bool

    @property
    def var(self) -> jt.Var | None:
        """What is there now."""
        return vars(self.module).get(self.attribute)

    @property
    def may_change(self) -> bool:
        """Whether a module that runs can put another Var here: not into a list, or a
        ParameterList."""
        return bool(self.attribute) and not isinstance(self.module, nn.ParameterList)

    @property
    def name(self) -> str:
        return ".".join(self.path)


@dataclass(eq=False)
class Parameter:
    """One Var of the network.

    `name`: as in the state dict. `places`: all of them, the one that the state dict names first.
    `kind`: OWNED, SHARED, PRIVATE or HEAD, and `reason` why. `gradient`: whether training moves it
    by gradients (a running statistic moves otherwise). `task`: whose head it belongs to.
    """
    name: str
    var: jt.Var
    places: list[Place]
    kind: str
    reason: str
    gradient: bool
    task: str | None = None

    @property
    def module(self) -> nn.Module:
        return self.places[0].module

    @property
    def attribute(self) -> str:
        return self.places[0].attribute

    @property
    def is_statistic(self) -> bool:
        return self.attribute in STATISTICS

    @property
    def is_buffer(self) -> bool:
        return is_buffer(self.var)

    @property
    def hidden(self) -> bool:
        return self.reason == HIDDEN


def is_buffer(var: jt.Var) -> bool:
    """Whether its module has registered it as a buffer: a mask or a constant, which no optimizer
    may move, though Jittor lists it among the parameters."""
    return hasattr(var, "persistent")


def heads_of(model: nn.Module) -> dict[str, nn.Module]:
    """{task: its head}: of a model that keeps a dictionary of them as `heads` and has `select` to
    choose one (networks.MultiHead). Any other attribute called `heads` is a part of the network."""
    heads = getattr(model, "heads", None)
    if isinstance(heads, nn.Sequential) and callable(getattr(model, "select", None)):
        return dict(heads.items())
    return {}


def parameters_of(model: nn.Module, train_biases: bool = False, train_bn: bool = False,
                  packed_layers: str = "all") -> dict[str, Parameter]:
    """All parameters of `model` by their name in its state dict, in that order; what Jittor hides
    by an underscore comes last.

    `train_biases`, `train_bn`: biases of packed layers, or norms, are private instead of shared.
    `packed_layers`: which weights are owned, a key of PACKED: those of convolutions, of all other
    layers ("fc"), of all but depthwise convolutions ("no-depthwise"), or all; the rest are shared.
    Raises ValueError for a parameter that cannot be packed, and for another `packed_layers`.
    """
    if packed_layers not in PACKED:
        raise ValueError(f"packed_layers {packed_layers!r} is none of {', '.join(PACKED)}")
    refuse_circles(model)
    places, variables = places_of(model)
    names = {id(var): name for name, var in model.state_dict().items()}
    unnamed = [key for key in places if key not in names]
    heads = {id(var): task for task, head in heads_of(model).items() for _, var in walk(head)}
    stopped = stopped_by_eval(model)
    found = {}
    for key in [key for key in names if key in places] + unnamed:
        var = variables[key]
        where = places[key]
        name = names.get(key) or where[0].name
        where.sort(key=lambda place: place.name != name)
        task = heads.get(key)
        if key in names:
            where = [place for place in where if not place.hidden]
            moves = key in stopped or not var.is_stop_grad()
            gradient = moves and where[0].attribute not in STATISTICS and not is_buffer(var)
            kind, reason = classified(where, gradient, task, train_bn)
            if kind == OWNED and not is_packed(where[0].module, packed_layers):
                kind, reason = SHARED, f"{reason}, and only {PACKED[packed_layers]}s are packed"
        elif where[0].hidden or not getattr(var, "persistent", True):
            gradient, kind, reason = False, SHARED, HIDDEN
        else:
            raise ValueError(f"{name} cannot be packed: it is in a plain list or dictionary, or "
                             "beside the layers of a Sequential, where Jittor does not see it and "
                             "would neither train nor store it. Use nn.ModuleList or "
                             "nn.ParameterList; a constant's name begins with _.")
        found[name] = Parameter(name, var, where, kind, reason, gradient, task)
    if train_biases:
        make_biases_private(found)
    return found


def is_packed(layer: nn.Module, packed_layers: str) -> bool:
    if packed_layers == "all":
        return True
    convolution = isinstance(layer, CONVOLUTIONS)
    if packed_layers == "no-depthwise":
        return not (convolution and getattr(layer, "groups", 1) == layer.in_channels > 1)
    return convolution == (packed_layers == "conv")


def make_biases_private(found: dict[str, Parameter]) -> None:
    """The biases of layers whose weights are owned."""
    packed = {id(place.module) for parameter in found.values() if parameter.kind == OWNED
              for place in parameter.places}
    for parameter in found.values():
        biases = [role(place) == "bias" and id(place.module) in packed
                  for place in parameter.places]
        if parameter.kind == SHARED and all(biases):
            parameter.kind = PRIVATE


def stopped_by_eval(model: nn.Module) -> set[int]:
    """The ids of the Vars whose gradient Jittor's own `eval` has stopped, before that of
    packing/freezing.py took its place: they are to be trained all the same."""
    stopped = set()
    for module in model.modules():
        moved_before = vars(module).get("backup_grad_state", {})
        stopped |= {key for key, moved in moved_before.items() if moved}
    return stopped


# ------------------------------------------------------------------------ the walk

@dataclass(frozen=True)
class Way:
    """How a walk through a network came to where it is: the path, the module that it is in, and the
    attribute of it ("" within a list); `hidden` as of Place."""
    path: tuple[str, ...] = ()
    module: nn.Module | None = None
    attribute: str = ""
    hidden: bool = False

    @property
    def name(self) -> str:
        return ".".join(self.path) or "the network"


Check = Callable[[nn.Module, Way], None]


def places_of(model: nn.Module) -> tuple[dict[int, list[Place]], dict[int, jt.Var]]:
    """Every Var of `model` by its id: ({id: its places}, {id: the Var}). Raises ValueError for a
    module that cannot be packed."""
    seen_by_jittor = {id(module) for module in model.modules()}

    def check(module: nn.Module, way: Way) -> None:
        refuse_weight_norm(module, way)
        if not way.hidden:
            refuse_requires_grad(module, way)
            if id(module) not in seen_by_jittor:
                refuse_dropout(module, way)

    places: dict[int, list[Place]] = {}
    variables: dict[int, jt.Var] = {}
    for place, var in walk(model, check=check):
        variables[id(var)] = var
        known = places.setdefault(id(var), [])
        if not any(place.module is other.module and place.attribute == other.attribute
                   for other in known):
            known.append(place)
    return places, variables


def walk(thing, way: Way = Way(), seen: set | None = None,
         check: Check = lambda module, way: None) -> Iterator[tuple[Place, jt.Var]]:
    """Every Var at or below `thing`, in modules, lists, tuples and dictionaries, with its place;
    once for each place. `check` is called for every module on the way."""
    seen = set() if seen is None else seen
    if isinstance(thing, jt.Var):
        yield Place(way.module, way.attribute, way.path, way.hidden), thing
        return
    if id(thing) in seen or not isinstance(thing, nn.Module | list | tuple | dict):
        return
    seen.add(id(thing))
    if isinstance(thing, nn.Module):
        check(thing, way)
        for key, value in entries_of(thing).items():
            hidden = not isinstance(value, nn.Module) and str(key).startswith("_")
            here = Way((*way.path, str(key)), thing, str(key), way.hidden or hidden)
            yield from walk(value, here, seen, check)
        return
    for key, value in list(thing.items() if isinstance(thing, dict) else enumerate(thing)):
        here = Way((*way.path, str(key)), way.module, "", way.hidden)
        yield from walk(value, here, seen, check)


def entries_of(module: nn.Module) -> dict:
    """What a module holds, by attribute; the layers of a Sequential and the Vars of a ParameterList
    as if they were attributes."""
    entries = dict(vars(module))
    if isinstance(module, nn.Sequential):
        entries |= entries.pop("layers", {})
    if isinstance(module, nn.ParameterList):
        entries |= entries.pop("params", {})
    if isinstance(module, nn.Conv1d):
        entries.pop("_conv", None)  # computes with the weight that Conv1d has
    return entries


def refuse_circles(module: nn.Module, path: tuple[str, ...] = (),
                   above: tuple[nn.Module, ...] = ()) -> None:
    """Jittor's own walk through the layers would never end."""
    above = (*above, module)
    for key, child in entries_of(module).items():
        if isinstance(child, nn.Module):
            here = (*path, str(key))
            if any(child is each for each in above):
                raise ValueError(f"{'.'.join(here)} is a layer that it is itself a part of, so that"
                                 " Jittor finds no end of the network. Keep it in a list, or pass "
                                 "it to execute.")
            refuse_circles(child, here, above)


def refuse_weight_norm(module: nn.Module, way: Way) -> None:
    hook = vars(module).get("__fhook2__")
    if isinstance(hook, WeightNorm):
        name = ".".join((*way.path, hook.name))
        raise ValueError(f"{name} cannot be packed: weight_norm computes it anew from {name}_g and "
                         f"{name}_v in every pass, so that no single weight of it can be freed or "
                         "frozen. Pack the network without weight_norm.")


def refuse_requires_grad(module: nn.Module, way: Way) -> None:
    if vars(module).get("_requires_grad") is False:
        raise ValueError(f"{way.name} cannot be packed: Jittor's requires_grad_(False) stops the "
                         "gradient of the layers before it too, and weight decay moves its weights "
                         "all the same. Call stop_grad() of each of its parameters instead.")


def refuse_dropout(module: nn.Module, way: Way) -> None:
    """Of a module that Jittor does not see."""
    if isinstance(module, DROPOUTS) and module.p > 0:
        raise ValueError(f"{way.name} would never drop anything: Jittor does not see it there, in "
                         "a plain list or dictionary, or beside the layers of a Sequential, and a "
                         "new dropout is off until it is put in training mode. Use nn.ModuleList.")


# ------------------------------------------------------------------------ its kind

def role(place: Place) -> str:
    """What the Var at this place is for: weight, bias, norm, embedding, or other."""
    for layers, weights, biases in LAYERS:
        if isinstance(place.module, layers):
            if re.fullmatch(weights, place.attribute):
                return "weight"
            return "bias" if re.fullmatch(biases, place.attribute) else "other"
    if isinstance(place.module, NORMS) or set(STATISTICS) <= vars(place.module).keys():
        return "norm"
    return "embedding" if isinstance(place.module, nn.Embedding) else "other"


def classified(places: list[Place], gradient: bool, task: str | None,
               train_bn: bool) -> tuple[str, str]:
    """(kind, reason) of a Var that lives at `places`. Raises ValueError where it can have none."""
    first = places[0]
    roles = {role(place) for place in places}
    layer = type(first.module).__name__
    tied = ""
    if len(places) > 1:
        tied = f"; the same Var is {', '.join(place.name for place in places[1:])}"
    if task is not None:
        if len({place.path[:2] for place in places}) > 1:
            raise ValueError(f"{first.name} cannot be packed{tied}, and a head belongs to one task "
                             "alone. Give each its own Var.")
        return HEAD, f"head of {task}"
    if roles == {"norm"}:
        statistic = "running statistic of " if first.attribute in STATISTICS else ""
        return PRIVATE if train_bn else SHARED, statistic + layer + tied
    if is_buffer(first.var):
        return SHARED, f"a buffer of {layer}{tied}"
    if not gradient:
        return SHARED, f"takes no gradient: {layer}{tied}"
    if roles == {"weight"}:
        return OWNED, f"weight of {layer}{tied}"
    if roles == {"weight", "embedding"}:
        return SHARED, ("an embedding, which is not pruned, and so not packed as the weight of a "
                        f"layer{tied}")
    if "weight" in roles:
        raise ValueError(f"{first.name} cannot be packed{tied}, and one of them is the weight of a "
                         "layer, each entry of which has an owner, the other is not. Give each its "
                         "own Var.")
    what = {"bias": f"bias of {layer}", "embedding": layer}
    return SHARED, what.get(role(first), f"a Var of {layer} that is no layer's weight") + tied


# ------------------------------------------------------------------------ in words

def table(parameters: dict[str, Parameter]) -> str:
    """A line for each parameter: name, shape, class, reason; then the totals, and the share of all
    that is packed."""
    rows = [("name", "shape", "class", "reason")]
    for parameter in parameters.values():
        shape = "x".join(map(str, parameter.var.shape))
        rows.append((parameter.name, shape, parameter.kind, parameter.reason))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = []
    for *cells, reason in rows:
        padded = [text.ljust(width) for text, width in zip(cells, widths)]
        lines.append("  ".join([*padded, reason]))
    counts = dict.fromkeys((OWNED, SHARED, PRIVATE, HEAD), 0)
    for parameter in parameters.values():
        counts[parameter.kind] += parameter.var.numel()
    total = sum(counts.values())
    lines.append("")
    for kind, count in counts.items():
        lines.append(f"{kind:8}{count:>13,}  {100 * count / max(1, total):6.2f} %")
    packed = 100 * counts[OWNED] / max(1, total)
    lines.append(f"{'all':8}{total:>13,}  of which {packed:.2f} % are packed")
    return "\n".join(lines)
