"""PackNet in PyTorch, the authors' way: the other side of our comparisons.

Needs torch; the project does not. Same networks, parameter names and rules as ours, written from
the paper and the behaviour of the authors' release: the gradients of weights that others own are
set to 0 before the optimizer's step, and free weights to 0 after it.
"""
import contextlib

import numpy as np
import torch
from torch import nn
from torch_networks import classifier

FREE = 0


def trunk(arch: str) -> tuple[nn.Module, int]:
    """(the network without its last layer, which makes features of images; how many features). The
    parameter names are those of networks.py."""
    net = classifier(arch, 1)
    linear = [(name, module) for name, module in net.named_modules()
              if isinstance(module, nn.Linear)]
    last, layer = linear[-1]
    net.set_submodule(last, nn.Identity())
    return net, layer.in_features


class Twin:
    """A network, the owners of its weights, and one optimizer step at a time.

    `best`: PyTorch's own best settings instead of the release's: channels-last memory, the fastest
    convolution algorithms by trial, the masks applied by one call that takes all tensors, and the
    fused optimizer.
    """

    def __init__(self, arch: str, classes: dict[str, int], device: str = "cpu",
                 precision: str = "fp32", best: bool = False) -> None:
        self.device = torch.device(device)
        self.half = dict(fp16=torch.float16, bf16=torch.bfloat16).get(precision)
        self.best = best
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.benchmark = best
        self.net = nn.Module()
        self.net.trunk, features = trunk(arch)
        heads = {task: nn.Linear(features, count) for task, count in classes.items()}
        self.net.heads = nn.ModuleDict(heads)
        layout = torch.channels_last if best else torch.contiguous_format
        self.net.to(self.device, memory_format=layout)
        self.weights = {f"trunk.{name}.weight": module.weight
                        for name, module in self.net.trunk.named_modules()
                        if isinstance(module, (nn.Conv2d, nn.Linear))}
        self.owners = {name: torch.zeros_like(weight, dtype=torch.uint8)
                       for name, weight in self.weights.items()}
        self.tasks: list[str] = []
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")

    def load(self, tensors: dict[str, np.ndarray]) -> None:
        with torch.no_grad():
            for name, parameter in self.net.named_parameters():
                parameter.copy_(torch.from_numpy(tensors[name]))

    def start_task(self, task: str) -> None:
        self.tasks.append(task)
        for owner in self.owners.values():
            owner[owner == FREE] = len(self.tasks)
        self._set_masks()

    def prune(self, ratio: float) -> None:
        """Of the n weights that the last task owns in a layer, free the round(ratio * n) smallest,
        and all as small as the largest of these."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                owned = self.owners[name] == len(self.tasks)
                magnitudes = weight.abs()[owned]
                rank = round(ratio * len(magnitudes))
                if rank:
                    largest = magnitudes.cpu().kthvalue(rank)[0].to(self.device)
                    freed = owned & (weight.abs() <= largest)
                    weight[freed] = 0
                    self.owners[name][freed] = FREE
        self._set_masks()

    def _set_masks(self) -> None:
        k = len(self.tasks)
        self.others = {name: owner != k for name, owner in self.owners.items()}
        self.free = {name: owner == FREE for name, owner in self.owners.items()}
        if self.best:
            self.mine = [(owner == k).float() for owner in self.owners.values()]

    def start_optimizer(self, lr: float, momentum: float = 0.9) -> None:
        self.optimizer = torch.optim.SGD(self.trained(), lr, momentum=momentum,
                                         fused=True if self.best else None)

    def trained(self) -> list[nn.Parameter]:
        """What the last task's optimizer moves."""
        return [parameter for name, parameter in self.net.named_parameters()
                if self._trains(name)]

    def _trains(self, name: str) -> bool:
        """Of a parameter: with the first task the whole trunk, later its weights only."""
        if name.startswith("heads."):
            return name.startswith(f"heads.{self.tasks[-1]}.")
        return name in self.weights or len(self.tasks) == 1

    def logits(self, images: torch.Tensor, task: str) -> torch.Tensor:
        if self.best:
            images = images.contiguous(memory_format=torch.channels_last)
        precision = contextlib.nullcontext()
        if self.half:
            precision = torch.autocast(self.device.type, self.half)
        with precision:
            return self.net.heads[task](self.net.trunk(images)).float()

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """One step on the last task; its loss, before the step. Batch norm trains with the first
        task only."""
        self.net.train()
        for module in self.net.modules():
            if isinstance(module, nn.BatchNorm2d) and len(self.tasks) > 1:
                module.eval()
        self.optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(self.logits(images, self.tasks[-1]), labels)
        self.scaler.scale(loss).backward()
        if self.best:
            torch._foreach_mul_([weight.grad for weight in self.weights.values()], self.mine)
        else:
            for name, weight in self.weights.items():
                weight.grad[self.others[name]] = 0
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if not self.best:  # with the gradients at 0 and no weight decay nothing has moved
            with torch.no_grad():
                for name, weight in self.weights.items():
                    weight[self.free[name]] = 0
        return loss.detach()

    @torch.no_grad()
    def evaluate(self, images: torch.Tensor, task: str) -> np.ndarray:
        """Logits [B, classes] with later and free weights at 0."""
        self.net.eval()
        k = self.tasks.index(task) + 1
        kept = {name: weight.clone() for name, weight in self.weights.items()}
        for name, weight in self.weights.items():
            weight[(self.owners[name] == FREE) | (self.owners[name] > k)] = 0
        result = self.logits(images, task).cpu().numpy()
        for name, weight in self.weights.items():
            weight.copy_(kept[name])
        return result
