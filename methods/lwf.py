"""Learning without Forgetting (Li & Hoiem, ECCV 2016): one network fine-tuned on the tasks one
after another, held back by what it gave before.

On the new task's images it must go on giving what the network before gave for the old tasks. In the
first quarter of the epochs only the new head learns (the authors' release: 5 of 20); one optimizer
serves for both, and its weight decay acts on everything, as there.
"""
from typing import TYPE_CHECKING

from methods.method import Baseline, everything
from methods.steps import Phase

if TYPE_CHECKING:
    import jittor as jt

    from packing.loops import Loss
    from runs.run import Run
    from settings.config import Config

WEIGHT_DECAY = 5e-4  # the authors' release: there, and nowhere else
TEMPERATURE = 2  # section 3.1 of the paper


class LearningWithoutForgetting(Baseline):
    name = "lwf"
    title = "Learning without Forgetting"
    teachers = 1

    def phases(self, c: "Config") -> list[Phase]:
        warm_up = c.num_epochs_per_task // 4
        at = tuple(c.lr_decay_at)
        return [Phase("warm-up", warm_up, c.initial_lr, c.lr_decay_every, WEIGHT_DECAY, 0, at),
                Phase("train", c.num_epochs_per_task - warm_up, c.initial_lr, c.lr_decay_every,
                      WEIGHT_DECAY, warm_up, at)]

    def head_only(self, phase: Phase) -> bool:
        return phase.name == "warm-up"

    def moving(self, run: "Run", task: str, phase: Phase) -> dict[str, "jt.Var"]:
        return everything(run)

    def loss(self, run: "Run", phase: Phase) -> "Loss":
        """The teacher is the run's network as it was before the task at hand."""
        old = [task for task in run.net.heads.keys() if task != run.net.task]
        teacher = run.network_of(run.kept["teacher"], old)
        teacher.eval()
        return without_forgetting(teacher, old, self.head_only(phase))


def without_forgetting(teacher, old_tasks: list[str], head_only: bool = False) -> "Loss":
    """The loss for the selected head.

    The cross-entropy on the new task, and for every old head the cross-entropy with the teacher's
    probabilities, both softened by the temperature; all with weight 1. `teacher`: a
    networks.MultiHead with the heads of `old_tasks`. `head_only`: no gradient but to the selected
    head.
    """
    import jittor as jt
    from jittor import nn

    def loss(net, images: "jt.Var", labels: "jt.Var") -> tuple["jt.Var", "jt.Var"]:
        features = net.trunk(images)
        if head_only:
            features = features.detach()
        logits = net.heads[net.task](features)
        total = nn.cross_entropy_loss(logits, labels)
        with jt.no_grad():
            before = teacher.trunk(images)
            targets = {task: nn.softmax(teacher.heads[task](before) / TEMPERATURE, dim=1)
                       for task in old_tasks}
        for task, target in targets.items():
            guess = nn.log_softmax(net.heads[task](features) / TEMPERATURE, dim=1)
            if head_only:
                guess = guess.detach()
            total = total - (target.stop_grad() * guess).sum(1).mean()
        return total, logits
    return loss
