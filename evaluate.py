"""What a finished run is good for, from its checkpoint alone.

    python evaluate.py --output-dir checkpoints/packnet [--task cubs]          # every task's accuracy again; needs the data
    python evaluate.py --task cubs --predict bird.jpg another.jpg              # the five likeliest classes of an image
    python evaluate.py --export cubs cubs.safetensors                          # one task's plain network, torchvision's names
"""
import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save_file

import toolchain
from images.folders import DataError
from images.preprocess import preparation, preprocess
from settings.archs import ARCHS, own, source_of
from settings.command_line import complain
from settings.config import Config, ConfigError
from storage.checkpoint import WeightsError
from storage.packed import Packed, load_packed, other_content
from system.files import CHECKPOINT, replacing

if TYPE_CHECKING:  # starts Jittor
    from pruning import PackNet


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--output-dir", default="checkpoints/packnet", help="folder of the run (default: %(default)s)")
    parser.add_argument("--task", help="only this task (default: all)")
    parser.add_argument("--predict", nargs="+", metavar="IMAGE", help="print the five likeliest classes of these images, for --task")
    parser.add_argument("--export", nargs=2, metavar=("TASK", "OUT"), help="write the network of one task as OUT.safetensors, for "
                        "use without this project")
    parser.add_argument("--arch", metavar="FILE:FUNCTION", help="of a run with a network of your own: where its file is now")
    parser.add_argument("--data-root", help="folder of the data sets (default: the run's)")
    parser.add_argument("--cache-dir", help="folder for decoded images (default: the run's, or <data root>/.cache)")
    parser.add_argument("--batch-size", type=int, help="images per step (default: the run's)")
    parser.add_argument("--device", default="auto", choices=toolchain.DEVICES)
    options = parser.parse_args(arguments)
    if options.predict and not options.task:
        return complain("--predict: --task must say which task's classes the images are to be told apart by")

    try:
        packed, metadata = load_packed(Path(options.output_dir) / CHECKPOINT)
        tasks = [task["name"] for task in metadata["tasks"]]
        for name in filter(None, (options.task, options.export and options.export[0])):
            if name not in tasks:
                raise WeightsError(f"{'--task' if name == options.task else '--export'} {name}: the checkpoint holds {', '.join(tasks)}")
        network = network_of(metadata, options.arch, Path(options.output_dir) / CHECKPOINT)
        toolchain.start(options.device, metadata["config"]["precision"], metadata["config"]["convolution"])
        packnet = unpack(packed, metadata, network, Path(options.output_dir) / CHECKPOINT)
        del packed  # Jittor has copied it
        if options.export:
            export(packnet, metadata, *options.export)
        elif options.predict:
            predict_images(packnet, metadata, options.task, options.predict)
        else:
            evaluate(packnet, metadata, options)
    except (ConfigError, DataError, WeightsError, toolchain.ToolchainError) as error:
        return complain(error)
    except OSError as error:
        return complain(f"{error.filename}: {error.strerror}" if error.strerror else error)
    return 0


def network_of(metadata: dict, arch: str | None, path: Path) -> dict:
    """What networks.build needs for the network of a packed file. The code of a network of the user's own is only ever that which
    `arch`, from the command line, names. Raises ConfigError and WeightsError."""
    size, source = metadata["image_size"], metadata.get("network")
    if not source:
        if metadata["arch"] not in ARCHS:
            raise other_content(path, ValueError(f"unknown network {metadata['arch']}"))
        if arch not in (None, metadata["arch"]):
            raise ConfigError(f"--arch {arch}: {path} holds a {metadata['arch']}, which needs no file")
        return dict(arch=metadata["arch"], image_size=size)
    if arch is None:
        raise ConfigError(f"{path}: its network is built by the function {source['function']} of a file {source['file']} (SHA-256 "
                          f"{source['sha256']}). Say where that is now: --arch path/to/{source['file']}:{source['function']}")
    if not own(arch):
        raise ConfigError(f"--arch {arch}: must be path/to/{source['file']}:{source['function']}")
    if source_of(arch)["sha256"] != source["sha256"]:
        print(f"warning: --arch {arch}: the file is not the one that the run was made with; if it builds another network whose parameters "
              "have the same shapes, the results are not those of the run.", file=sys.stderr)
    return dict(arch=arch, last=source["last"], image_size=size)


def unpack(packed: Packed, metadata: dict, network: dict, path: Path) -> "PackNet":
    """The PackNet of a packed file, ready to evaluate. Raises WeightsError."""
    from runs.network import rebuild
    try:
        heads = {task["name"]: task["num_classes"] for task in metadata["tasks"]}
        return rebuild(network, heads, packed, Config(**metadata["config"]).packnet_options(), path, list(heads))
    except (KeyError, TypeError, ValueError) as error:
        raise other_content(path, error) from error


def evaluate(packnet: "PackNet", metadata: dict, options: argparse.Namespace) -> None:
    """Print every task's accuracy on its test split beside the one the run recorded."""
    from dataset import create_dataloader
    from runs.results import Score
    config, tasks = metadata["config"], {task["name"]: task for task in metadata["tasks"]}
    print(f"{'task':14} {'top-1 %':>8} {'top-5 %':>8} {'recorded':>9}")
    for name in [options.task] if options.task else tasks:
        if tasks[name]["top1"] is None and options.task is None:
            print(f"{name:14} {'-':>8} {'-':>8} {'-':>9}  (no data in the run)")
            continue
        loader, _ = create_dataloader(name, options.data_root or config["data_root"], "test",
                                      options.batch_size or config["batch_size"], image_size=metadata["image_size"],
                                      cache_dir=options.cache_dir or (None if options.data_root else config["cache_dir"]))
        if tasks[name]["classes"] not in (None, loader.classes):
            raise DataError(f"{name}: the classes of the data are not those of the checkpoint "
                            f"({len(loader.classes)} against {len(tasks[name]['classes'])})")
        score = Score.of(*packnet.predict(name, loader))
        recorded = tasks[name]["top1"]
        print(f"{name:14} {score.top1:8.2f} {score.top5:8.2f} "
              + (f"{recorded:9.2f}" if recorded is not None else f"{'-':>9}"))


def predict_images(packnet: "PackNet", metadata: dict, task: str, paths: list[str]) -> None:
    """Print the five likeliest classes of each image with their probabilities, preprocessed as the task's test images."""
    from dataset import to_input
    classes = next(entry for entry in metadata["tasks"] if entry["name"] == task)["classes"]
    how = preparation(task, "test")
    images = np.stack([preprocess(path, how, metadata["image_size"]) for path in paths])
    logits, _ = packnet.predict(task, [(to_input(images, np.zeros(len(images), np.uint8)), np.zeros(len(images), np.int32))])
    for path, row in zip(paths, logits.astype(np.float64)):
        shares = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        print(path)
        for label in np.argsort(-row, kind="stable")[:5]:
            print(f"  {100 * shares[label]:6.2f} %  {classes[label] if classes else f'class {label}'}")


def export(packnet: "PackNet", metadata: dict, task: str, out: str) -> None:
    """Write the network of `task` as PyTorch's torchvision names it, ready for load_state_dict: its head as last layer, what
    is free or belongs to later tasks as 0."""
    from networks import in_torchvisions_names
    with packnet.task_view(task) as net:
        tensors = {name: np.ascontiguousarray(parameter.numpy()) for name, parameter in in_torchvisions_names(net, task).items()}
    tensors |= {name.replace("running_mean", "num_batches_tracked"): np.zeros((), np.int64)  # PyTorch's batch norm has it
                for name in list(tensors) if name.endswith("running_mean")}
    classes = next(entry for entry in metadata["tasks"] if entry["name"] == task)["classes"]
    with replacing(out) as temporary:
        temporary.touch()
        save_file(tensors, temporary, dict(arch=metadata["arch"], task=task, image_size=str(metadata["image_size"]),
                                           classes=json.dumps(classes)))
    print(f"Written: {out}, the network of {task} ({metadata['arch']}, {sum(array.nbytes for array in tensors.values()) / 1e6:.1f} MB)")


if __name__ == "__main__":
    sys.exit(main())
