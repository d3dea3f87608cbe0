"""Weight-name tables: which stored tensor holds the weights of which modules, and in which layout."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from llmcli.errors import CheckpointError
from llmcli.model.header import AGAIN

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Stored:
    """A stored tensor's modules, stacked along their rows (out_features).

    `transposed`: the file holds (in, out). `by_head`: the rows run head by head, each head's rows of the first
    module, then of the second, ...
    """

    modules: tuple[str, ...]
    transposed: bool = False
    by_head: bool = False

    def shape(self, shapes: list[Shape]) -> Shape:
        """The stored tensor's shape, given the shapes of the modules' own tensors."""
        stacked = (sum(s[0] for s in shapes), *shapes[0][1:])
        return stacked[::-1] if self.transposed else stacked


def same(module: str) -> Stored:
    return Stored((module,))


def transposed(*modules: str) -> Stored:
    return Stored(modules, transposed=True)


def stacked(*modules: str) -> Stored:
    return Stored(modules)


def by_head(*modules: str) -> Stored:
    return Stored(modules, by_head=True)


@dataclass(frozen=True)
class WeightTable:
    """A family's names: stored module name -> our modules; `{i}` stands for the layer.

    `bases` are the forms that the common first part of the names takes in real files, the table's own form first.
    `ignored` are patterns (after the base) of tensors that hold no weights. `aliases` are other names of a module.
    """

    modules: Mapping[str, Stored]
    bases: tuple[str, ...] = ("model.", "")
    ignored: tuple[str, ...] = ("*rotary_emb.inv_freq",)
    aliases: Mapping[str, str] | None = None

    def expected(self, layers: int, shapes: Mapping[str, Shape]) -> dict[str, Stored]:
        """Stored tensor name -> the names of our tensors in it, for the tensors that this model has (`shapes`)."""
        found: dict[str, Stored] = {}
        for pattern, entry in self.modules.items():
            for i in range(layers) if "{i}" in pattern else (0,):
                for kind in ("weight", "bias"):
                    ours = tuple(f"{module}.{kind}".replace("{i}", str(i)) for module in entry.modules)
                    if all(name in shapes for name in ours):
                        name = f"{pattern}.{kind}".replace("{i}", str(i))
                        found[name] = Stored(ours, entry.transposed, entry.by_head)
        return found

    def canonical(self, names: Mapping[str, object]) -> dict[str, str]:
        """The table's name of each stored name -> the stored name. CheckpointError where two are the same."""
        own = self.bases[0]
        base = next((b for b in sorted(self.bases, key=len, reverse=True) if any(n.startswith(b) for n in names)), own)
        found: dict[str, str] = {}
        for name in names:
            stem = own + name.removeprefix(base) if name.startswith(base) and self._based(name, base) else name
            for alias, true_name in (self.aliases or {}).items():
                if stem.startswith(alias + "."):
                    stem = true_name + stem.removeprefix(alias)
            if stem in found:
                raise CheckpointError(f"tensors {found[stem]!r} and {name!r} are the same one, stored twice", AGAIN)
            found[stem] = name
        return found

    def _based(self, name: str, base: str) -> bool:
        """Whether the name stands under the base; with an empty base, the modules beside it (lm_head) do not."""
        if base:
            return True
        beside = {n.split(".")[0] for n in self.modules if not n.startswith(self.bases[0])}
        return name.split(".")[0] not in beside | {a.split(".")[0] for a in self.aliases or {}}

    def is_ignored(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.ignored)
