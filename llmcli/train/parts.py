"""A run in parts: a recipe that names another under `after` goes on from the model that the other makes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from llmcli.errors import UsageError
from llmcli.train.distributed import World, process_count
from llmcli.train.origin import find_origin
from llmcli.train.recipe import Recipe, read_recipe
from llmcli.train.run import Request, Watcher, export_checkpoint, train
from llmcli.train.state import NAME, read_facts
from llmcli.train.validate import check_recipe


def parts_before(after: str) -> list[Recipe]:
    """The recipes whose models a recipe with this `after` builds upon, first to last, all with the shape of the first.
    Raises UsageError for one that cannot be used, or that goes on from itself."""
    names: list[str] = []
    recipes: list[Recipe] = []
    while after:
        if after in names:
            raise UsageError(f"the recipe {after} goes on from itself", "correct `after` in one of its parts")
        names.append(after)
        recipes.insert(0, read_recipe(after))
        after = recipes[0].after
    recipes = [replace(each, shape=recipes[0].shape) for each in recipes]
    for each in recipes:
        check_recipe(each, process_count())
    return recipes


def train_in_parts(request: Request, world: World, watcher: Watcher) -> dict[str, Any]:
    """`train`, after the parts that come before the recipe, each in a folder of its own name within the run's. A run
    that is told what to begin with needs none. Returns the figures of the part that was trained last."""
    if request.origin.name or not request.recipe.after:
        return train(request, world, watcher)
    before = parts_before(request.recipe.after)
    origin, tokenizer = request.origin, request.tokenizer
    for number, recipe in enumerate(before, 1):
        out = request.out / recipe.name
        if request.resume and _is_done(out, recipe):
            if world.leads:  # the run may have been killed before it wrote its model, or with that of an earlier stop
                export_checkpoint(recipe, out, out, origin)
            world.wait()
        else:
            watcher.note(f"part {number} of {len(before) + 1}: {recipe.name}, in {out}")
            part = replace(request, recipe=recipe, out=out, origin=origin, tokenizer=tokenizer, until=None)
            figures = train(part, world, watcher)
            world.wait()
            if not _is_done(out, recipe):  # told to stop
                return figures
        origin, tokenizer = find_origin(str(out)), None
    watcher.note(f"part {len(before) + 1} of {len(before) + 1}: {request.recipe.name}, in {request.out}")
    shaped = replace(request.recipe, shape=origin.shape or request.recipe.shape)
    return train(replace(request, recipe=shaped, origin=origin, tokenizer=None), world, watcher)


def _is_done(out: Path, recipe: Recipe) -> bool:
    """Whether a part's last step is saved."""
    return (out / NAME).exists() and bool(read_facts(out / NAME)["step"] >= recipe.schedule.steps)
