"""What may change in a network after it was packed: heads are added, and a module may put a new Var
where a parameter was."""
import toolchain
from packing.parameters import HEAD, OWNED, Parameter

jt = toolchain.start()


def accepted(before: dict[str, Parameter], found: dict[str, Parameter]) -> dict[str, Parameter]:
    """`found`, the parameters as they are now, if nothing but heads has come or gone since they
    were `before`, and each is what it was. Raises ValueError. Hidden outputs that a module keeps
    are left out."""
    found = {name: parameter for name, parameter in found.items()
             if not parameter.hidden or name in before}
    for name in before.keys() ^ found.keys():
        parameter = found.get(name) or before[name]
        if parameter.kind != HEAD and not parameter.hidden:
            what = "has come into" if name in found else "has gone from"
            raise ValueError(f"{name} {what} the network after it was packed. The name of an "
                             "output that a module keeps must begin with _: Jittor takes it for "
                             "a parameter.")
    for name, parameter in found.items():
        earlier = before.get(name, parameter)
        was = list(earlier.var.shape), earlier.kind
        now = list(parameter.var.shape), parameter.kind
        if now != was:
            raise ValueError(f"{name} was {was} when the network was packed, and is now {now}")
    return found


def put_back(parameters: dict[str, Parameter]) -> None:
    """Put every parameter back where another Var has taken its place, as of a norm that makes its
    running statistics anew: the new value counts as a step, so that what is frozen stays. Raises
    ValueError for a weight: it was not masked in the pass."""
    for parameter in parameters.values():
        for place in parameter.places:
            value = place.var
            if not place.may_change or value is parameter.var or parameter.kind == HEAD:
                continue
            shape = list(getattr(value, "shape", []))
            if parameter.hidden and shape != list(parameter.var.shape):
                continue  # an output that the module keeps
            if parameter.kind == OWNED or not isinstance(value, jt.Var):
                raise ValueError(f"{place.name} is not the Var that was packed: it was replaced, "
                                 "or is made anew in every pass. Such a weight cannot be frozen.")
            setattr(place.module, place.attribute, parameter.var)
            parameter.var.update(value.stop_grad() if parameter.var.is_stop_grad() else value)
