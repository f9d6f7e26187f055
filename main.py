"""PackNet from the command line.

    python main.py --demo                 # draws its own data; under 3 minutes on two CPU cores
    python main.py                        # VGG-16 on CUBS, Cars, Flowers: the paper's schedule
    python main.py --resume               # goes on where that run stopped
    python main.py --experiment baselines # a named experiment of experiments.py
    python main.py --task-list my_birds --pruning-ratios 0.5 --data-root ~/images

`python main.py --help` lists every setting with its default (config.py). Bad input ends with exit code 2 and one
message, before anything is written.
"""
import argparse
import dataclasses
import sys
import typing

import toolchain
from config import Config, ConfigError
from experiments import EXPERIMENTS, runs

FLAGS = ("demo", "resume", "experiment", "seeds")  # of the command line, beside the settings
DEMO = dict(
    data_root="data/demo", output_dir="checkpoints/demo", task_list=["demo_birds", "demo_cars", "demo_flowers"],
    base_task="demo_base", arch="vgg-slim", image_size=48, num_epochs_base=15, base_lr=0.02,
    num_epochs_base_finetune=4, base_finetune_lr=5e-3, initial_lr=0.02, num_epochs_per_task=24, finetune_lr=5e-3,
    num_epochs_finetune=8, lr_decay_every=16, baselines=["finetune"])


def parse(arguments: list[str] | None = None) -> tuple[Config, dict, argparse.Namespace]:
    """(config, the settings that were given, the flags --demo and --resume). Exits with 2 on unknown options."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--demo", action="store_true", help="draw small data sets and pack them with a slim network; "
                        "other options still apply")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the output directory where it stopped, "
                        "with its settings; start it if there is none")
    parser.add_argument("--experiment", choices=EXPERIMENTS, metavar="NAME", help="carry out all runs of a named experiment "
                        f"(experiments.py), into checkpoints/NAME/ (or --output-dir/NAME/): {', '.join(EXPERIMENTS)}")
    parser.add_argument("--seeds", type=int, help="of an experiment: how many seeds (default: the experiment's)")
    for field in dataclasses.fields(Config):
        flag = "--" + field.name.replace("_", "-")
        default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
        text = field.metadata["text"].replace("%", "%%")
        if "(default" not in text:
            text += f" (default: {' '.join(default) if isinstance(default, list) else default})"
        if isinstance(default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=text, default=argparse.SUPPRESS)
        elif isinstance(default, list):
            kind = typing.get_args(field.type)[0]
            parser.add_argument(flag, nargs="*" if not default else "+", type=kind, help=text, default=argparse.SUPPRESS)
        else:
            kind = typing.get_args(field.type)[0] if typing.get_args(field.type) else field.type
            parser.add_argument(flag, type=kind, help=text, default=argparse.SUPPRESS)
    flags = parser.parse_args(arguments)
    given = {name: value for name, value in vars(flags).items() if name not in FLAGS}
    given = (DEMO if flags.demo else {}) | given
    return Config(**given), given, flags


def main(arguments: list[str] | None = None) -> int:
    config, given, flags = parse(arguments)
    if flags.seeds is not None and (flags.seeds < 1 or not flags.experiment):
        return complain(f"--seeds {flags.seeds}: must be at least 1, and counts the runs of an --experiment; one run's is --seed")
    if not flags.experiment:
        return run(config, given, flags.resume, flags.demo)
    named = {name: value for name, value in vars(flags).items() if name not in FLAGS}
    for name in {"seed", "task_list", "pruning_ratios", "arch"} & named.keys():
        return complain(f"--{name.replace('_', '-')}: --experiment {flags.experiment} sets this itself")
    parent = f"{named.pop('output_dir', 'checkpoints')}/{'demo-' if flags.demo else ''}{flags.experiment}"
    todo = runs(flags.experiment, DEMO if flags.demo else None, flags.seeds)
    for number, (label, settings) in enumerate(todo, start=1):
        settings = settings | named | dict(output_dir=f"{parent}/{label}")
        if not toolchain.RANK:
            print(f"==== {flags.experiment}: run {number} of {len(todo)}, {label} -> {parent}/{label}", flush=True)
        code = run(Config(**settings), settings, resume=True, demo=flags.demo)
        if code:
            return code
    if not toolchain.RANK:
        print("`python report.py` sets what has been run beside the published figures.")
    return 0


def run(config: Config, given: dict, resume: bool, demo: bool) -> int:
    """One run, or the rest of it. `given`: the settings that must agree with those of a run to go on with."""
    before = None
    try:
        config.check_values()
        if resume:
            config, before = config.resumed(given)
            if before and before["finished"]:
                print(f"The run in {config.output_dir} is finished; nothing is changed. Its results: {config.output_dir}/log.txt")
                return 0
        if toolchain.in_mpi():  # one process draws, and none writes before all have checked
            jt = toolchain.start(config.device, config.precision)
            if config.batch_size % jt.world_size:
                raise ConfigError(f"--batch-size {config.batch_size}: must be a multiple of the {jt.world_size} processes")
        if demo and not toolchain.LOCAL_RANK:
            from demo import draw
            draw(config.data_root)
        if toolchain.in_mpi():
            toolchain.wait_for_all()
        config.check_folders(resume)
        jt = toolchain.start(config.device, config.precision)
        toolchain.wait_for_all()
        if config.precision != "fp32" and toolchain.device == "cpu":
            raise ConfigError(f"--precision {config.precision}: needs a GPU, and none can be used: {toolchain.why}")
        if before and before["device"] != toolchain.device:
            raise ConfigError(f"--resume: the run in {config.output_dir} was on {before['device']}, this would go on on "
                              f"{toolchain.device}, and the result would be neither run")
        if before and before["processes"] != jt.world_size:
            raise ConfigError(f"--resume: the run in {config.output_dir} had {before['processes']} processes (mpirun -np), this "
                              f"would go on with {jt.world_size}, and the result would be neither run")
    except (ConfigError, RuntimeError) as error:
        return complain(error)
    from dataset import DataError
    from training import Run, TrainingError
    from weights import WeightsError
    try:
        Run(config).go()
    except (ConfigError, DataError, WeightsError) as error:
        return complain(error)
    except TrainingError as error:
        complain(error)
        return 1
    except OSError as error:
        complain(f"{error.filename or config.output_dir}: {error.strerror}" if error.strerror else error)
        print(f"What was saved before is kept; `python main.py --resume --output-dir {config.output_dir}` goes on from there.",
              file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nInterrupted. `python main.py --resume --output-dir {config.output_dir}` goes on after the last finished "
              "epoch.", file=sys.stderr)
        return 130
    return 0


def complain(error: Exception | str) -> int:
    """Say what is wrong with the input; the exit code for it."""
    print(f"error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    toolchain.leave(main())
