"""The two documents the project starts from: their snippets, as written, and the algorithm carried
out with them."""

import numpy as np
from conftest import jt

import networks
from dataset import create_dataloader
from pruning import PackNet, PackNetPruning


def test_first_document_data_loader(image_root, monkeypatch):
    monkeypatch.chdir(image_root.parent)
    # 创建数据加载器
    train_loader, num_classes = create_dataloader(
        dataset_name="cubs", data_root="data", split="train", batch_size=32
    )
    images, labels = next(iter(train_loader))
    assert num_classes == 3 and images.shape == [12, 3, 224, 224] and labels.shape == [12]


def test_first_document_pruning():
    model = networks.VGG(networks.ARCHITECTURES["vgg-slim"])
    previous_task_masks = previous_masks = PackNetPruning.prune_model(
        model=model, pruning_ratio=0.75
    )
    # 对模型进行剪枝
    new_mask = PackNetPruning.prune_model(
        model=model,
        pruning_ratio=0.75,  # 剪枝75%的权重
        previous_masks=previous_task_masks,  # 保护之前任务的权重
    )
    # 应用掩码冻结权重
    PackNetPruning.freeze_weights_by_mask(model, previous_masks)
    assert new_mask.keys() == previous_masks.keys() and len(new_mask) == 6


def test_first_document_settings():
    from settings.config import Config

    self = Config()
    assert self.initial_lr == 0.001 and self.batch_size == 32 and self.num_epochs_finetune == 10
    # As in the first implementation's log, and the authors'; its README says 50.
    assert self.num_epochs_per_task == 20
    assert self.task_list == ["cubs", "cars", "flowers"] and self.pruning_ratios == [
        0.75,
        0.75,
        0.75,
    ]


def separable(seed, count=3):
    """A task that a small network learns: the class is the sign pattern of two random
    directions."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(2, 10))
    x = rng.normal(size=(count, 32, 10)).astype(np.float32)
    y = ((x @ directions.T) > 0) @ np.array([1, 2])
    return [(jt.array(a), jt.array(b)) for a, b in zip(x, y)]


def test_second_document():
    """PackNet(model, prune_ratio): train, prune, re-train, freeze, free; every task as it was when
    it was frozen."""
    nn = jt.nn
    model = nn.Sequential(
        nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)
    )
    packnet = PackNet(model, prune_ratio=0.75)
    accuracy = {}
    for task_id in (1, 2, 3):
        train_loader = separable(task_id)
        packnet.train_task(task_id, train_loader, epochs=60, device="cpu", lr=0.05)
        packnet.prune_and_freeze(task_id)
        packnet.train_task(task_id, train_loader, epochs=30, lr=0.05)
        accuracy[task_id] = packnet.evaluate_task(task_id, train_loader)
    assert list(packnet.masks) == [1, 2, 3]
    for task_id, before in accuracy.items():
        assert before > 80 and packnet.evaluate_task(task_id, separable(task_id)) == before
    shares = [
        np.mean([mask.numpy().mean() for mask in masks.values()])
        for masks in packnet.masks.values()
    ]
    assert np.allclose(shares, [0.25, 0.1875, 0.1406], atol=0.02)
