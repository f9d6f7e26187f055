"""PackNet from the command line.

    python main.py --demo                 # draws its own data; minutes on two CPU cores
    python main.py                        # VGG-16 on CUBS, Cars, Flowers: the paper's schedule
    python main.py --resume               # goes on where that run stopped
    python main.py --experiments          # the named experiments, a line each
    python main.py --experiment baselines # one of them
    python main.py --arch my_net.py:build --dry-run   # what becomes of each parameter of a network
    python main.py --task-list my_birds --pruning-ratios 0.5 --data-root ~/images
    python main.py --add-to checkpoints/packnet --task-list my_birds --output-dir checkpoints/birds

`python main.py --help` lists every setting with its default (settings/config.py). Bad input ends
with exit code 2 and one message, before anything is written. What a run does: training.py.
"""
import argparse
import shlex
import sys
from dataclasses import fields
from pathlib import Path

import toolchain
from runs.addition import Earlier, completed, opened
from runs.folder import check_folders, check_source, resumed
from settings.archs import own, source_of
from settings.command_line import add_settings
from settings.config import Config, ConfigError, flag_of
from settings.effort import hours, load_rates, rounded
from settings.experiments import DEMO, EXPERIMENTS, listed, runs_of
from system import processes
from system.errors import CommandLine, UserError, complain, reason, run_cli
from system.files import LOG, RESULTS, STATE
from system.screen import screen_may_go

# Settings in which the runs of an experiment differ.
SET_BY_EXPERIMENT = ("seed", "task_list", "pruning_ratios", "arch", "add_to", "prune_last")


def parse(arguments: list[str] | None = None) -> tuple[argparse.Namespace, dict]:
    """(the flags, the settings that were given). Exits with 2 on unknown options."""
    parser = CommandLine(__doc__.split("\n")[0])
    parser.add_argument(
        "--demo", action="store_true",
        help="draw small data sets and pack them with a slim network; other options still apply")
    parser.add_argument(
        "--resume", action="store_true",
        help="go on with the run in the output directory where it stopped, with its settings; "
             "where there is none, start it with the settings that are given")
    parser.add_argument(
        "--experiment", choices=EXPERIMENTS, metavar="NAME",
        help="carry out all runs of a named experiment (settings/experiments.py), into "
             f"checkpoints/NAME/ (or --output-dir/NAME/): {', '.join(EXPERIMENTS)}")
    parser.add_argument(
        "--experiments", action="store_true",
        help="only print the named experiments: name, number of runs, what it is")
    parser.add_argument(
        "--seeds", type=int,
        help="of an experiment: how many seeds (default: the experiment's)")
    parser.add_argument(
        "--dry-run", action="store_true",
        help="only print what becomes of each parameter of the network; needs no data, trains and "
             "writes nothing")
    add_settings(parser)
    flags = parser.parse_args(arguments)
    settings = {field.name for field in fields(Config)}
    return flags, {name: value for name, value in vars(flags).items() if name in settings}


@run_cli
def main(arguments: list[str] | None = None) -> int:
    flags, given = parse(arguments)
    if flags.experiments:
        print(listed())
        return 0
    check_flags(flags, given)
    if flags.dry_run:
        return describe((DEMO if flags.demo else {}) | given)
    with screen_may_go():
        if flags.experiment:
            return run_experiment(flags, given)
        code = run((DEMO if flags.demo else {}) | given, flags.resume, flags.demo)
        if flags.demo and not code and not processes.RANK:
            print_way_on(given)
        return code


def check_flags(flags: argparse.Namespace, given: dict) -> None:
    """Raise ConfigError for flags that do not go together."""
    if flags.seeds is not None and (flags.seeds < 1 or not flags.experiment):
        raise ConfigError(f"--seeds {flags.seeds}: must be at least 1, and counts the runs of an "
                          "--experiment; one run's is --seed")
    if flags.demo and "add_to" in given:
        raise ConfigError("--add-to: everything but the new task's settings comes from the packed "
                          "network; leave --demo out")
    if flags.dry_run and flags.experiment:
        raise ConfigError("--dry-run: is for one network; an --experiment has several. Name one "
                          "with --arch.")
    if flags.dry_run and flags.resume:
        raise ConfigError("--dry-run: is for a network that is named, not for a run to go on with; "
                          "leave --resume out")
    own_settings = [flag_of(name) for name in given if name in SET_BY_EXPERIMENT]
    if flags.experiment and own_settings:
        raise ConfigError(f"{', '.join(own_settings)}: --experiment {flags.experiment} sets this "
                          "itself")


def print_way_on(given: dict) -> None:
    """After the demo: the command that adds a folder of the user's own to its network."""
    root, output = (given.get(name, DEMO[name]) for name in ("data_root", "output_dir"))
    print(f"To add a folder of your own, {root}/my_birds/{{train,test}}/<class>/*.jpg, to this "
          f"network:\npython main.py --add-to {output} --task-list my_birds "
          f"--output-dir {Path(output).parent}/with_birds")


def run_experiment(flags: argparse.Namespace, given: dict) -> int:
    """All runs of an experiment, one after another. Returns the exit code of the last."""
    name = flags.experiment
    parent = f"{given.pop('output_dir', 'checkpoints')}/{'demo-' if flags.demo else ''}{name}"
    todo = [(label, settings | given | dict(output_dir=f"{parent}/{label}"))
            for label, settings in runs_of(name, flags.demo, flags.seeds)]
    for _, settings in todo:
        Config(**settings).check_values()
    if not flags.demo and not processes.RANK:
        print_hours(name, flags.seeds, given)
    drawn = flags.demo or EXPERIMENTS[name].drawn
    for number, (label, settings) in enumerate(todo, start=1):
        if not processes.RANK:
            print(f"==== {name}: run {number} of {len(todo)}, {label} -> {parent}/{label}",
                  flush=True)
        code = run(settings, resume=True, demo=drawn)
        if code:
            return code
    if not processes.RANK:
        print("`python report.py` sets what has been run beside the published figures.")
    return 0


def print_hours(experiment: str, seeds: int | None, given: dict) -> None:
    """How long an experiment will take, where that is known for this machine."""
    rates = load_rates()
    estimate = rates and hours(experiment, rates, seeds, **given)
    if estimate:
        print(f"==== {experiment}: about {rounded(estimate)} h in all, from what "
              "`python report.py --measure` has timed here")


def run(given: dict, resume: bool, demo: bool) -> int:
    """One run with these settings, or the rest of it. Returns the exit code. Raises UserError and
    OSError."""
    config = Config(**given)
    before = None
    if resume:
        config, before = resumed(config, given)
    if config.add_to and not before:
        config = Config(**completed(given))
    config.check_values()
    if processes.in_mpi():
        agree(config, before)
    if before and before["finished"]:
        if not processes.RANK:
            # A state that is still there: the run was killed just before it removed it.
            (Path(config.output_dir) / STATE).unlink(missing_ok=True)
            print(f"The run in {config.output_dir} is finished; nothing is changed. "
                  f"Its results: {config.output_dir}/log.txt")
        return 0
    prepare(config, resume, demo)
    earlier = None
    if config.add_to and not (Path(config.output_dir) / STATE).exists():
        earlier = opened(config)
    start_jittor(config, before)
    return run_to_its_end(config, earlier)


def describe(given: dict) -> int:
    """Print the table of the parameters of the network that a run with these settings would have,
    with heads for the tasks whose data are there. Returns the exit code. Raises UserError."""
    config = Config(**completed(given) if given.get("add_to") else given)
    config.check_values(weights=False)
    if own(config.arch):
        check_source(config)
    toolchain.start(config.device, config.precision, config.convolution)
    from networks import build
    from runs.network import check_own, packed_network, warn_of_own
    net = build(**config.network())
    warn_of_own(net, config)
    for task in (config.base_task, *config.task_list):
        if classes := [*config.folder(task).glob("train/[!.]*/")]:
            net.add_head(task, len(classes))
    packnet = packed_network(net, config)
    check_own(net, config)
    print(packnet.describe())
    print(f"\nEach task adds a head: {net.num_features:,} features to its classes.")
    return 0


def agree(config: Config, before: dict | None) -> None:
    """Raise ConfigError unless all processes of mpirun would do the same, which they may not on
    computers that share no output folder."""
    jt = toolchain.start(config.device, config.precision, config.convolution)
    config.need(config.batch_size % jt.world_size == 0, "batch_size",
                f"must be a multiple of the {jt.world_size} processes")
    source = source_of(config.arch) if own(config.arch) and own(config.arch)[0].is_file() else None
    config.need(processes.all_agree(source), "arch",
                "the processes of mpirun find different files there, or none. Every box must have "
                "the same, to the byte.")
    if not processes.all_agree([config.asdict(), before and before["finished"]]):
        raise ConfigError(f"--output-dir {config.output_dir}: the processes of mpirun find "
                          "different runs in it, or have other settings. Every box must see the "
                          "same folder (a shared one, or a copy).")


def prepare(config: Config, resume: bool, demo: bool) -> None:
    """Draw the demo's data and check all folders; under mpirun one process draws, and none writes
    before all have checked."""
    if demo and not processes.LOCAL_RANK:
        from images.drawings import ALPHABETS, DATASETS, draw
        folders = {config.folder(task).name for task in (config.base_task, *config.task_list)}
        draw(config.data_root, names=[*DATASETS, *(name for name in ALPHABETS if name in folders)])
    if processes.in_mpi():
        processes.wait_for_all()
    check_folders(config, resume)


def start_jittor(config: Config, before: dict | None) -> None:
    """Start Jittor. `before`: the results of the run to go on with. Raises ConfigError where the
    run was on another device or had another number of processes, ToolchainError."""
    jt = toolchain.start(config.device, config.precision, config.convolution)
    processes.wait_for_all()
    if before and before["device"] != toolchain.device:
        raise ConfigError(f"--resume: the run in {config.output_dir} was on {before['device']}, "
                          f"this would go on on {toolchain.device}, and the result would be "
                          "neither run")
    if before and before["processes"] != jt.world_size:
        raise ConfigError(f"--resume: the run in {config.output_dir} had {before['processes']} "
                          f"processes (mpirun -np), this would go on with {jt.world_size}, and the "
                          "result would be neither run")


def run_to_its_end(config: Config, earlier: Earlier | None) -> int:
    """PackNet, and the baselines that were asked for, from where the run was stopped to its end;
    `earlier`: the packed network that a new run adds to. Returns the exit code. Raises
    UserError."""
    from runs.carry_out import carry_out
    from runs.run import Run
    from training import take
    try:
        carry_out(Run(config, earlier), take)
    except OSError as error:
        complain(reason(error, config.output_dir))
        print(way_to_go_on(config), file=sys.stderr)
        return 1 if (Path(config.output_dir) / RESULTS).exists() else UserError.code
    except KeyboardInterrupt:
        print(f"\nInterrupted. {way_to_go_on(config)}", file=sys.stderr)
        return 130
    return 0


def way_to_go_on(config: Config) -> str:
    """What has been saved of a run that ended too early, and the command that goes on with it."""
    folder = Path(config.output_dir)
    if not (folder / RESULTS).exists():
        again = "the same command with --resume" if (folder / LOG).exists() else "the same command"
        return f"Nothing was saved yet; {again} begins anew."
    command = f"python main.py --resume --output-dir {shlex.quote(config.output_dir)}"
    if own(config.arch):
        command += f" --arch {shlex.quote(config.arch)}"
    if not (folder / STATE).exists():
        return f"`{command}` begins it anew, with its settings."
    return f"`{command}` goes on after the last finished epoch."


if __name__ == "__main__":
    processes.leave(main())
