"""From what a user asks for to a `Request`: the recipe, the model that the run begins with, the texts."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmcli.errors import UsageError
from llmcli.train.distributed import process_count
from llmcli.train.origin import Origin, find_origin, stored_origin
from llmcli.train.parts import parts_before
from llmcli.train.recipe import EXAMPLE, Override, Recipe, Shape, build_recipe, parse_assignment, read_table
from llmcli.train.run import Request
from llmcli.train.state import NAME, read_facts
from llmcli.train.validate import FLAGS, check_recipe

DEFAULT, DEFAULT_WITH_INIT = "stories-first", "finetune"


@dataclass(frozen=True)
class Asked:
    """What was given on the command line."""

    corpus: tuple[Path, ...] = ()
    out: Path | None = None
    recipe: str | None = None
    valid: Path | None = None
    tokenizer: Path | None = None
    init: str | None = None
    resume: bool = False
    export: bool = False
    """The newest checkpoint's model is wanted, and no training."""
    until: int | None = None
    flags: Mapping[str, Any] = field(default_factory=dict)
    """Recipe keys set by options of their own, None where one is not given."""
    assignments: tuple[str, ...] = ()


def plan(asked: Asked) -> Request:
    """The run that is asked for. Raises UsageError for what does not fit together, ModelError for a model that cannot
    be read, CheckpointError for a run that cannot."""
    table, stored = _table(asked)
    origin = _origin(asked.init, stored)
    recipe = _recipe(table, asked, origin)
    out = asked.out or Path("runs") / recipe.name
    corpus, valid = ((), None) if asked.export else _texts(recipe, asked, stored)
    return Request(recipe, corpus, valid, out, asked.tokenizer, asked.resume, asked.until, origin)


def _table(asked: Asked) -> tuple[dict[str, Any], dict[str, Any]]:
    """The recipe as a table, and what the run to be continued says of itself (nothing for a new one): also its recipe,
    unless another is given."""
    named = read_table(asked.recipe or (DEFAULT if asked.init is None else DEFAULT_WITH_INIT))
    place = asked.out or Path("runs") / str(named["name"])
    if not (asked.resume or asked.export):
        return named, {}
    if not (place / NAME).exists():
        if asked.recipe is None and any(place.glob(f"*/{NAME}")):
            raise UsageError(f"{place} holds earlier parts of a run alone", "name its recipe with --recipe")
        return named, {}
    facts = read_facts(place / NAME)
    if asked.recipe is None:
        if "recipe" not in facts:
            raise UsageError(f"the checkpoint in {place} does not hold its recipe", "name it with --recipe")
        named = facts["recipe"]
    return named, facts


def _origin(init: str | None, stored: Mapping[str, Any]) -> Origin:
    """What a new run begins with, or what the run to be continued began with.

    Raises UsageError where that is another model than --init names, ModelError for a model that cannot be read.
    """
    if not stored:
        return Origin() if init is None else find_origin(init)
    origin = stored_origin(stored)
    if init is not None and (not origin.name or Path(init).resolve() != Path(origin.name).resolve()):
        raise UsageError(
            f"this run began with {origin.name or 'random weights'}, not with {init}",
            "leave out --init, or give another --out",
        )
    return origin


def _recipe(table: dict[str, Any], asked: Asked, origin: Origin) -> Recipe:
    """The recipe to train by, its shape that of the model that the run begins with. Raises UsageError."""
    overrides = [Override(key, value, FLAGS[key]) for key, value in asked.flags.items() if value is not None]
    assigned = [parse_assignment(each) for each in asked.assignments]
    shape, whose = _given_shape(table, origin)
    if shape is not None:
        for each in assigned:
            if each.key.split(".")[0] == "shape":
                raise UsageError(f"{each.source}: the shape is that of {whose}", "leave it out")
        table = {**table, "shape": dataclasses.asdict(shape)}
    recipe = build_recipe(table, [*assigned, *overrides])
    check_recipe(recipe, process_count())
    return recipe


def _given_shape(table: Mapping[str, Any], origin: Origin) -> tuple[Shape | None, str]:
    """The shape that the recipe cannot choose, and the name of what has it: a model, or an earlier part's recipe."""
    if origin.shape is not None or not table.get("after"):
        return origin.shape, origin.name
    first = parts_before(str(table["after"]))[0]
    return first.shape, f"the recipe {first.name}"


def _texts(recipe: Recipe, asked: Asked, stored: Mapping[str, Any]) -> tuple[tuple[Path, ...], Path | None]:
    """Corpus and validation text: those given, else those of the run to be continued, else the recipe's."""
    if asked.corpus:
        return asked.corpus, asked.valid
    names, text = stored.get("corpus") or recipe.corpus, stored.get("valid", "" if stored else recipe.valid)
    if not names:
        raise UsageError("no corpus given, and the recipe names none", f"for example: {EXAMPLE}")
    return tuple(map(Path, names)), asked.valid or (Path(text) if text else None)
