"""What a finished run is good for, from its checkpoint alone.

    python evaluate.py --output-dir DIR [--task cubs]             # every task's accuracy again
    python evaluate.py --task cubs --predict bird.jpg other.jpg   # the likeliest classes of images
    python evaluate.py --predict something.jpg                    # the task is found too
    python evaluate.py --task-agnostic                            # how often it is found
    python evaluate.py --portraits                                # makes what it is found by
    python evaluate.py --export cubs cubs.safetensors             # one task's network; .pth, .onnx
    python evaluate.py --seals [cubs.safetensors]                 # is each task what it was?
    python evaluate.py --import-release csf.pt --output-dir DIR   # a packed network of the authors
"""
import argparse
import dataclasses
import importlib.util
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from system import processes  # first: it says in one sentence which package is missing

# isort: split
import numpy as np

import toolchain
from images.datasets import dataset_folder
from images.folders import DataError, read_split, unsorted
from images.preprocess import Preparation, permute, preprocess
from packing.portrait import Portrait, auroc, readable, recognise
from packing.which_task import probabilities, surest
from reporting.published import of_the_release
from runs.addition import packed_file
from runs.folder import check_free
from runs.stage import precision_of
from settings.archs import ARCHS, own, source_of
from settings.config import Config, ConfigError
from storage.checkpoint import WeightsError, write_tensors, writing
from storage.packed import Packed, load_packed, other_content, save_packed
from storage.release import read_release
from storage.seals import of_portrait, recomputed
from storage.torch_file import write_torch_file
from system.errors import CommandLine, run_cli
from system.files import CHECKPOINT, STATE

if TYPE_CHECKING:  # starts Jittor
    from dataset import Loader
    from networks import MultiHead
    from pruning import PackNet
    from runs.recognition import Images


EXPORTS = (".safetensors", ".pth", ".onnx")
# What is asked for; without any of them, to measure every task.
WHAT = ("predict", "task_agnostic", "portraits", "export", "seals", "import_release")


@run_cli
def main(arguments: list[str] | None = None) -> int:
    options = command_line().parse_args(arguments)
    check(options)
    return carry_out(options)


def command_line() -> CommandLine:
    parser = CommandLine(__doc__.split("\n")[0])
    add = parser.add_argument
    add("--output-dir", default="checkpoints/packnet",
        help="folder of the run (default: %(default)s)")
    add("--task", help="only this task (default: all)")
    add("--predict", nargs="+", metavar="IMAGE",
        help="print the five likeliest classes of these images, for --task; without --task, the "
             "task that each looks most like and its class there, or that it is none of them")
    add("--task-agnostic", nargs="*", metavar="OTHER",
        help="how often the right task is found on the test splits, and the accuracy then, beside "
             "that with the task known; how well the images of OTHER data sets are told to be none "
             "of the tasks'")
    add("--portraits", action="store_true",
        help="make what a task's images are recognised by, for tasks whose file has none and whose "
             "training images are there, and put it into the file")
    add("--export", nargs=2, metavar=("TASK", "FILE"),
        help="write the network of one task into FILE, for use without this project: .safetensors "
             "or .pth with torchvision's names (PyTorch loads both), .onnx with its graph")
    add("--arch", metavar="FILE:FUNCTION",
        help="of a run with a network of your own: where its file is now")
    add("--seals", nargs="?", const="", metavar="FILE",
        help="recompute the seal of every task of the run, or of a packed or exported FILE, and "
             "compare; needs neither data nor Jittor")
    add("--import-release", metavar="FILE",
        help="write a packed network of the authors' release (.pt) into the folder; nothing in the "
             "file is executed")
    add("--data-root", help="folder of the data sets (default: the run's)")
    add("--cache-dir",
        help="folder for decoded images (default: the run's, or <data root>/.cache)")
    add("--batch-size", type=int, help="images per step (default: the run's)")
    add("--device", default="auto", choices=toolchain.DEVICES)
    add("--precision", choices=toolchain.PRECISIONS,
        help="how exactly is multiplied (default: as in the run, where this machine can, else "
             "fp32)")
    return parser


def check(options: argparse.Namespace) -> None:
    """Raise ConfigError for flags that cannot be used, or not together."""
    asked = [f"--{name.replace('_', '-')}" for name in WHAT
             if getattr(options, name) not in (None, False)]
    if len(asked) > 1:
        raise ConfigError(f"{' and '.join(asked)}: one at a time")
    if options.task and asked not in ([], ["--predict"]):
        raise ConfigError(f"--task {options.task}: goes with --predict or alone, "
                          f"not with {asked[0]}")
    if options.batch_size is not None and options.batch_size < 1:
        raise ConfigError(f"--batch-size {options.batch_size}: must be at least 1")


def carry_out(options: argparse.Namespace) -> int:
    """Do what is asked for; the exit code. Raises ConfigError, DataError, WeightsError,
    ToolchainError and OSError."""
    path = Path(options.output_dir) / CHECKPOINT
    if options.seals is not None:
        return compare_seals(packed_file(options.seals) if options.seals else path)
    if options.import_release:
        import_release(options)
        return 0
    if not path.exists():
        raise ConfigError(f"--output-dir {options.output_dir}: holds no {CHECKPOINT}, which a run "
                          f"writes there. {others()}")
    packed, metadata = load_packed(path)
    check_task("--task", options.task, packed)
    if options.export:
        check_task("--export", options.export[0], packed)
        check_export(*options.export)
    network = network_of(metadata, options.arch, path)
    config = metadata["config"]
    start_jittor(options, metadata)
    packnet = unpack(packed, metadata, network, path)
    portraits = readable(packed.portraits)
    if options.portraits:
        make_portraits(packnet, packed, metadata, options)
        return 0
    del packed  # Jittor has copied it
    batch_size = options.batch_size or config["batch_size"]
    if options.export:
        export(packnet, metadata, *options.export)
    elif options.predict and options.task:
        predict_images(packnet, metadata, options.task, options.predict, batch_size)
    elif options.predict:
        predict_with_task(packnet, metadata, portraits, options, batch_size)
    elif options.task_agnostic is not None:
        find_tasks(packnet, metadata, portraits, options)
    else:
        evaluate(packnet, metadata, options)
    return 0


def start_jittor(options: argparse.Namespace, metadata: dict) -> None:
    """Start Jittor in the precision that was asked for, else in the run's if this machine has it;
    and say of which tasks that is not the one in which they were measured. Raises
    ToolchainError."""
    config = metadata["config"]
    try:
        toolchain.start(options.device, options.precision or config["precision"],
                        config["convolution"])
    except toolchain.PrecisionError:
        if options.precision:
            raise
        toolchain.start(options.device, convolutions=config["convolution"])
    measured: dict[str, list[str]] = {}
    for task in metadata["tasks"]:
        measured.setdefault(precision_of(task), []).append(task["name"])
    measured.pop(toolchain.precision, None)
    for precision, tasks in measured.items() if not options.export else ():
        print(f"note: {', '.join(tasks)}: trained and measured in {precision}, here computed in "
              f"{toolchain.precision}, which gives other last digits", file=sys.stderr)


def others() -> str:
    """Where there are packed networks, in a sentence."""
    folders = sorted(str(path.parent) for path in Path("checkpoints").glob(f"**/{CHECKPOINT}"))
    more = ", ..." if len(folders) > 3 else ""
    return (f"There is one in {', '.join(folders[:3])}{more}." if folders else
            "`python main.py --demo` makes one in checkpoints/demo.")


def check_task(flag: str, task: str | None, packed: Packed) -> None:
    if task and task not in packed.tasks:
        raise WeightsError(f"{flag} {task}: the checkpoint holds {', '.join(packed.tasks)}")


def compare_seals(path: str | Path) -> int:
    """Print whether each task's seal is the stored one; 1 if one is not."""
    rows = recomputed(path)
    for task, stored, now in rows:
        print(f"{task:14} {stored}  {'unchanged' if now == stored else f'BROKEN: is {now}'}")
    broken = [task for task, stored, now in rows if now != stored]
    result = "seals unchanged"
    if broken:
        result = f"{len(broken)} not what they were: {', '.join(broken)}"
    print(f"{counted(rows)}: {result}")
    return 1 if broken else 0


def counted(tasks: list) -> str:
    return f"{len(tasks)} task{'' if len(tasks) == 1 else 's'}"


def import_release(options: argparse.Namespace) -> None:
    """Write the packed network of the authors' release into the output folder, and print what is
    in it. Raises ConfigError, DataError, WeightsError and OSError."""
    config = Config(output_dir=options.output_dir)
    config.data_root = options.data_root or config.data_root
    check_free(config)
    release = read_release(options.import_release)
    toolchain.start(options.device)
    from runs.imported import write_imported
    entries = write_imported(release, Path(options.import_release), config)
    biases = ", each with biases of its own" if release.own_biases else ""
    print(f"{options.import_release}: {release.arch}, {counted(entries)}{biases}")
    for entry in entries:
        names = "their names from the data" if entry["classes"] else "without names"
        print(f"  {entry['name']:14} pruned by {100 * entry['pruning_ratio']:g} %, "
              f"{entry['num_classes']} classes, {names}")
    for remark in release.remarks:
        print(f"warning: {options.import_release}: {remark}", file=sys.stderr)
    folder = options.output_dir
    print(f"Written: {Path(folder) / CHECKPOINT}. `python evaluate.py --output-dir {folder}` "
          f"measures it; `python main.py --add-to {folder} --task-list my_birds --output-dir DIR` "
          "goes on with it. It knows no task by its images: `--portraits` adds that where a task's "
          "data are.")


def network_of(metadata: dict, arch: str | None, path: Path) -> dict:
    """What networks.build needs for the network of a packed file. The code of a network of the
    user's own is only ever that which `arch`, from the command line, names. Raises ConfigError and
    WeightsError."""
    size = metadata["image_size"]
    source = metadata.get("network")
    if not source:
        if metadata["arch"] not in ARCHS:
            raise other_content(path, ValueError(f"unknown network {metadata['arch']}"))
        if arch not in (None, metadata["arch"]):
            raise ConfigError(
                f"--arch {arch}: {path} holds a {metadata['arch']}, which needs no file")
        return dict(arch=metadata["arch"], image_size=size)
    if arch is None:
        raise ConfigError(
            f"{path}: its network is built by the function {source['function']} of a file "
            f"{source['file']} (SHA-256 {source['sha256']}). Say where that is now: "
            f"--arch path/to/{source['file']}:{source['function']}")
    if not own(arch):
        raise ConfigError(
            f"--arch {arch}: must be path/to/{source['file']}:{source['function']}")
    if source_of(arch)["sha256"] != source["sha256"]:
        print(f"warning: --arch {arch}: the file is not the one that the run was made with; if it "
              "builds another network whose parameters have the same shapes, the results are not "
              "those of the run.", file=sys.stderr)
    return dict(arch=arch, last=source["last"], image_size=size)


def unpack(packed: Packed, metadata: dict, network: dict, path: Path) -> "PackNet":
    """The PackNet of a packed file, ready to evaluate. Raises WeightsError."""
    from runs.network import rebuild
    try:
        return rebuild(packed, dataclasses.replace(Config(**metadata["config"]), **network))
    except (KeyError, TypeError, ValueError) as error:
        raise other_content(path, error) from error


def evaluate(packnet: "PackNet", metadata: dict, options: argparse.Namespace) -> None:
    """Print every task's accuracy on its test split beside the one the run recorded; of an
    imported network, its error beside the one that the authors have published too."""
    from runs.results import Score
    tasks = {task["name"]: task for task in metadata["tasks"]}
    published = of_the_release(metadata["arch"]) if "imported" in metadata else None
    beside = f"{'error %':>9} {'published':>10}" if published else ""
    print(f"{'task':14} {'top-1 %':>8} {'top-5 %':>8} {'recorded':>9}{beside}")
    for name in [options.task] if options.task else tasks:
        recorded = f"{'-':>9}"
        if tasks[name]["top1"] is not None:
            recorded = f"{tasks[name]['top1']:9.2f}"
        if not options.task and not there(tasks[name], metadata, options):
            print(f"{name:14} {'-':>8} {'-':>8} {recorded}  (no data)")
            continue
        score = Score.of(*packnet.predict(name, test_loader(tasks[name], metadata, options)))
        beside = f"{100 - score.top1:9.2f} {published.get(name, '-'):>10}" if published else ""
        top5 = f"{score.top5:8.2f}" if score.top5_tells else f"{'-':>8}"
        print(f"{name:14} {score.top1:8.2f} {top5} {recorded}{beside}")


def there(entry: dict, metadata: dict, options: argparse.Namespace) -> bool:
    """Whether there are data to test a task on. Raises DataError where there are none for any."""
    root = options.data_root or metadata["config"]["data_root"]
    names = [other["name"] for other in metadata["tasks"]]
    found = [name for name in names if dataset_folder(name, root).is_dir()]
    if not found:
        raise DataError(f"--data-root {root}: holds none of the tasks {', '.join(names)}")
    return entry["name"] in found and not unsorted(entry["name"], root, "test")


def test_loader(entry: dict, metadata: dict, options: argparse.Namespace,
                like: dict | None = None, split: str = "test") -> "Loader":
    """The test split, or another, of the task `entry`, prepared as the task `like` prepares its own
    (default: `entry`). Raises DataError."""
    name = entry["name"]
    loader = open_loader(name, metadata, options, like or entry, split)
    same_names = entry["classes"] in (None, loader.classes)
    if not same_names or entry["num_classes"] != len(loader.classes):
        raise DataError(f"{name}: the classes of the data are not those of the checkpoint "
                        f"({len(loader.classes)} against {entry['num_classes']})")
    return loader


def open_loader(name: str, metadata: dict, options: argparse.Namespace, like: dict,
                split: str = "test") -> "Loader":
    """A split of any data set, prepared as the task `like` prepares its own. Raises DataError."""
    from dataset import create_dataloader
    config = metadata["config"]
    cache_dir = options.cache_dir
    if cache_dir is None and not options.data_root:
        cache_dir = config["cache_dir"]
    loader, _ = create_dataloader(name, options.data_root or config["data_root"], split,
                                  options.batch_size or config["batch_size"],
                                  seed=config["seed"], validation=config["validation"],
                                  image_size=metadata["image_size"],
                                  preparation=Preparation.from_plain(like["input"]),
                                  cache_dir=cache_dir)
    return loader


def logits_of(packnet: "PackNet", entry: dict, paths: list[str], batch_size: int) -> np.ndarray:
    """float32 [images, classes] of a task."""
    return packnet.predict(entry["name"], batches(entry, paths, batch_size))[0]


def batches(entry: dict, paths: list[str], batch_size: int) -> Iterator[tuple]:
    """(input, labels that say nothing) of images, preprocessed as the task's test images are,
    `batch_size` of them at a time."""
    from dataset import affine, to_input
    preparation = Preparation.from_plain(entry["input"])
    for start in range(0, len(paths), batch_size):
        planes = [preprocess(path, preparation) for path in paths[start:start + batch_size]]
        images = permute(np.stack(planes), preparation)
        flips, labels = np.zeros(len(images), np.uint8), np.zeros(len(images), np.int32)
        yield to_input(images, flips, affine(preparation)), labels


def class_name(entry: dict, label: int) -> str:
    return entry["classes"][label] if entry["classes"] else f"class {label}"


def predict_images(packnet: "PackNet", metadata: dict, task: str, paths: list[str],
                   batch_size: int) -> None:
    """Print the five likeliest classes of each image with their probabilities."""
    entry = next(entry for entry in metadata["tasks"] if entry["name"] == task)
    logits = logits_of(packnet, entry, paths, batch_size)
    for path, row, shares in zip(paths, logits, probabilities(logits)):
        print(path)
        for label in np.argsort(-row, kind="stable")[:5]:
            print(f"  {100 * shares[label]:6.2f} %  {class_name(entry, label)}")


def whose(packnet: "PackNet", portraits: dict[str, Portrait], tasks: list[str], images: "Images",
          title: str) -> tuple[np.ndarray, np.ndarray]:
    """(number of the task that each image is taken for, of those that have a portrait, int [N]; how
    far it is beyond what that task knows, float64 [N], above 0 where it is none of the tasks').
    Where there is no portrait, the task of `tasks` whose view is surest, and never none.
    `images(task)`: prepared as the task prepares its own."""
    if portraits:
        from runs.recognition import seen
        look, _ = seen(packnet, images, title)
        return recognise(list(portraits.values()), look)
    task = surest([packnet.predict(task, images(task), f"{title}, {task}")[0] for task in tasks])
    return task, np.full(len(task), -np.inf)


def tell_who_has_none(portraits: dict[str, Portrait], entries: dict[str, dict],
                      folder: str) -> None:
    """Say which tasks have no portrait, and what comes of it."""
    without = [task for task in entries if task not in portraits]
    if not without:
        return
    if others := [task for task in without if entries[task].get("portrait")]:
        print(f"The portraits of {', '.join(others)} are of another version of this project, which "
              "looks at other things: they are as good as none.", file=sys.stderr)
    way = (f"`python evaluate.py --output-dir {folder} --portraits` makes one where a task's "
           "training images are.")
    if portraits:
        print(f"No portrait: {', '.join(without)}; whose images are not recognised. {way}",
              file=sys.stderr)
    else:
        print("No task has a portrait: the one whose view is surest is taken (the lowest "
              f"entropy), and never none of them. {way}", file=sys.stderr)


def predict_with_task(packnet: "PackNet", metadata: dict, portraits: dict[str, Portrait],
                      options: argparse.Namespace, batch_size: int) -> None:
    """Print for each image the task that it looks most like, its likeliest class there, and that
    class's probability; or that it is none of the tasks'."""
    entries = {entry["name"]: entry for entry in metadata["tasks"]}
    paths = options.predict
    tell_who_has_none(portraits, entries, options.output_dir)
    tasks, beyond = whose(packnet, portraits, list(entries),
                          lambda like: batches(entries[like], paths, batch_size), "images")
    lines = {}
    for number, name in enumerate(portraits or entries):
        rows = np.flatnonzero(tasks == number)
        if not len(rows):
            continue
        logits = logits_of(packnet, entries[name], [paths[row] for row in rows], batch_size)
        for row, of_image, shares in zip(rows, logits, probabilities(logits)):
            label = int(of_image.argmax())
            answer = f"{name}, {class_name(entries[name], label)}, {100 * shares[label]:.2f} %"
            none = beyond[row] > 0
            lines[row] = f"none of the tasks (nearest: {answer})" if none else answer
    for row, path in enumerate(paths):
        print(f"{path}: {lines[row]}")


def find_tasks(packnet: "PackNet", metadata: dict, portraits: dict[str, Portrait],
               options: argparse.Namespace) -> None:
    """Print how often the right task is found on each test split, and the top-1 accuracy then,
    beside that with the task known; and how many of the images are said to be none of the tasks'.
    """
    entries = {entry["name"]: entry for entry in metadata["tasks"]}
    root = options.data_root or metadata["config"]["data_root"]
    for other in options.task_agnostic:
        read_split(other, root, "test")  # what is wrong with it is said before anything is computed
    tell_who_has_none(portraits, entries, options.output_dir)
    asked = list(portraits or entries)
    refused = f" {'none of them':>13}" if portraits else ""
    print(f"{'task':14} {'task found %':>13} {'top-1 %':>8} {'task known':>11}{refused}")
    rows, known = [], []
    for name, entry in entries.items():
        if name not in asked or not there(entry, metadata, options):
            why = "no data" if name in asked else "no portrait"
            print(f"{name:14} {'-':>13} {'-':>8} {'-':>11}  ({why})")
            continue
        task, beyond = whose(packnet, portraits, asked, partial(like_another, entry, entries,
                                                                metadata, options), name)
        logits, labels = packnet.predict(name, test_loader(entry, metadata, options))
        found = task == asked.index(name)
        right = logits.argmax(1) == labels
        shares = [found, found & right, right]
        if portraits:
            shares.append(beyond > 0)
        rows.append([100 * float(share.mean()) for share in shares])
        known.append(beyond)
        print(shown(name, rows[-1]))
    print(shown("mean", np.mean(rows, axis=0)))
    for other in options.task_agnostic:
        _, beyond = whose(packnet, portraits, asked, lambda like: open_loader(
            other, metadata, options, entries[like]), other)
        print(f"{other}: {100 * float((beyond > 0).mean()):.2f} % said to be none of them, "
              f"AUROC {auroc(np.concatenate(known), beyond):.3f}")


def like_another(entry: dict, entries: dict[str, dict], metadata: dict,
                 options: argparse.Namespace, like: str) -> "Loader":
    """The test images of a task, prepared as the task `like` prepares its own."""
    return test_loader(entry, metadata, options, entries[like])


def shown(name: str, cells: list[float]) -> str:
    widths = (13, 8, 11, 13)
    return f"{name:14} " + " ".join(f"{cell:{width}.2f}" for cell, width in zip(cells, widths))


def make_portraits(packnet: "PackNet", packed: Packed, metadata: dict,
                   options: argparse.Namespace) -> None:
    """Put the portraits that are missing or of another version, of tasks whose training images are
    there, into the packed file; everything else in it stays. Raises ConfigError, DataError and
    OSError."""
    from runs.recognition import seen
    folder = Path(options.output_dir)
    if (folder / STATE).exists():
        raise ConfigError(f"--portraits: the run in {folder} was stopped before its end. Finish "
                          f"it first: `python main.py --resume --output-dir {folder}`")
    entries = {entry["name"]: entry for entry in metadata["tasks"]}
    there_are, made = readable(packed.portraits), 0
    for name, entry in entries.items():
        if name in there_are:
            print(f"{name:14} has a portrait")
        elif not there(entry, metadata, options):
            print(f"{name:14} no data, no portrait")
        else:
            look = seen(packnet, lambda like: test_loader(
                entry, metadata, options, entries[like], "portrait"), name)
            packed.portraits[name] = Portrait.of(*look).arrays()
            entry["portrait"] = of_portrait(packed, name)
            size = sum(array.nbytes for array in packed.portraits[name].values())
            print(f"{name:14} portrait made, {size / 1000:.1f} kB")
            made += 1
    if made:
        save_packed(folder / CHECKPOINT, packed, metadata)
        print(f"Written: {folder / CHECKPOINT}, everything else as it was")


def check_export(task: str, out: str) -> None:
    """Raise ConfigError for a file that --export cannot write, before anything is computed."""
    where = f"--export {task} {out}"
    ending = Path(out).suffix
    if Path(out).exists():
        raise ConfigError(f"{where}: the file is there already, and never overwritten. "
                          "Choose another, or move this one away.")
    if ending not in EXPORTS:
        raise ConfigError(f"{where}: the name must end in one of {', '.join(EXPORTS)}, "
                          "which says the format")
    if ending == ".onnx" and importlib.util.find_spec("onnx") is None:
        raise ConfigError(f"{where}: the package onnx writes this format, and is not installed: "
                          "pip install onnx")


def export(packnet: "PackNet", metadata: dict, task: str, out: str) -> None:
    """Write the network of `task`: its head as last layer, what is free or belongs to later tasks
    as 0. The ending of `out`, one of EXPORTS, says the format. Raises ConfigError where there is
    none for this network, OSError."""
    entry = next(entry for entry in metadata["tasks"] if entry["name"] == task)
    about = dict(arch=metadata["arch"], task=task, image_size=str(metadata["image_size"]),
                 classes=json.dumps(entry["classes"]), input=json.dumps(entry["input"]),
                 seal=entry["seal"])
    with packnet.task_view(task) as net:
        if Path(out).suffix == ".onnx":
            export_graph(net, task, about, out)
        else:
            export_tensors(net, task, about, out)
    size = Path(out).stat().st_size / 1e6
    print(f"Written: {out}, the network of {task} ({metadata['arch']}, {size:.1f} MB)")


def export_graph(net: "MultiHead", task: str, about: dict[str, str], out: str) -> None:
    """As an ONNX model."""
    from networks import in_torchvisions_names
    from trunks.onnx_graph import onnx_model
    names = {id(parameter): name for name, parameter in in_torchvisions_names(net, task).items()}
    content = onnx_model(net, names, int(about["image_size"]), about)
    with writing(out, len(content)) as temporary:
        temporary.write_bytes(content)


def export_tensors(net: "MultiHead", task: str, about: dict[str, str], out: str) -> None:
    """As PyTorch's torchvision names them, ready for load_state_dict."""
    from networks import in_torchvisions_names
    tensors = {name: parameter.numpy()
               for name, parameter in in_torchvisions_names(net, task).items()}
    for name in list(tensors):
        if name.endswith("running_mean"):  # PyTorch's batch norm counts its batches too
            tensors[name.replace("running_mean", "num_batches_tracked")] = np.zeros((), np.int64)
    if Path(out).suffix == ".pth":
        write_torch_file(out, tensors)
    else:
        renamed = json.dumps(next(iter(getattr(net.shape, "renamed", ())), ["", ""]))
        write_tensors(out, tensors, about | dict(head=net.exported_head, renamed=renamed))


if __name__ == "__main__":
    processes.leave(main())
