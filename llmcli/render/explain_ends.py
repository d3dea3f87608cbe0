"""The stages before and after the blocks, drawn: encoding, embedding, lm_head, softmax, sampling, decoding."""

from dataclasses import replace
from typing import Any

from rich.cells import cell_len
from rich.console import RenderableType
from rich.text import Text

from llmcli.render.explain_parts import Page, heading, number, numbers, shape, short, token_table, words
from llmcli.render.funnel import stage_name
from llmcli.render.labels import fit
from llmcli.render.logits import RANKED
from llmcli.render.parts import bar, clamp, percent, tail
from llmcli.render.safe import visible
from llmcli.render.table import Lines, table
from llmcli.sampling_params import SAMPLERS

Parts = list[RenderableType | None]

_ENCODED = 8
"""Tokens that the first stage lists where nobody chose any."""


def draw_encoding(page: Page, stage: dict[str, Any]) -> Parts:
    page = replace(page, most=_ENCODED)
    vocab = page.data["config"]["vocab_size"]
    said = (
        f"The text is cut into tokens: pieces out of a vocabulary of {vocab:,}, each with a number, its id. The model "
        "sees the ids alone. ␣ is a space, ↵ the end of a line."
    )
    ids = [str(token["id"]) for token in page.tokens]
    return [
        heading(page, stage, "Encoding"),
        words(said),
        _given(page, stage),
        token_table(page, ("id",), [ids]),
        page.hidden(),
    ]


def _given(page: Page, stage: dict[str, Any]) -> Text:
    """The text and how much of it there is."""
    if stage["text"] is None:
        return Text("The ids were given as they are: this model has no tokenizer.")
    line = f"text: {visible(stage['text'])}"
    text = Text(fit(line, page.screen.width) if cell_len(line) > page.screen.width else line, "bold")
    text.append(f"\n{stage['characters']} characters, {stage['bytes']} bytes → {len(page.tokens)} tokens", "not bold")
    if stage["added"]:
        text.append(f", {stage['added']} of them added by the tokenizer", "not bold")
    return text


def draw_embedding(page: Page, stage: dict[str, Any]) -> Parts:
    size = stage["table"][1]
    said = f"Each id picks its row of a learned table {shape(stage['table'])}: {size} numbers (channels) for a token."
    if stage["scale"] != 1:
        said += f" This family multiplies them by {stage['scale']:.4g}."
    if stage["positions"] is not None:
        said += f" A second table {shape(stage['positions'])} has a row for each position, which is added."
    elif page.data["config"]["rope"]:
        said += " Nothing tells the order yet: RoPE turns queries and keys by position inside the attention."
    ids = [str(token["id"]) for token in page.tokens]
    count = page.numbers_that_fit(36, len(stage["vectors"][0]))
    channels = [[number(float(vector[c])) for vector in stage["vectors"]] for c in range(count)]
    lengths = [number(float(each)) for each in stage["lengths"]]
    rest = ["…"] * len(ids)
    headers = ("id", *(f"ch {c}" for c in range(count)), "", "length")
    return [
        heading(page, stage, "Embedding lookup"),
        words(said),
        token_table(page, headers, [ids, *channels, rest, lengths]),
        page.hidden(),
        _sum(page, stage),
        words(f"The lines are what enters block 0. length: the root of the sum of a vector's {size} squares."),
    ]


def _sum(page: Page, stage: dict[str, Any]) -> RenderableType | None:
    """The last token's row, scaled or with its position added."""
    if stage["positions"] is None and stage["scale"] == 1:
        return None
    place = len(page.tokens) - 1
    count = page.numbers_that_fit(26, len(stage["vectors"][0]))
    rows = [[f"row of id {page.tokens[-1]['id']}", *numbers(stage["rows"][-1], count), "…"]]
    if stage["scale"] != 1:
        rows[0][0] += f" x {stage['scale']:.4g}"
    if stage["positions"] is not None:
        rows.append([f"+ position {place}", *numbers(stage["position_rows"][-1], count), "…"])
    rows.append(["= vector", *numbers(stage["vectors"][-1], count), "…"])
    return table((f"token {place}", *(f"ch {c}" for c in range(count)), ""), rows, left=(0,))


def draw_lm_head(page: Page, stage: dict[str, Any]) -> Parts:
    vocab, size = stage["matrix"]
    tied = "the embedding table itself (tied)" if stage["tied"] else "a matrix of its own"
    cap = f", soft-capped at {stage['softcap']:g}" if stage["softcap"] else ""
    said = (
        f"A last matrix {shape(stage['matrix'])}, {tied}, turns each token's {size} channels into {vocab:,} logits"
        f"{cap}: one score for each token of the vocabulary. The last token's row scores what comes next."
    )
    kinds = (
        "A causal model, as this one, predicts the next token from those before it; a masked one (BERT) predicts a "
        "hidden token from both sides."
    )
    reach = (
        f"after {page.last}: {vocab:,} logits from {number(stage['lowest'])} to {number(stage['highest'])}; highest:"
    )
    rows = [
        [str(each["rank"]), short(each["token"]["label"]), str(each["token"]["id"]), number(each["logit"])]
        for each in stage["top"]
    ]
    return [
        heading(page, stage, "lm_head: hidden states to logits"),
        words(said),
        words(reach),
        table(RANKED[:4], rows, left=(1,)),
        words(kinds),
    ]


def draw_softmax(page: Page, stage: dict[str, Any]) -> Parts:
    said = (
        "Scores become probabilities: e to the power of each logit (less the highest one, which changes nothing), "
        f"divided by the total of all, {stage['total']:.4g}. All are above 0, and they sum to {stage['sum']:.6f}."
    )
    width = clamp(page.screen.width - 60, 8, 40)
    rows: list[list[str | Text]] = [
        [
            short(each["token"]["label"]),
            number(each["logit"]),
            f"{each['exponential']:.4g}",
            percent(each["prob"]),
            Text(bar(each["prob"], width), "cyan"),
        ]
        for each in stage["top"]
    ]
    headers = ("token", "logit", "e^(logit - highest)", "probability", "")
    sure = f"entropy {stage['entropy']:.3f} bits: as unsure as between {stage['choices']:.1f} equal choices"
    return [heading(page, stage, "Softmax"), words(said), table(headers, rows, left=(0, 4)), words(sure)]


_DOES = {
    "model": "the model's own distribution",
    "logit-bias": "moves the logits of chosen tokens",
    "ban": "cuts what would complete a text",
    "no-repeat-ngram": "cuts what would repeat a row",
    "min-tokens": "cuts an end that is too early",
    "repetition-penalty": "tokens of the text: less probable",
    "frequency-penalty": "frequent tokens: less probable",
    "presence-penalty": "tokens of the text: less probable",
    "dry": "repeated rows: less probable",
    "top-n-sigma": "keeps the logits near the best",
    "top-k": "keeps the k most probable",
    "typical": "keeps tokens of usual surprise",
    "top-p": "keeps the fewest that reach p",
    "min-p": "drops what is far below the best",
    "xtc": "drops the best, now and then",
    "mirostat": "keeps the surprise steady",
    "greedy": "takes the most probable",
}
_OFF = {"temperature": "temperature 1", "top-k": "top-k 0", "top-p": "top-p 1"}


def draw_sampling(page: Page, stage: dict[str, Any]) -> Parts:
    width = clamp(page.screen.width - 62, 8, 40)
    rows: list[list[str | Text]] = []
    for each in stage["candidates"]:
        mark = "→" if each["token"]["id"] == stage["drawn"]["token"]["id"] else ""
        shares = [percent(each["model_prob"]), percent(each["prob"])]
        label, token_id = short(each["token"]["label"]), str(each["token"]["id"])
        rows.append([mark, label, token_id, *shares, Text(bar(each["prob"], width), "cyan")])
    left = stage["filters"][-1]["candidates"]
    return [
        heading(page, stage, "Sampling: filters, then the draw"),
        words(
            "Filters change the probabilities or cut candidates, in this order; then one token is drawn. mass: the "
            "share of the model's own distribution that is left."
        ),
        table(("filter", "", "candidates", "mass"), _filter_rows(stage), left=(0, 1)),
        table(("", "token", "id", "model", "drawn from", ""), rows, left=(0, 1, 5)),
        words(f"the first {len(rows)} of {left} candidates") if left > len(rows) else None,
        _draw(stage),
    ]


def _filter_rows(stage: dict[str, Any]) -> list[list[str]]:
    """The filters in force, in their order; temperature, top-k and top-p also where they are off."""
    found = [each["name"] for each in stage["filters"]]
    rows = [
        [_filter_name(each), _does(each), str(each["candidates"]), percent(each["model_mass"])]
        for each in stage["filters"]
    ]
    order = list(SAMPLERS)
    for name in _OFF if "greedy" not in found else ():
        if name not in found:
            later = (i for i, other in enumerate(found) if other in order[order.index(name) :])
            place = next(later, len(found))
            found.insert(place, name)
            rows.insert(place, [_OFF[name], "off: changes nothing", "", ""])
    return rows


def _filter_name(each: dict[str, Any]) -> str:
    return "temperature 0" if each["name"] == "greedy" else stage_name(each)


def _does(each: dict[str, Any]) -> str:
    if each["name"] == "temperature":
        return ("sharper" if each["value"] < 1 else "flatter") + ": logits divided by it"
    return _DOES.get(each["name"], "")


def _draw(stage: dict[str, Any]) -> Text:
    drawn = stage["drawn"]
    text = Text("drawn: ")
    text.append(short(drawn["token"]["label"]), "bold")
    text.append(f" (id {drawn['token']['id']}), probability {percent(drawn['prob'])}")
    if stage["uniform"] is None:
        text.append(". Greedy: the most probable token, no random number.")
        return text
    text.append(
        f". Seed {stage['seed']} gives the random number {stage['uniform']:.4f}; with the candidates' shares laid end "
        f"to end in the order of ids it falls into {stage['low']:.4f} to {stage['high']:.4f}, this token's."
    )
    return text


def draw_decoding(page: Page, stage: dict[str, Any]) -> Parts:
    token = stage["token"]
    rows = [["id", str(token["id"])], ["piece in the vocabulary", visible(token["piece"])]]
    if stage["bytes"] is not None:
        spelled = " ".join(f"{byte:02x}" for byte in stage["bytes"])
        rows += [["bytes", fit(spelled, 40) if len(spelled) > 40 else spelled], ["text", _decoded(stage)]]
    text = Text(tail(page.tokens, page.screen.width - 20))
    text.append(short(token["label"]), "bold reverse" if page.screen.color else "bold")
    if stage["ends"]:
        goes_on = "This token ends the text: generation stops here."
    elif stage["output"][0] > stage["context"]:
        goes_on = f"The context of {stage['context']} tokens is full: generation stops here."
    else:
        goes_on = (
            f"The id is put behind the others and the walk begins anew with {stage['output'][0]} tokens; with a KV "
            "cache only the new one is computed. llmcli generate does this until the text ends."
        )
    return [
        heading(page, stage, "Decoding"),
        words("The drawn id is looked up in the vocabulary and becomes text again."),
        Lines(rows),
        text,
        words(goes_on),
    ]


def _decoded(stage: dict[str, Any]) -> str:
    if stage["text"]:
        return f'"{visible(stage["text"])}"'
    return "none: a special token" if stage["ends"] else "none yet: part of a character, or no text of its own"
