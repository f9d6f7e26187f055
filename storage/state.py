"""The state of a stopped run on disk: state.safetensors, everything that its remaining steps need.

Tensors: those of the network at hand as in packed.py, its owner maps as they are;
`momentum.<parameter name>` of the optimizer, of Adam `momentum.mean.<parameter name>` too; and the
arrays that steps have asked to keep, `<kind>.<name>`: of the kind `reference` a frozen task's test
logits; `best`, and for the baselines `dense` and `teacher`, networks by parameter name. Everything
else is in the metadata.
"""

from dataclasses import dataclass
from pathlib import Path

from storage.checkpoint import Tensors, WeightsError, load_checkpoint, save_checkpoint
from storage.packed import Packed, take


@dataclass
class State:
    """`values` are plain: position, step, best, optimizer_steps, seconds, data, log_length and
    results; in the file, the packed network's tasks and ratios too."""

    packed: Packed
    kept: dict[str, Tensors]
    momentum: Tensors
    values: dict

    def save(self, path: Path) -> None:
        """Raises OSError."""
        tensors = self.packed.tensors() | {
            f"momentum.{name}": value for name, value in self.momentum.items()
        }
        tensors |= {
            f"{kind}.{name}": array
            for kind, arrays in self.kept.items()
            for name, array in arrays.items()
        }
        about = dict(
            packed_tasks=self.packed.tasks,
            ratios=self.packed.ratios,
            kept=list(self.kept),
        )
        save_checkpoint(path, tensors, self.values | about)

    @classmethod
    def load(cls, path: Path) -> "State":
        """Raises WeightsError."""
        tensors, values = load_checkpoint(path)
        try:
            kept = {kind: take(tensors, f"{kind}.") for kind in values["kept"]}
            momentum = take(tensors, "momentum.")
            packed = Packed.of(
                tensors,
                values["packed_tasks"],
                ratios=values["ratios"],
                source=str(path),
            )
            return cls(packed, kept, momentum, values)
        except (KeyError, TypeError) as error:
            raise other_version(path, error) from error


def other_version(path: Path, error: Exception) -> WeightsError:
    return WeightsError(
        f"{path}: not the state of this version of the program ({type(error).__name__}: {error})"
    )
