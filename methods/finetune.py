"""One network fine-tuned on the tasks one after another: the lower bound, which forgets."""
from methods.method import Baseline


class Finetune(Baseline):
    name = "finetune"
    title = "sequential fine-tuning"
