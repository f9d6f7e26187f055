"""A packed network of the authors' release (storage/release.py) as a packed file of ours."""

import dataclasses
from pathlib import Path

from images.folders import read_split
from images.preprocess import preparation_of
from runs.network import rebuild
from runs.stage import Stage
from settings.config import Config
from storage import seals
from storage.checkpoint import WeightsError
from storage.packed import save_packed
from storage.release import Release
from system.files import CHECKPOINT


def write_imported(release: Release, source: Path, config: Config) -> list[dict]:
    """Write the release's network into config.output_dir, sealed, and return the metadata of its
    tasks. A task's classes are those of its folder in the data root, where there is one: the
    release has numbered them in the order of their names, as we do. Raises WeightsError where the
    network does not fit its architecture or the data, DataError, OSError."""
    base, *added = release.tasks
    ratios = release.ratios()
    config = dataclasses.replace(
        config,
        arch=release.arch,
        train_biases=release.own_biases,
        base_task=base,
        task_list=added,
        initial_pruning_ratio=ratios[base],
        pruning_ratios=[ratios[task] for task in added],
    )
    entries = [entry(release, config, task, ratios[task]) for task in release.tasks]
    for number, about in enumerate(entries):
        about["seal"] = seals.of_task(release.packed, entries, number)
    try:
        rebuild(release.packed, config)
    except ValueError as error:
        raise WeightsError(f"{source}: {error}") from error
    metadata = dict(
        arch=config.arch,
        image_size=config.image_size,
        tasks=entries,
        imported=source.name,
        config=config.of_packed_network(),
    )
    save_packed(Path(config.output_dir) / CHECKPOINT, release.packed, metadata)
    return entries


def entry(release: Release, config: Config, task: str, ratio: float) -> dict:
    """The metadata of a task but for its seal; what the file does not say is None."""
    classes = None
    if config.can_read(task, "test"):
        classes = read_split(task, config.data_root, "test").classes
        if len(classes) != release.tasks[task]:
            raise WeightsError(
                f"{config.folder(task)}: has {len(classes)} classes, the network "
                f"{release.tasks[task]}: they must be the same. Choose another folder with "
                "--data-root, or move this one away."
            )
    stage = Stage(task, release.tasks[task], pruning_ratio=ratio)
    if task == [*release.tasks][-1]:
        stage.top1_final = release.top1
        stage.top5_final = release.top5
    return stage.entry(classes, preparation_of(task, config.image_size).plain())
