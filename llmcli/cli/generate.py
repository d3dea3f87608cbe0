"""`llmcli generate`: continue a text."""

import sys
from typing import TYPE_CHECKING, Any

import typer

from llmcli.cli.batch_options import BatchOptions
from llmcli.cli.beam_options import BeamOptions
from llmcli.cli.generate_options import LengthOptions, MachineOptions, OutputOptions, PromptOptions
from llmcli.cli.grammar_options import GrammarOptions
from llmcli.cli.groups import with_groups
from llmcli.cli.io import is_terminal, use_color
from llmcli.cli.sampling_options import SamplingOptions, typed_sampling
from llmcli.cli.speed_options import SpeedOptions
from llmcli.sampling_params import merged

if TYPE_CHECKING:
    from llmcli.pipeline import Pipeline, Run


@with_groups
def generate(
    context: typer.Context,
    source: PromptOptions,
    machine: MachineOptions,
    length: LengthOptions,
    *,
    sampling: SamplingOptions,
    grammar: GrammarOptions,
    speed: SpeedOptions,
    batch: BatchOptions,
    beam: BeamOptions,
    output: OutputOptions,
) -> None:
    """Continue a text, token by token.

    The prompt is the argument, --file, or stdin. An empty one starts from the beginning-of-text token. In a pipe the
    continuation alone is printed, on a terminal the prompt stands before it, dimmed.

    Sampling options come from the flag, else from the environment or the configuration file, else from the model's
    generation_config.json, else temperature 0.8 and top-p 0.95. The seed used is printed on stderr.

    Filters run in this order: logit bias, bans, no-repeat-ngram and min-tokens, then repetition, frequency and presence
    penalty, DRY, temperature, top-n-sigma, top-k, typical, top-p, min-p, XTC, mirostat, then the draw. --samplers names
    others; what it does not name does not run.

    --json-schema, --regex, --grammar and --choice leave only tokens, before all filters, that keep the whole text what
    it has to be. A text that --max-tokens or the context cuts before it is that ends with exit code 1.

    With --batch every line of a file is a prompt, an empty one too; where the first line begins with { all are JSON
    with a "prompt". Texts come in the order of the prompts, parted by an empty line, or each ended by a NUL with -0;
    --jsonl and --events tell the prompt's number as "index" and that of its sample as "sample", and --json collects
    all in one object. An interrupt leaves the texts that were finished.

    \b
    Examples:
      $ llmcli generate "Once upon a time"
      $ llmcli generate --greedy -n 20 "The old house"
      $ echo "Dear reader" | llmcli generate --stop '\\n\\n' --seed 7
      $ llmcli generate --show-tokens -n 30 "Once upon a time"
      $ llmcli generate --json -n 10 "Once upon a time"
      $ llmcli generate --events --logprobs 3 -n 5 "Once upon a time"
      $ llmcli generate --trace --top-k 40 -n 2 "Once upon a time"
      $ llmcli generate --choice yes --choice no "Is it raining? "
      $ llmcli generate --regex '[A-Z][a-z]{2,8}' "His name was "
      $ llmcli generate --num-samples 3 -n 20 "Once upon a time"
      $ printf 'One day\\nThe old house\\n' | llmcli generate --batch - --jsonl -n 20
      $ llmcli generate --beams 4 -n 20 "Once upon a time"
      $ llmcli generate --ban dragon --min-p 0.05 --samplers min-p,temperature "Once upon a time"
    """
    beam.check_with(typed_sampling(context), batch, output)
    params = beam.followed(sampling.given(context)) | length.params | grammar.params | {"logprobs": output.logprobs}
    merged({}, params)  # whatever is wrong is said before anything is read
    speed.check_with(output.record, beam.beams)
    several = batch.several or beam.beams is not None
    if several:
        batch.check_with(source, output, speed.named)
    texts = batch.read(source)

    pipeline = machine.load(texts=beam.beams or batch.together(len(texts)), drafts=speed.drafts)
    from llmcli.cli import present

    present.say_start(pipeline, machine.context_length, source, output)
    asked = params | {"trace": output.trace}
    if several:
        reasons, interrupt = _several(pipeline, texts, source, batch, output, asked | beam.asked)
    else:
        ids = source.ids(pipeline, texts[0])
        run = pipeline.run(ids, prompt=texts[0], truncate=source.truncate, drive=speed.decoder(pipeline), **asked)
        if not output.quiet:
            present.say_cut(run, len(ids), source.truncate)
        interrupt = _single(pipeline, run, source, output)
        reasons = [run.finish_reason]
    if interrupt is not None:
        raise interrupt
    grammar.check_whole(reasons)


def _single(pipeline: "Pipeline", run: "Run", source: PromptOptions, output: OutputOptions) -> KeyboardInterrupt | None:
    from llmcli.cli import present

    run.scored = output.show_tokens or output.events
    if output.form == "events":
        interrupt = present.print_events(pipeline, run)
    elif output.form != "text":
        interrupt = present.print_object(pipeline, run, numbered=output.jsonl)
    else:
        echo = is_terminal(sys.stdout) if output.echo is None else output.echo
        shown = present.echoed(pipeline, run, source) if echo else ""
        interrupt = present.print_text(
            pipeline, run, shown, stream=output.stream, show_tokens=output.show_tokens, color=use_color(output.color)
        )
    if output.record is not None:
        from llmcli.record import make_record, write_record

        write_record(output.record, make_record(pipeline, run))
    if not output.quiet:
        present.say_end(run, output.stats)
    return interrupt


def _several(
    pipeline: "Pipeline",
    texts: list[str],
    source: PromptOptions,
    batch: BatchOptions,
    output: OutputOptions,
    asked: dict[str, Any],
) -> tuple[list[str | None], KeyboardInterrupt | None]:
    from llmcli.cli.present_batch import BatchPrinter

    run = batch.run(pipeline, texts, source, asked)
    run.scored = output.events
    printer = BatchPrinter(pipeline, source, batch, output)
    if not output.quiet:
        printer.say_cut(run)
    interrupt = printer.print(run)
    if not output.quiet:
        printer.say_end(run)
    return printer.reasons, interrupt
