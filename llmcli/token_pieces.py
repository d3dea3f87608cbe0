"""The bytes that the ids of a vocabulary stand for, all at once."""

from llmcli.errors import UsageError
from llmcli.tokenizer import Tokenizer


def piece_table(tokenizer: Tokenizer, vocab_size: int) -> list[bytes]:
    """The bytes that each id stands for in a text; none for special tokens and ids without a token."""
    return [piece_bytes(tokenizer, each) for each in range(vocab_size)]


def piece_bytes(tokenizer: Tokenizer, token_id: int) -> bytes:
    """Those of one id."""
    if tokenizer.is_special(token_id):
        return b""
    try:
        return tokenizer.token_bytes(token_id)
    except UsageError:  # models may have more ids than their tokenizer has tokens
        return b""
