"""Several processes train as one: same batches, same masks, one log. On the CPU, through mpirun."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, executable, write_images

from settings.config import Config, flag_of

if not shutil.which("mpirun") or not shutil.which("mpicc"):
    pytest.skip(
        "no mpirun or no mpicc (Debian: openmpi-bin, libopenmpi-dev)", allow_module_level=True
    )

# 20 images in batches of 8: two shared by the processes, one of 4 that each computes whole.
TRAIN = """
import sys
import numpy as np
import toolchain
# direct: rounds less, so that no weight crosses the cut-off of the prune
jt = toolchain.start("cpu", convolutions="direct")
from dataset import create_dataloader
from networks import build
from jittor import nn
from pruning import PackNet
from runs.run import seed
from system.processes import RANK
from training import cross_entropy, train_epoch

out, root = sys.argv[1:]
seed(0, 0)
net = build("vgg-slim")
net.add_head("birds", 4)
net.select("birds")
packnet = PackNet(net)
packnet.start_task("birds")
train, _ = create_dataloader("birds", root, "train", 8, image_size=48, crop="plain",
                             cache_dir=f"{out}.cache{RANK}")
test, _ = create_dataloader("birds", root, "test", 8, image_size=48, cache_dir=f"{out}.cache{RANK}")
losses = []
optimizer = nn.SGD(list(packnet.trainable().values()), 0.01, momentum=0.9, weight_decay=1e-3)
for epoch in range(4):
    seed(0, epoch)
    packnet.set_training(True)
    losses.append(train_epoch(net, cross_entropy, train, optimizer, "train"))
    if epoch == 1:
        packnet.prune("birds", 0.5)
logits, labels = packnet.predict("birds", test)
arrays = {f"w.{name}": weight.numpy() for name, weight in packnet.weights.items()}
arrays |= {f"owner.{name}": owner.numpy() for name, owner in packnet.owners.items()}
np.savez(f"{out}.{RANK}.npz", losses=np.array(losses), logits=logits, labels=labels, **arrays)
"""


ENVIRONMENT = dict(
    os.environ,
    OMPI_ALLOW_RUN_AS_ROOT="1",
    OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
    OMPI_MCA_mpi_yield_when_idle="1",  # other tests want the cores, too, while a process waits
    OMP_NUM_THREADS="1",
)
ENVIRONMENT.pop("use_mpi", None)


def mpirun(
    count: int, *command, cwd=ROOT, environment=ENVIRONMENT, options=("--oversubscribe",)
) -> subprocess.CompletedProcess:
    program = ["mpirun", *options, "-np", str(count), sys.executable]
    return subprocess.run(
        [*program, *map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_train_as_one(tmp_path, processes):
    for split, count in (("train", 5), ("test", 3)):
        write_images(tmp_path / "birds" / split, dict.fromkeys("abcd", count))
    script = tmp_path / "train.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{TRAIN}")
    runs = {}
    for count in (1, processes):
        done = mpirun(count, script, tmp_path / str(count), tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
        runs[count] = [np.load(tmp_path / f"{count}.{rank}.npz") for rank in range(count)]
    one, (first, *others) = runs[1][0], runs[processes]
    for name in first:
        for other in others:
            # every process has the same masks and results
            assert np.array_equal(first[name], other[name]), name
    assert np.allclose(one["losses"], first["losses"], rtol=1e-4)
    assert np.array_equal(one["labels"], first["labels"])
    assert np.allclose(one["logits"], first["logits"], rtol=1e-3, atol=1e-3)
    for name in first:
        if name.startswith("owner."):
            # magnitudes within float error of the cut-off may swap
            assert (one[name] != first[name]).mean() < 1e-3, name
        elif name.startswith("w."):
            assert np.abs(one[name] - first[name]).mean() < 1e-4 * np.abs(one[name]).mean(), name


def test_a_run_of_two_processes(tmp_path, image_root):
    """One log, one set of files, whole results; and no way to go on with another number of
    processes."""
    command = [
        "main.py",
        "--data-root",
        image_root,
        "--output-dir",
        tmp_path / "run",
        *"""
            --arch vgg-slim --image-size 48 --base-task cubs --task-list cars flowers
            --num-epochs-base 1 --num-epochs-per-task 1 --num-epochs-finetune 1
            --num-epochs-base-finetune 1 --batch-size 4 --device cpu --baselines finetune lwf joint
        """.split(),
    ]
    done = mpirun(2, *command)
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert (
        results["finished"] and results["processes"] == 2 and "2 processes" in results["toolchain"]
    )
    assert all(task["max_logit_change"] == 0.0 for task in results["tasks"])
    log = (tmp_path / "run/log.txt").read_text()
    assert (
        log.count("== cars ==") == 1
        and log.count("Done in") == 1
        and done.stdout.count("== cars ==") == 1
    )
    single = subprocess.run(
        [sys.executable, "evaluate.py", "--output-dir", tmp_path / "run", "--device", "cpu"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    for task in results["tasks"]:
        row = next(line for line in single.stdout.splitlines() if line.startswith(task["name"]))
        assert float(row.split()[1]) == pytest.approx(task["top1_final"], abs=0.01)

    results["finished"] = False
    (tmp_path / "run/results.json").write_text(json.dumps(results))
    done = subprocess.run(
        [sys.executable, "main.py", "--resume", "--output-dir", tmp_path / "run"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (
        done.returncode == 2
        and "had 2 processes (mpirun -np), this would go on with 1" in done.stderr
    )


SHARE = """
import os, sys
sys.path.insert(0, {root!r})
from system import processes
processes.share_cores()
os.write(1, f"{{processes.cores()}} {{os.environ['OMP_NUM_THREADS']}}\\n".encode())
"""


@pytest.mark.parametrize(
    "options, cores_of_each, threads",
    [
        ((), "all", "a share"),  # OpenMPI binds each of two processes to one core
        (("--bind-to", "none"), "all", "a share"),
        (("--bind-to", "core"), "one", "one"),  # as the user says
    ],
)
def test_processes_of_one_machine_share_its_cores(tmp_path, options, cores_of_each, threads):
    everything = len(os.sched_getaffinity(0))
    if everything < 2:
        pytest.skip("needs two cores")
    script = tmp_path / "share.py"
    script.write_text(SHARE.format(root=str(ROOT)))
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "OMP_NUM_THREADS"}
    done = mpirun(2, script, environment=environment, options=options)
    assert done.returncode == 0, done.stderr
    of_each, thread_count = (
        everything if cores_of_each == "all" else 1,
        everything // 2 if threads == "a share" else 1,
    )
    assert done.stdout.splitlines() == [f"{of_each} {thread_count}"] * 2, done.stdout


BOX = """
import os, sys
sys.path.insert(0, {root!r})
os.chdir("box" + os.environ["OMPI_COMM_WORLD_RANK"])
import main
from system import processes
processes.leave(main.main())
"""


@pytest.fixture
def two_boxes(tmp_path):
    """A script for mpirun, whose processes start main.py in `tmp_path`/box0 and box1: as if on two
    machines that share no folder."""
    for number in range(2):
        (tmp_path / f"box{number}").mkdir()
    script = tmp_path / "box.py"
    script.write_text(BOX.format(root=str(ROOT)))
    return script


@pytest.mark.parametrize("finished", [False, True])
def test_boxes_without_a_shared_folder_that_would_do_different_things_are_refused(
    tmp_path, image_root, two_boxes, finished
):
    """One has a run to go on with, or a finished one, and the other would start."""
    settings = dict(
        data_root=str(image_root),
        output_dir="run",
        arch="vgg-slim",
        image_size=48,
        base_task="cubs",
        num_epochs_base=1,
        task_list=["cars"],
        batch_size=4,
        device="cpu",
    )
    (tmp_path / "box0/run").mkdir()
    (tmp_path / "box0/run/results.json").write_text(
        json.dumps(dict(config=Config(**settings).asdict(), finished=finished))
    )
    flags = []
    for name, value in settings.items():
        flags += [flag_of(name), *(value if isinstance(value, list) else [value])]
    done = mpirun(2, two_boxes, "--resume", *flags, cwd=tmp_path)
    assert (
        done.returncode == 2 and "the processes of mpirun find different runs in it" in done.stderr
    ), done.stderr[-2000:]
    assert not (tmp_path / "box1/run").exists()


NET = """
from jittor import nn


def build():
    return nn.Sequential(nn.Conv(3, 4, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d((1, 1)),
                         nn.Flatten(), nn.Linear(4, 5))
"""


@pytest.mark.parametrize(
    "theirs, refused",
    [(NET, False), (NET.replace("stride=4", "stride=2"), True), (None, True)],
    ids=["the same", "another", "none"],
)
def test_boxes_must_have_the_same_network_file(tmp_path, image_root, two_boxes, theirs, refused):
    """Parameters of the same shapes would train without a word."""
    for number, text in enumerate((NET, theirs)):
        if text:
            (tmp_path / f"box{number}/net.py").write_text(text)
    done = mpirun(
        2,
        two_boxes,
        "--data-root",
        image_root,
        *"""
            --output-dir run --arch net.py:build --image-size 48 --base-task cubs --num-epochs-base
            1 --num-epochs-base-finetune 0 --num-epochs-per-task 1 --num-epochs-finetune 0
            --task-list cars --batch-size 4 --device cpu
        """.split(),
        cwd=tmp_path,
    )
    assert done.returncode == (2 if refused else 0), done.stderr[-2000:]
    assert (
        "--arch net.py:build: the processes of mpirun find different files there, or none"
        in done.stderr
    ) == refused
    assert (tmp_path / "box0/run/results.json").exists() != refused and not list(
        tmp_path.glob("box1/run/*")
    )


AGENT = """
host=$1; shift
exec env -i PATH=/usr/bin:/bin HOME="$HOME" \\
    ip netns exec {second} sh -c "mount --bind {theirs} {shared} && $*"
"""


@pytest.fixture
def second_box(tmp_path):
    """(what to put before a command of the first box, its address, the second's, the launch agent).
    Two network namespaces with
    a cable between them; on the second, another folder lies where the first has `tmp_path/run`, as
    if nothing were shared."""
    first, second = f"a{os.getpid()}", f"b{os.getpid()}"
    if (
        not shutil.which("ip")
        or subprocess.run(["ip", "netns", "add", first], capture_output=True).returncode
    ):
        pytest.skip("no network namespaces (root and iproute2 are needed)")
    (tmp_path / "run").mkdir(), (tmp_path / "theirs").mkdir()
    try:
        commands = [f"netns add {second}", f"link add {first} type veth peer name {second}"]
        for number, box in ((1, first), (2, second)):
            commands += [
                f"link set {box} netns {box}",
                f"-n {box} addr add 10.77.0.{number}/24 dev {box}",
                f"-n {box} link set lo up",
                f"-n {box} link set {box} up",
            ]
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True, capture_output=True)
        agent = executable(
            tmp_path / "agent",
            AGENT.format(second=second, theirs=tmp_path / "theirs", shared=tmp_path / "run"),
        )
        yield ["ip", "netns", "exec", first], "10.77.0.1", "10.77.0.2", agent
    finally:
        for box in (first, second):
            subprocess.run(["ip", "netns", "del", box], capture_output=True)


def test_two_boxes_that_share_no_output_folder(tmp_path, image_root, second_box):
    """docs/gpu.md's command for two boxes: the first one's folder has the run, the second's stays
    empty; resuming is refused."""
    on_first, one, two, agent = second_box
    command = [
        *on_first,
        "mpirun",
        "--mca",
        "plm_rsh_agent",
        agent,
        "-np",
        2,
        "-H",
        f"{one}:1,{two}:1",
        sys.executable,
        ROOT / "main.py",
        "--data-root",
        image_root,
        "--output-dir",
        tmp_path / "run",
        *"""
            --arch vgg-slim --image-size 48 --base-task cubs --task-list cars --num-epochs-base 1
            --num-epochs-per-task 1 --num-epochs-finetune 1 --batch-size 4
        """.split(),
    ]

    def run(*more) -> subprocess.CompletedProcess:
        return subprocess.run(
            [str(word) for word in (*command, "--device", "cpu", *more)],
            cwd=ROOT,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
        )

    done = run()
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["finished"] and results["processes"] == 2
    assert not list((tmp_path / "theirs").glob("*"))
    results["finished"] = False
    (tmp_path / "run/results.json").write_text(json.dumps(results))
    done = run("--resume")
    assert (
        done.returncode == 2 and "the processes of mpirun find different runs in it" in done.stderr
    ), done.stderr[-2000:]


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path, image_root):
    done = mpirun(
        2,
        "main.py",
        "--data-root",
        image_root,
        "--output-dir",
        tmp_path / "run",
        "--batch-size",
        5,
        "--device",
        "cpu",
    )
    assert (
        done.returncode == 2
        and "--batch-size 5: must be a multiple of the 2 processes" in done.stderr
    )
    assert not (tmp_path / "run").exists()


def test_an_error_in_one_process_ends_them_all(tmp_path, image_root):
    (image_root / "cubs_cropped/train/a/0.jpg").write_bytes(b"broken")
    done = mpirun(
        2,
        "main.py",
        "--data-root",
        image_root,
        "--output-dir",
        tmp_path / "run",
        *"""
            --arch vgg-slim --image-size 48 --task-list cubs --num-epochs-base 1 --base-task cars
            --batch-size 4 --device cpu
        """.split(),
    )
    assert (
        done.returncode == 2
        and done.stderr.count("0.jpg: cannot be read as an image") == 1
        and "Traceback" not in done.stderr
    )


FIT = """
import sys
import numpy as np
import toolchain
jt = toolchain.start("cpu")
from jittor import nn
from packing.least_squares import refit

out, count = sys.argv[1], int(sys.argv[2])
jt.set_global_seed(0, different_seed_for_mpi=False)
whole, net = (nn.Sequential(nn.Conv(3, 4, 3), nn.Relu(), nn.Conv(4, 5, 3)) for _ in range(2))
net.load_parameters(whole.state_dict())
for layer in (net[0], net[2]):
    layer.weight.assign(jt.array(layer.weight.numpy() * (np.abs(layer.weight.numpy()) > 0.1)))
images = np.random.default_rng(0).normal(size=(2, 8, 3, 7, 7)).astype(np.float32)
mine = images[jt.rank] if jt.world_size == 2 else images.reshape(16, 3, 7, 7)
assert jt.world_size == count and refit(net, whole, [jt.array(mine)], "fitted") == 2
np.savez(f"{out}.{jt.rank}.npz", **{name: var.numpy() for name, var in net.state_dict().items()})
"""


def test_layers_are_fitted_to_the_images_of_all_processes(tmp_path):
    """To the same bits in each; as one process would fit them, but for rounding."""
    (tmp_path / "fit.py").write_text(FIT)
    environment = ENVIRONMENT | dict(PYTHONPATH=str(ROOT))
    for count in (1, 2):
        ran = mpirun(count, tmp_path / "fit.py", tmp_path / str(count), count,
                     environment=environment)  # fmt: skip
        assert ran.returncode == 0, ran.stderr
    alone, first, second = (np.load(tmp_path / f"{name}.npz") for name in ("1.0", "2.0", "2.1"))
    for name, value in alone.items():
        assert (first[name] == second[name]).all()
        np.testing.assert_allclose(first[name], value, rtol=1e-3, atol=1e-4)
