"""How much is kept: the part held out for validation, the epoch of each phase, the pruning ratio
that is found or shared out."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import main
import training
from dataset import create_dataloader
from images import drawings
from images.folders import DataError, Split, hold_out, read_split
from methods import search
from packing import loops
from packing.capacity import capacity_table
from runs.network import contents
from runs.run import Run
from settings.config import Config

ARGUMENTS = """
    --arch vgg-slim --image-size 48 --base-task demo_base --num-epochs-base 1 --device cpu
    --base-lr 0.01 --num-epochs-base-finetune 1 --num-epochs-per-task 3
    --num-epochs-finetune 2 --initial-lr 0.01 --task-list demo_birds demo_cars
""".split()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    drawings.draw(root, train=8, test=4)
    return root


def command(data, out, *more):
    return [*ARGUMENTS, "--data-root", str(data), "--output-dir", str(out), *more]


# ---- the part held out


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=6), st.floats(0.01, 0.99), st.integers(0, 5)
)
def test_of_each_class_its_share_is_held_out(counts, fraction, seed):
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    split = Split(
        None, [f"{i}" for i in range(len(counts))], [f"{i}.jpg" for i in range(len(labels))], labels
    )
    if max(counts) == 1:
        with pytest.raises(DataError, match="no class has two images"):
            hold_out(split, fraction, seed)
        return
    rest, part = hold_out(split, fraction, seed)
    assert sorted([*rest, *part]) == list(range(len(labels))) and list(part) == sorted(part)
    for label, count in enumerate(counts):
        held = int((labels[part] == label).sum())
        assert held == (0 if count == 1 else min(max(1, round(fraction * count)), count - 1))
    assert all(np.array_equal(a, b) for a, b in zip((rest, part), hold_out(split, fraction, seed)))


def test_another_seed_holds_out_others():
    split = Split(None, ["a"], [f"{i}" for i in range(50)], np.zeros(50, np.int32))
    assert not np.array_equal(hold_out(split, 0.2, 0)[1], hold_out(split, 0.2, 1)[1])


@pytest.mark.parametrize("name", ["cubs", "flowers"])  # whole images, and crops
def test_held_out_images_are_in_one_part_only_prepared_as_test_images(image_root, name):
    split = read_split(name, image_root, "train")
    rest, part = hold_out(split, 0.25, 5)
    loaders = {
        which: create_dataloader(
            name, image_root, which, 4, seed=5, image_size=48, validation=0.25
        )[0]
        for which in ("train", "validation", "test")
    }
    assert (
        loaders["train"].num_images,
        loaders["validation"].num_images,
        loaders["test"].num_images,
    ) == (9, 3, 6)
    assert not loaders["validation"].train and loaders["train"].train
    assert loaders["train"].labels.tolist() == split.labels[rest].tolist()
    held_out = set(loaders["validation"].labels.tolist())
    assert held_out == {0, 1, 2} and all(
        (split.folder / split.paths[row]).is_file() for row in part
    )
    from images.preprocess import Preparation, preparation_of, preprocess

    shown = np.concatenate([images for images, _, _ in loaders["validation"].host_batches()])
    expected = np.stack(
        [preprocess(split.folder / split.paths[row], preparation_of(name, 48)) for row in part]
    )
    assert np.array_equal(shown, expected)
    if name == "cubs":
        whole = np.stack(
            [preprocess(split.folder / split.paths[row], Preparation(48, "resize")) for row in rest]
        )
        got = loaders["train"].images.crops(np.arange(9), np.random.default_rng(0))
        assert np.array_equal(got, whole)


def test_the_test_split_is_used_once_a_task_is_frozen_and_not_before(data, tmp_path, monkeypatch):
    """And portraits are of training images; whose a test image is, is asked at the end."""
    seen, portraits, predict, freeze = [], [], loops.predict, training.finish

    def watched(model, loader, title="test"):
        if title.endswith("as demo_base sees it"):
            portraits.append((title.partition(",")[0], loader.num_images))
        else:
            seen.append((model.task, loader.num_images))
        return predict(model, loader, title)

    def finish(run, step):
        seen.append("freeze")
        freeze(run, step)
        seen.append("frozen")

    monkeypatch.setattr(loops, "predict", watched)
    monkeypatch.setattr(training, "finish", finish)
    assert main.main(command(data, tmp_path / "out", "--validation", "0.25", "--keep", "best")) == 0
    freezing = False
    for event in seen:
        if isinstance(event, str):
            freezing = event == "freeze"
        else:
            classes = 10 if event[0] == "demo_base" else 8
            assert event[1] == (4 if freezing else 2) * classes
    three = "demo_base", "demo_birds", "demo_cars"
    assert portraits == list(zip(three * 2, (60, 48, 48, 40, 32, 32)))
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert all(
        "validation_top1" in record and "test_top1" not in record for record in results["history"]
    )
    log = (tmp_path / "out/log.txt").read_text()
    assert (
        "epoch that is best on the validation part is kept" in log
        and "demo_birds, train: 48 images" in log
    )
    assert ", validation " in log and ", test " not in log.replace("demo_birds, test:", "").replace(
        "demo_cars, test:", ""
    ).replace("demo_base, test:", "")


# ---- the epoch that is kept


@pytest.mark.parametrize(
    "keep, options", [("best", ["--validation", "0.25"]), ("best-on-test", []), ("last", [])]
)
@pytest.mark.parametrize("interrupted", [False, True])
def test_each_phase_goes_on_from_the_epoch_that_is_kept(
    data, tmp_path, monkeypatch, keep, options, interrupted
):
    """Told accuracies: the train phase of each task is best in its second epoch, and as good in its
    third; of the re-training, no epoch
    is better than the weights right after the prune."""
    trained, kept, stops = (
        {},
        {},
        ["demo_cars, train 3/3", "demo_cars, retrain 1/2"] if interrupted else [],
    )
    told = {
        "train 1/3": 10.0,
        "train 2/3": 30.0,
        "train 3/3": 30.0,
        "retrain 1/2": 20.0,
        "retrain 2/2": 20.0,
        "train 1/1": 1.0,
        "retrain 1/1": 0.5,
    }
    train_epoch, about_to_prune, frozen = training.train_epoch, training.prune, Run.save_packed
    current = {}

    def epoch(net, loss, loader, optimizer, title):
        if title in stops:
            stops.remove(title)
            raise KeyboardInterrupt
        result = train_epoch(net, loss, loader, optimizer, title)
        current["judged"] = told[title.partition(", ")[2]]
        trained[title] = {name: value.numpy() for name, value in net.state_dict().items()}
        return result

    def judge(results, packnet, task):
        return current.pop("judged", 20.0)  # before and right after a prune

    def prune(run, step):
        about_to_prune(run, step)
        trained[f"{step.task}, pruned"] = {
            name: value.numpy() for name, value in run.net.state_dict().items()
        }

    def save(run):
        kept[run.packnet.tasks[-1]] = {
            name: value.numpy() for name, value in run.net.state_dict().items()
        }
        frozen(run)

    monkeypatch.setattr(training, "train_epoch", epoch)
    monkeypatch.setattr("runs.results.Results.judge", judge)
    monkeypatch.setattr(training, "prune", prune)
    monkeypatch.setattr(Run, "save_packed", save)
    monkeypatch.setattr("runs.carry_out.SAVING_SHARE", 1e9)
    arguments = command(data, tmp_path / "out", "--keep", keep, *options)
    codes = [main.main(arguments)]
    while codes[-1] == 130:
        codes.append(main.main([*arguments, "--resume"]))
    assert codes == [130, 130, 0] if interrupted else [0]

    def same(one, other):
        return all(np.array_equal(one[name], other[name]) for name in one)

    best = keep != "last"
    for task in ("demo_birds", "demo_cars"):
        pruned, source = trained[f"{task}, pruned"], trained[f"{task}, train {2 if best else 3}/3"]
        for name, value in pruned.items():
            assert ((value == source[name]) | (value == 0)).all(), name
        assert not same(trained[f"{task}, train 2/3"], trained[f"{task}, train 3/3"])
        assert same(kept[task], pruned if best else trained[f"{task}, retrain 2/2"])
        assert not same(pruned, trained[f"{task}, retrain 2/2"])


# ---- the pruning ratio


@pytest.mark.parametrize("ratios", [search.RATIOS, search.BASE_RATIOS], ids=["task", "base"])
@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_the_search_finds_the_largest_ratio_within_the_limit(limit, ratios):
    for edge in range(-1, len(ratios)):
        trials = []
        for _ in range(search.TRIALS):
            ratio = search.next_ratio(trials, limit, ratios)
            assert ratio not in [trial["ratio"] for trial in trials]
            trials.append(
                dict(
                    ratio=ratio,
                    drop=limit if ratios.index(ratio) <= edge else limit + 0.1,
                    top1=50.0,
                    before=51.0,
                    epochs=2,
                )
            )
        assert search.chosen(trials, limit, ratios) == ratios[max(edge, 0)]
        lines = search.table("a", trials, limit, 30, ratios)
        assert ("None stays within" in lines[-2]) == (
            edge < 0
        ) and "8 epochs, 27 % of the 30" in lines[-1]
        assert ("the whole network" in lines[0]) == (ratios is search.BASE_RATIOS)


@pytest.fixture(scope="module")
def searched(data, tmp_path_factory):
    """A run that searched both ratios; each attempt is watched."""
    out, before_and_after = tmp_path_factory.mktemp("searched") / "out", []
    attempt = training.attempt

    def watched(run, step):
        before = contents(run.packnet), dict(run.packnet.ratios)
        attempt(run, step)
        before_and_after.append((before, (contents(run.packnet), dict(run.packnet.ratios))))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "attempt", watched)
        assert (
            main.main(
                command(
                    data,
                    out,
                    *"--validation 0.25 --pruning-ratios auto --max-drop 10".split(),
                )
            )
            == 0
        )
    return out, before_and_after


def test_what_was_tried_leaves_no_trace(searched):
    _, before_and_after = searched
    assert len(before_and_after) == 2 * search.TRIALS
    for (before, ratios), (after, ratios_after) in before_and_after:
        assert ratios == ratios_after
        for one, other in ((before.parameters, after.parameters), (before.owners, after.owners)):
            assert all(np.array_equal(one[name], other[name]) for name in one)


def test_the_ratio_that_was_found_is_taken_and_shown(searched):
    out, _ = searched
    results, log = json.loads((out / "results.json").read_text()), (out / "log.txt").read_text()
    for task in results["tasks"]:
        assert len(task["tried"]) == search.TRIALS and task["pruning_ratio"] == search.chosen(
            task["tried"], 10
        )
        assert all(trial["drop"] == trial["before"] - trial["top1"] for trial in task["tried"])
        assert (out / f"plots/ratios_{task['name']}.png").exists()
        assert f"{task['name']}: the search took 4 epochs, 80 % of the 5 of its training" in log
        assert task["owned_fraction"] > 0 and task["max_logit_change"] == 0.0
    assert log.count("  taken") == 2


def test_a_stopped_search_goes_on_to_the_same_end(searched, data, tmp_path, monkeypatch):
    # in the third attempt, then in the second from there
    train_epoch, stops = training.train_epoch, [2, 1]

    def stopped(net, loss, loader, optimizer, title):
        if "tried" in title:
            if stops and not stops[0]:
                stops.pop(0)
                raise KeyboardInterrupt
            if stops:
                stops[0] -= 1
        return train_epoch(net, loss, loader, optimizer, title)

    monkeypatch.setattr(training, "train_epoch", stopped)
    monkeypatch.setattr("runs.carry_out.SAVING_SHARE", 1e9)
    arguments = command(
        data,
        tmp_path / "out",
        *"--validation 0.25 --pruning-ratios auto --max-drop 10 --resume".split(),
    )
    assert [main.main(arguments), main.main(arguments), main.main(arguments)] == [130, 130, 0]
    assert (tmp_path / "out/packnet.safetensors").read_bytes() == (
        searched[0] / "packnet.safetensors"
    ).read_bytes()


@given(st.integers(1, 8), st.integers(0, 8))
def test_equal_shares(tasks, to_come):
    """Every task, those to come included, gets the same number of weights."""
    config = Config(
        task_list=[f"t{i}" for i in range(tasks)], pruning_ratios=["equal"], tasks_to_come=to_come
    )
    rows = capacity_table(config.ratios())
    assert np.allclose([row["used"] for row in rows], 1 / (tasks + to_come))
    assert rows[-1]["available"] - rows[-1]["used"] == pytest.approx(to_come / (tasks + to_come))


def test_ratios_may_be_mixed():
    config = Config(
        task_list=list("abcd"), pruning_ratios=[0.75, "equal", "auto", "equal"], tasks_to_come=1
    )
    assert config.ratios() == [0.75, 1 - 1 / 3, "auto", 0.5]


def test_equal_shares_go_on_when_a_task_is_added(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = ["--num-epochs-per-task", "1", "--num-epochs-finetune", "1"]
    assert (
        main.main(command(data, "two", *quick, "--pruning-ratios", "equal", "--tasks-to-come", "2"))
        == 0
    )
    assert (
        main.main(
            """
                --add-to two --task-list demo_flowers --pruning-ratios equal --output-dir three
            """.split()
        )
        == 0
    )
    results = json.loads((tmp_path / "three/results.json").read_text())
    assert results["config"]["tasks_to_come"] == 1 and results["tasks"][2]["pruning_ratio"] == 0.5
    shares = [row["used"] for row in results["capacity"][1:]]
    assert np.allclose(shares, 0.5 / 4)
