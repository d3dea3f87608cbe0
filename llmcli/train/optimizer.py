"""The optimizers of a recipe, and the learning rate of a step."""

import torch
from torch import nn

from llmcli.train.recipe import Optimizer, Schedule


def make_optimizers(model: nn.Module, recipe: Optimizer) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon for the blocks' matrices where the recipe says so. Norms and biases are not decayed."""
    matrices = [p for p in model.blocks.parameters() if p.dim() == 2]  # type: ignore[union-attr]
    taken = {id(p) for p in matrices} if recipe.kind == "muon" else set()
    rest = [p for p in model.parameters() if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.dim() == 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in rest if p.dim() != 2], "weight_decay": 0.0},
    ]
    betas = (recipe.beta1, recipe.beta2)
    adamw = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=betas, eps=1e-8, fused=True)
    optimizers: list[torch.optim.Optimizer] = [adamw]
    if taken:
        rate, decay = recipe.matrix_learning_rate, recipe.weight_decay
        optimizers.append(torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def rate_factor(step: int, schedule: Schedule) -> float:
    """The share of the peak learning rate at a step: linear warm-up, constant, linear decay towards zero."""
    up = (step + 1) / schedule.warmup if schedule.warmup else 1.0
    down = (schedule.steps - step) / schedule.decay if schedule.decay else 1.0
    return min(1.0, up, down)


def row_length(step: int, schedule: Schedule) -> int:
    """Tokens in a row at a step."""
    share = step / schedule.steps
    return [length for start, length in schedule.lengths if start <= share][-1]
