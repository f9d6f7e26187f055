"""What the page reads of a results.json, and whether a file has it all."""
from types import NoneType

NUMBER = (int, float)
MAYBE = (int, float, NoneType)  # None: not measured
STAGE = dict(name=str, num_classes=int, top1_by_stage=[MAYBE], top5_by_stage=[MAYBE],
             owned_fraction=NUMBER, pruning_ratio=NUMBER)
STAGE |= dict.fromkeys(("top1_final", "top5_final", "top1_before_prune", "top1_after_prune",
                        "top1_after_finetune", "top1_best_epoch", "still_zero",
                        "max_logit_change"), MAYBE)
CONFIG = dict(seed=int, keep=str, validation=NUMBER, initial_pruning_ratio=(*NUMBER, str),
              task_list=[str], pretrained=(str, NoneType))
STORAGE = dict.fromkeys(("packed_file", "owner_maps", "separate_networks"), NUMBER)
RESULTS = dict(finished=bool, arch=str, toolchain=str, seconds=NUMBER,
               base_retrained=(bool, NoneType), seals_unchanged=[str],
               config=CONFIG, storage=STORAGE, base=STAGE, tasks=[STAGE],
               baselines=dict, continual=dict)
OF_METHOD = dict(
    baselines=dict(tasks=[str], top1_by_stage=[[MAYBE]], top5_by_stage=[[MAYBE]]),
    continual=dict.fromkeys(("average_accuracy", "backward_transfer", "gap_to_individual"), MAYBE))


def missing(results) -> str:
    """What a results.json lacks, or has in another form: "tasks[1].top1_final"; "" where it is
    whole. An unfinished one need not be."""
    if isinstance(results, dict) and results.get("finished") is False:
        return ""
    found = lacks(results, RESULTS, "")
    for key, shape in OF_METHOD.items():
        for method in () if found else results[key]:
            found = found or lacks(results[key][method], shape, f".{key}.{method}")
    return found and (found.removeprefix(".") or "all of it")


def lacks(value, shape, place: str) -> str:
    """The place of what is not as `shape` says, "" where all is. A shape is a type or several, a
    list of one shape, or a shape for each key."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return place or "."
        parts = [(value.get(key, KeyError), part, f"{place}.{key}") for key, part in shape.items()]
    elif isinstance(shape, list):
        if not isinstance(value, list):
            return place
        parts = [(item, shape[0], f"{place}[{number}]") for number, item in enumerate(value)]
    else:
        return "" if isinstance(value, shape) else place
    return next(filter(None, (lacks(*part) for part in parts)), "")
