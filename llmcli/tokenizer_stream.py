"""Ids to text one by one: the pieces joined are, byte for byte, what decoding all ids at once gives."""

import copy
from collections.abc import Callable, Iterable, Sequence

from llmcli.tokenizer_steps import Step


class StreamDecoder:
    """Decodes ids one at a time after a prompt.

    The pieces that `push` and `finish` give, joined, are decode(prompt + ids) less decode(prompt). Where the ids
    complete a character that the prompt began, so that its U+FFFD is no part of the whole, they are the whole less
    what it begins with in common with decode(prompt).
    """

    def __init__(
        self,
        token_of: Callable[[int], str | None],
        decode: Callable[[Sequence[int]], str],
        steps: list[Step] | None,
        prompt_ids: Sequence[int] = (),
    ) -> None:
        """`token_of` gives an id's token, None for one to leave out; `decode` is the library's decoder of all ids."""
        self._token_of = token_of
        self._decode = decode
        self._steps = steps
        self._ids = list(prompt_ids) if steps is None else []
        self._said = self._decode(self._ids) if steps is None else ""
        if steps is not None:
            for each in prompt_ids:
                self._advance(each)
            # What decode(prompt) has beyond the settled text: it was said already if it comes again.
            self._said = self._close(copy.deepcopy(steps))

    def push(self, token_id: int) -> str:
        """The text that this id settles; often none while a character is incomplete."""
        if self._steps is None:
            self._ids.append(token_id)
            return ""
        return self._new(self._advance(token_id))

    def finish(self) -> str:
        """The text still held back, with incomplete characters as U+FFFD. The stream ends here."""
        if self._steps is None:
            return self._new(self._decode(self._ids))
        return self._new(self._close(self._steps))

    def _advance(self, token_id: int) -> str:
        assert self._steps is not None
        token = self._token_of(token_id)
        tokens: Iterable[str] = () if token is None else (token,)
        for step in self._steps:
            tokens = [out for each in tokens for out in step.push(each)]
        return "".join(tokens)

    @staticmethod
    def _close(steps: list[Step]) -> str:
        tokens: list[str] = []
        for step in steps:
            tokens = [out for each in tokens for out in step.push(each)]
            tokens += step.finish()
        return "".join(tokens)

    def _new(self, text: str) -> str:
        """Drop what the prompt's own text already said, up to the first character that differs."""
        if not self._said or not text:
            return text
        common = 0
        for ours, theirs in zip(text, self._said, strict=False):
            if ours != theirs:
                self._said = ""
                return text[common:]
            common += 1
        self._said = self._said[common:]
        return text[common:]
