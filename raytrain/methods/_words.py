"""New words of a tokenizer, and their embeddings next to those of a frozen text encoder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class NewRows(nn.Module):
    """An embedding whose first rows are frozen and whose others learn;
    no optimizer ever sees the frozen ones."""

    def __init__(self, base: nn.Embedding, first: int, new: Tensor) -> None:
        """Take the frozen embedding, the first id that is new, and the start of the new rows
        (count, D)."""
        super().__init__()
        self.base, self.first = base, first
        self.new = nn.Parameter(new.detach().clone().float())

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (...) to vectors (..., D)."""
        known = self.base(ids.clamp(max=self.first - 1))
        added = nn.functional.embedding((ids - self.first).clamp(min=0), self.new).to(known.dtype)
        return torch.where((ids >= self.first)[..., None], added, known)

    @property
    def weight(self) -> Tensor:
        """All rows, (first + count, D)."""
        return torch.cat([self.base.weight[: self.first], self.new.to(self.base.weight.dtype)])


class Words:
    """A tokenizer with new words, each read as one or more entries;
    everything else is the tokenizer's."""

    def __init__(self, tokenizer: Any, words: Mapping[str, Sequence[str]]) -> None:
        """Add the entries to the tokenizer, in order."""
        tokenizer.add_tokens([entry for entries in words.values() for entry in entries])
        self.tokenizer = tokenizer
        self._words = {word: " ".join(entries) for word, entries in words.items()}
        # A word that is already followed by its second entry was expanded before, by diffusers.
        written = "|".join(
            rf"{re.escape(word)}(?!_\d)(?!\s*{re.escape(word)}_1)" for word in words
        )
        self._pattern = re.compile(written)

    def __call__(self, text: str | Sequence[str], *args: Any, **settings: Any) -> Any:
        """Tokenize text or texts, new words expanded."""
        single = isinstance(text, str)
        texts = [self._expanded(each) for each in ([text] if isinstance(text, str) else text)]
        return self.tokenizer(texts[0] if single else texts, *args, **settings)

    def _expanded(self, text: str) -> str:
        return self._pattern.sub(lambda found: self._words[found[0]], text)

    def __len__(self) -> int:
        return len(self.tokenizer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["tokenizer"], name)
