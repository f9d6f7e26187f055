"""What a run consists of, as plain data: its steps, and the phases that epochs belong to."""
import dataclasses
import json
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """Epochs with one optimizer. `decay_at`: epochs after which the learning rate is divided by 10,
    in place of `decay_every`. `before`: epochs of an earlier phase that count for the decay too.
    `distils`: towards the whole base network, on images without labels (methods/recovery.py); the
    learning rate falls along half a cosine then."""
    name: str  # "train" or "retrain", of the base task "recover"; of a baseline also "warm-up"
    epochs: int
    lr: float
    decay_every: int = 1
    weight_decay: float = 0.0
    before: int = 0
    decay_at: tuple[int, ...] = ()
    distils: bool = False

    def lr_at(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        epoch += self.before
        if self.distils:
            return self.lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        if self.decay_at:
            return self.lr * 0.1 ** sum(epoch >= at for at in self.decay_at)
        return self.lr * 0.1 ** (epoch // self.decay_every)


@dataclass(frozen=True)
class Step:
    """One step of a run: what `method` does to `task`.

    start    the task gets a head, and the weights that are free
    epoch    one epoch of training: number `epoch` (from 0) of `phase`
    attempt  one pruning ratio is tried, with `phase.epochs` epochs of re-training, and undone
    keep     the network is kept as it is, for the baselines to start from and for the pruned base
             network to be distilled towards
    prune    `ratio` of the task's weights are freed: a number, or "auto" for what was found
    norms    the statistics of the batch norms are measured anew
    refit    what the prune has left is fitted, layer by layer, to what the whole network gives
    finish   the task is learnt: everything so far is tested, and saved
    """
    method: str
    kind: str
    task: str
    phase: Phase | None = None
    epoch: int = 0
    ratio: float | str = 0.0

    def plain(self) -> dict:
        """As JSON gives it back."""
        return json.loads(json.dumps(dataclasses.asdict(self)))
