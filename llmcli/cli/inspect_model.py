"""`llmcli inspect-model`: the modules of a model, and what they cost."""

from llmcli.cli.groups import with_groups
from llmcli.cli.options import DEFAULT_MODEL, ModelOption
from llmcli.cli.view import ViewOptions, emit


@with_groups
def inspect_model(model: ModelOption = DEFAULT_MODEL, *, view: ViewOptions) -> None:
    """Show the tree of a model's modules with their shapes, and what they cost.

    Parameters and their share by part, bytes by dtype, bytes of the KV cache per token and at full context,
    floating-point operations per token. Only config.json and the headers of the weight files are read, so it is quick
    for a model of any size.

    \b
    Examples:
      $ llmcli inspect-model
      $ llmcli inspect-model -m stories --json
      $ llmcli inspect-model --csv | head -n 5
    """
    from llmcli.inspect.document import document
    from llmcli.inspect.model_tree import model_shape
    from llmcli.render.model_tree import model_view
    from llmcli.resolve import resolve

    shape = model_shape(resolve(model))
    emit(model_view(document("model", shape, model=model, dtype=shape.config.dtype)), view)
