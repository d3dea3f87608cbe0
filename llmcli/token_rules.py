"""What sampling parameters say in texts, told in token ids: the side of sampling that knows a tokenizer."""

from collections.abc import Collection, Sequence

from llmcli.errors import UsageError
from llmcli.grammar import constraint
from llmcli.sampling import Ban, Breakers, TokenRules
from llmcli.sampling_params import SamplingParams
from llmcli.token_pieces import piece_bytes, piece_table
from llmcli.tokenizer import Tokenizer

# The limits that llama.cpp sets as well.
_BREAKER_BYTES = 40
_BREAKER_TOKENS = 20


def token_rules(
    params: SamplingParams, tokenizer: Tokenizer | None, vocab_size: int, eos_ids: Collection[int]
) -> TokenRules:
    """The rules of one run on a model of `vocab_size` ids. Raises `UsageError` for a text that is no token, an id that
    the model does not have, and texts without a tokenizer."""
    names = (token for token, _ in params.logit_bias if isinstance(token, str))
    if tokenizer is None and (params.ban or next(names, None) is not None):
        raise UsageError(
            "--ban and --logit-bias name texts, and the model has no tokenizer", "name tokens by their ids"
        )
    breaking = params.dry_sequence_breakers if params.dry_multiplier and tokenizer is not None else ()
    bias: dict[int, float] = {}
    for token, value in params.logit_bias:
        number = _id_of(token, tokenizer, vocab_size)
        bias[number] = bias.get(number, 0.0) + value
    bans: tuple[Ban, ...] = ()
    breakers = Breakers()
    if tokenizer is not None and (params.ban or breaking):
        pieces = piece_table(tokenizer, vocab_size)
        bans = tuple(Ban(text.encode(), pieces) for text in params.ban)
        breakers = Breakers(_rows(breaking, pieces, tokenizer))
    held = eos_ids if params.min_tokens and not params.ignore_eos else ()
    ends = frozenset(each for each in held if each < vocab_size)
    held_to = constraint(params, tokenizer, vocab_size, eos_ids)
    return TokenRules(bias, bans, breakers, ends, held_to)


def _id_of(token: int | str, tokenizer: Tokenizer | None, vocab_size: int) -> int:
    """The id that a bias names: itself, or the token that the vocabulary spells so, that stands for the text, or that
    the text is encoded as."""
    if isinstance(token, int) or tokenizer is None:
        found = int(token)
        if not 0 <= found < vocab_size:
            raise UsageError(
                f"--logit-bias: token id {found} is outside the vocabulary of {vocab_size} ids",
                f"give an id from 0 to {vocab_size - 1}, or a token's text",
            )
        return found
    named = tokenizer.id_of(token)
    if named is None:
        data = token.encode()
        named = next((i for i in range(vocab_size) if piece_bytes(tokenizer, i) == data), None)
    if named is None:
        cut = tokenizer.encode(token)
        if len(cut) != 1:
            raise UsageError(
                f"--logit-bias: {token!r} is not one token but {len(cut)}",
                "`llmcli tokenize` shows the tokens of a text; to keep a text out there is --ban",
            )
        named = cut[0]
    return _id_of(named, tokenizer, vocab_size)


def _rows(
    texts: Collection[str], pieces: Sequence[bytes], tokenizer: Tokenizer
) -> dict[int, tuple[tuple[int, ...], ...]]:
    """The rows of tokens in which a breaker's text begins, as llama.cpp finds them: a token that holds all of it
    breaks alone, one that ends in its beginning does before the tokens of the rest."""
    rows: dict[int, set[tuple[int, ...]]] = {}
    for text in texts:
        data = text.encode()[:_BREAKER_BYTES]
        for token, piece in enumerate(pieces):
            if data in piece:
                rows.setdefault(token, set()).add(())
                continue
            for size in range(1, min(len(data), len(piece) + 1)):
                if piece.endswith(data[:size]) and (rest := _text(data[size:])) is not None:
                    tail = tuple(tokenizer.encode(rest)[:_BREAKER_TOKENS])
                    rows.setdefault(token, set()).add(tail)
    return {token: tuple(sorted(tails)) for token, tails in rows.items()}


def _text(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:  # cut inside a character: no tokens spell the rest
        return None
