"""Recipes: read, overridden, refused by name."""

from pathlib import Path

import pytest

from llmcli.errors import UsageError
from llmcli.train.recipe import Override, as_table, build_recipe, builtin_recipes, parse_assignment, read_recipe
from llmcli.train.validate import check_recipe
from train.small import write_recipe


def test_the_built_in_recipes_are_fit_for_use() -> None:
    assert builtin_recipes() == ["finetune", "smoke", "stories", "stories-first", "stories-gpt2", "stories-second"]
    for name in builtin_recipes():
        recipe = read_recipe(name)
        check_recipe(recipe)
        assert recipe.name == name


def test_a_recipe_survives_being_written_down() -> None:
    recipe = read_recipe("stories")
    assert build_recipe(as_table(recipe)) == recipe


def test_what_is_left_open_is_filled_in() -> None:
    recipe = build_recipe({"shape": {"heads": 4, "context": 64}})
    assert recipe.shape.kv_heads == 4
    assert recipe.schedule.lengths == ((0.0, 64),)


@pytest.mark.parametrize(("context", "row"), [(131_072, 8_192), (8_192, 8_192), (1_000, 1_000), (10_000, 10_000)])
def test_a_row_of_a_long_context_is_at_most_a_step(context: int, row: int) -> None:
    recipe = build_recipe({"shape": {"context": context}, "schedule": {"batch_tokens": 8_192}})
    assert recipe.schedule.lengths == ((0.0, row),)


def test_overrides_win_and_the_last_one_most() -> None:
    recipe = read_recipe("smoke", [parse_assignment("schedule.steps=300"), Override("schedule.steps", 400, "--steps")])
    assert recipe.schedule.steps == 400
    assert read_recipe("smoke", [parse_assignment("name=a b")]).name == "a b"
    assert read_recipe("smoke", [parse_assignment("schedule.lengths=[[0, 128]]")]).schedule.lengths == ((0.0, 128),)


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("schedule.stepz=3", "--set schedule.stepz=3: unknown recipe key schedule.stepz"),
        ("stepz=3", "unknown recipe key stepz"),
        ("schedule.steps=many", "recipe key schedule.steps must be int, not 'many'"),
        ("schedule.steps=true", "must be int"),
        ("schedule.steps.more=1", "no table"),
        ("shape=3", "recipe key shape must be a table"),
        ("shape.family=bert", "must be one of llama, gpt2"),
        ("schedule.lengths=[[0.0]]", "must hold 2 values"),
        ("schedule.lengths=7", "must be a list"),
    ],
)
def test_an_override_that_does_not_fit_is_named(assignment: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_recipe("smoke", [parse_assignment(assignment)])
    assert said in str(caught.value)
    assert assignment in str(caught.value)


@pytest.mark.parametrize("text", ["schedule.steps", "=3", " = 3"])
def test_an_assignment_needs_a_key_and_a_value(text: str) -> None:
    with pytest.raises(UsageError, match="no assignment"):
        parse_assignment(text)


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (["shape.heads=3"], "shape.heads, 3, does not divide shape.hidden_size, 128"),
        (["shape.kv_heads=3"], "shape.kv_heads, 3, does not divide shape.heads, 4"),
        (["shape.hidden_size=12"], "it must be even"),
        (["shape.vocab_size=256"], "shape.vocab_size is 256"),
        (["shape.layers=0"], "shape.layers is 0"),
        (["shape.context=128"], "rows of 256 tokens"),
        (["shape.rope_theta=0.5"], "shape.rope_theta is 0.5"),
        (["shape.family=gpt2"], "gpt2 has no grouped-query attention"),
        (["shape.family=gpt2", "shape.kv_heads=4", "shape.rope_theta=500.0"], "gpt2 has no RoPE"),
        (["schedule.steps=0"], "schedule.steps (--steps) is 0"),
        (["schedule.steps=20"], "less than schedule.warmup + schedule.decay"),
        (["schedule.batch_tokens=1000"], "does not divide schedule.batch_tokens (--batch-tokens), 1000"),
        (["schedule.micro_tokens=0"], "schedule.micro_tokens is 0"),
        (["schedule.lengths=[[0.0, 96], [0.5, 256]]"], "schedule.lengths, 96, does not divide its largest, 256"),
        (["schedule.lengths=[[0.1, 256]]"], "schedule.lengths begins its stages at [0.1]"),
        (["schedule.lengths=[[0.0, 128], [0.0, 256]]"], "schedule.lengths begins"),
        (["optimizer.learning_rate=0"], "optimizer.learning_rate (--learning-rate) is 0"),
        (["optimizer.learning_rate=nan"], "optimizer.learning_rate (--learning-rate) is nan"),
        (["optimizer.beta2=1"], "optimizer.beta2 is 1"),
        (["optimizer.weight_decay=-1"], "optimizer.weight_decay is -1"),
        (["valid_share=0.9"], "valid_share is 0.9"),
        (["seed=-1"], "seed (--seed) is -1"),
        (["checkpoint_every=0"], "checkpoint_every is 0"),
    ],
)
def test_values_that_cannot_work_are_refused_before_any_work(assignments: list[str], said: str) -> None:
    table = as_table(read_recipe("smoke"))
    with pytest.raises(UsageError) as caught:
        check_recipe(build_recipe(table, [parse_assignment(each) for each in assignments]))
    assert said in str(caught.value) + caught.value.remedy


def test_each_process_needs_a_row() -> None:
    with pytest.raises(UsageError, match="fewer than a row for each process"):
        check_recipe(read_recipe("smoke"), processes=9)


def test_a_recipe_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no recipe 'nowhere'"):
        read_recipe("nowhere")
    path = tmp_path / "bad.toml"
    path.write_text("steps = ")
    with pytest.raises(UsageError, match="is not a recipe"):
        read_recipe(str(path))
    assert read_recipe(str(write_recipe(tmp_path / "mine.toml"))).name == "small"
