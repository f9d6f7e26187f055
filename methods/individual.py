"""A network of its own for every task, fine-tuned from the base network (the paper's upper bound).

The statistics of batch norm stay the base network's, as in the authors' release, unless with
--train-bn.
"""
from typing import TYPE_CHECKING

from methods.method import Baseline, keep_statistics
from methods.steps import Phase

if TYPE_CHECKING:
    from runs.run import Run


class Individual(Baseline):
    name = "individual"
    title = "individual networks"
    one_network = False
    of_one_task = True

    def tested_on(self, tasks: list[str], task: str) -> list[str]:
        return [task]  # the networks of earlier tasks are what they were

    def set_training(self, run: "Run", phase: Phase) -> None:
        if not run.config.train_bn:
            keep_statistics(run)

    def measured(self, run: "Run", task: str) -> tuple[dict[str, float], dict[str, float]]:
        top1, top5 = super().measured(run, task)
        if run.has_base_data:  # its network is the base network itself
            top1[run.config.base_task] = run.results.stages[0].top1_dense
        return top1, top5
