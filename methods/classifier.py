"""A new head on the frozen base network; its learning rate is constant (the paper's baseline)."""
from dataclasses import replace
from typing import TYPE_CHECKING

from methods.method import Baseline
from methods.steps import Phase

if TYPE_CHECKING:
    import jittor as jt

    from runs.run import Run
    from settings.config import Config

NEVER = 10**9  # epochs


class Classifier(Baseline):
    name = "classifier"
    title = "classifier only"
    of_one_task = True

    def phases(self, c: "Config") -> list[Phase]:
        return [replace(phase, decay_every=NEVER, decay_at=()) for phase in super().phases(c)]

    def head_only(self, phase: Phase) -> bool:
        return True

    def take_weights(self, run: "Run", task: str) -> None:
        run.packnet.start_task(run.config.base_task)  # which owns every weight, for good
        run.packnet.start_task(task)

    def moving(self, run: "Run", task: str, phase: Phase) -> dict[str, "jt.Var"]:
        return {name: parameter.var for name, parameter in run.packnet.parameters.items()
                if parameter.gradient and run.packnet.is_head(name, task)}
