"""Older forms of a tokenizer, converted: GPT-2 style `vocab.json` + `merges.txt`, and SentencePiece `tokenizer.model`.

A form whose text splitting is not known is refused by name: a guess would give ids that are nearly right.
"""

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Engine

from llmcli.errors import TokenizerError
from llmcli.tokenizer_engine import REMEDY, contained, first_line, read_json

_SAVE = "save it once with transformers: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
_GPT2_CLASSES = ("GPT2Tokenizer", "CodeGenTokenizer")
_QWEN_CLASSES = ("Qwen2Tokenizer",)
_LLAMA_CLASSES = ("LlamaTokenizer", "GemmaTokenizer", "CodeLlamaTokenizer")
# The splitting regex that Qwen2Tokenizer has in its code rather than in its files.
_QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPACE = "▁"


def convert(folder: Path) -> Engine:
    """The engine of a folder without `tokenizer.json`. Raises `TokenizerError` where nothing stands for one."""
    vocab, merges, model = (folder / name for name in ("vocab.json", "merges.txt", "tokenizer.model"))
    if vocab.is_file() and merges.is_file():
        return _from_merges(folder, vocab, merges)
    if model.is_file():
        return _from_sentencepiece(folder, model)
    raise TokenizerError(
        f"{folder} holds no tokenizer.json, no vocab.json with merges.txt, and no tokenizer.model",
        "give a folder with the model's tokenizer files",
    )


def _from_merges(folder: Path, vocab: Path, merges: Path) -> Engine:
    settings = read_json(folder / "tokenizer_config.json")
    name = _class_name(settings) or {"qwen2": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer"}.get(
        str(read_json(folder / "config.json").get("model_type")), "GPT2Tokenizer"
    )
    if name not in _GPT2_CLASSES + _QWEN_CLASSES:
        raise TokenizerError(f"{folder}: vocab.json and merges.txt of a {name} are not converted", _SAVE)
    with contained(f"{vocab} and {merges.name} are not a tokenizer"):
        engine = Engine(models.BPE(read_json(vocab), _read_merges(merges)))
    prefix = settings.get("add_prefix_space") is True
    if name in _QWEN_CLASSES:
        engine.normalizer = normalizers.NFC()
        engine.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_QWEN_SPLIT), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False),
            ]
        )
    else:
        engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    engine.decoder = decoders.ByteLevel()
    engine.post_processor = processors.ByteLevel(trim_offsets=False)
    _add_named_tokens(engine, folder, settings)
    if name in _GPT2_CLASSES and engine.token_to_id("<|endoftext|>") is not None:
        engine.add_special_tokens(["<|endoftext|>"])
    if settings.get("add_bos_token") is True:
        _begin_with(engine, folder, settings)
    return engine


def _read_merges(path: Path) -> list[tuple[str, str]]:
    """Pairs of tokens, best first; the first line may be a `#version` line."""
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path} cannot be read: {first_line(error)}", REMEDY) from error
    pairs = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        parts = line.rstrip("\r").split(" ")
        if len(parts) != 2:
            raise TokenizerError(f"{path}: line {number} is not two tokens and a space between", REMEDY)
        pairs.append((parts[0], parts[1]))
    return pairs


def _from_sentencepiece(folder: Path, path: Path) -> Engine:
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as error:
        raise TokenizerError(
            f"{folder} holds only a SentencePiece tokenizer.model",
            "install the reader of it: pip install 'llmcli[sentencepiece]'",
        ) from error
    settings = read_json(folder / "tokenizer_config.json")
    name = _class_name(settings)
    if name and name not in _LLAMA_CLASSES:
        raise TokenizerError(f"{folder}: the tokenizer.model of a {name} is not converted", _SAVE)
    proto: Any = getattr(sentencepiece_model_pb2, "ModelProto")()  # noqa: B009 - made when it is imported, so unknown to type checkers
    try:
        proto.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's errors have no common base that both its forms share
        raise TokenizerError(f"{path} is not a SentencePiece model: {first_line(error)}", REMEDY) from error
    if not proto.pieces:
        raise TokenizerError(f"{path} is not a SentencePiece model: it has no pieces", REMEDY)
    with contained(f"{path} cannot be converted"):
        engine = _sentencepiece_engine(proto)
    _add_named_tokens(engine, folder, settings)
    # LlamaTokenizer begins every text with its bos token unless its file says otherwise.
    if settings.get("add_bos_token", name != "") is not False:
        _begin_with(engine, folder, settings | {"bos_token": settings.get("bos_token") or "<s>"})
    return engine


def _sentencepiece_engine(proto: Any) -> Engine:
    """SentencePiece's `ModelProto` as an engine: model, normalizer, decoder, control and user-defined pieces."""
    kinds = proto.SentencePiece
    unknown = next((each.piece for each in proto.pieces if each.type == kinds.UNKNOWN), None)
    fallback = bool(proto.trainer_spec.byte_fallback)
    scores = [(each.piece, each.score) for each in proto.pieces]
    vocab = {piece: number for number, (piece, _) in enumerate(scores)}
    if proto.trainer_spec.model_type == proto.trainer_spec.BPE:
        mergeable = {p.piece: p.score for p in proto.pieces if p.type in (kinds.NORMAL, kinds.USER_DEFINED)}
        merges = _merges(vocab, mergeable)
        engine = Engine(models.BPE(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=fallback))
    elif proto.trainer_spec.model_type == proto.trainer_spec.UNIGRAM:
        engine = Engine(models.Unigram(scores, vocab.get(unknown), fallback))
    else:
        raise TokenizerError("the tokenizer.model is neither BPE nor Unigram", _SAVE)
    spec = proto.normalizer_spec
    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(_SPACE))
    engine.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    chain = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    engine.decoder = decoders.Sequence([*chain, *([decoders.Strip(" ", 1, 0)] if spec.add_dummy_prefix else [])])
    engine.add_special_tokens(
        [
            AddedToken(p.piece, normalized=False, special=True)
            for p in proto.pieces
            if p.type in (kinds.CONTROL, kinds.UNKNOWN)
        ]
    )
    engine.add_tokens([AddedToken(p.piece, normalized=False) for p in proto.pieces if p.type == kinds.USER_DEFINED])
    return engine


def _merges(vocab: dict[str, int], scores: dict[str, float]) -> list[tuple[str, str]]:
    """SentencePiece merges the pair whose whole scores best; as a list of pairs, that is every split in score order."""
    pairs = []
    for whole, score in scores.items():
        splits = [(whole[:cut], whole[cut:]) for cut in range(1, len(whole))]
        known = [(left, right) for left, right in splits if left in scores and right in scores]
        pairs += [(-score, vocab[left], vocab[right], left, right) for left, right in known]
    return [(left, right) for *_, left, right in sorted(pairs, key=lambda each: each[:3])]


def _class_name(settings: dict[str, Any]) -> str:
    return str(settings.get("tokenizer_class") or "").removesuffix("Fast")


def _add_named_tokens(engine: Engine, folder: Path, settings: dict[str, Any]) -> None:
    """Add the tokens that the files beside the vocabulary name, each under the very id that they give it."""
    named: dict[int, AddedToken] = {}
    decoder = settings.get("added_tokens_decoder")
    for key, each in decoder.items() if isinstance(decoder, dict) else ():
        if str(key).isdecimal() and isinstance(each, dict) and isinstance(each.get("content"), str):
            flags = {f: each.get(f) is True for f in ("single_word", "lstrip", "rstrip", "normalized", "special")}
            named[int(key)] = AddedToken(each["content"], **flags)
    for content, number in read_json(folder / "added_tokens.json").items():
        if type(number) is int and number not in named:
            named[number] = AddedToken(content, normalized=False)
    for number, token in sorted(named.items()):
        if token.special:
            engine.add_special_tokens([token])
        else:
            engine.add_tokens([token])
        if engine.token_to_id(token.content) != number:
            raise TokenizerError(f"{folder}: added token {token.content!r} cannot have id {number}", REMEDY)


def _begin_with(engine: Engine, folder: Path, settings: dict[str, Any]) -> None:
    named = settings.get("bos_token")
    content = named.get("content") if isinstance(named, dict) else named
    number = engine.token_to_id(content) if isinstance(content, str) else None
    if number is None:
        raise TokenizerError(f"{folder}: its beginning-of-text token {content!r} is not in the vocabulary", REMEDY)
    engine.post_processor = processors.TemplateProcessing(
        single=[content, "$A"], pair=[content, "$A", "$B"], special_tokens=[(content, number)]
    )
