"""Text alignment: how well each image shows its prompt, cos(text_i, image_i) of CLIP embeddings.

CLIPScore without the rescaling (Hessel et al. 2021, arXiv:2104.08718). Empty prompts say nothing
an image could match and are left out; `evaluate.legacy` keeps them, as the published evaluation
does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raytrain.evaluate.scorers import Better

if TYPE_CHECKING:
    from raytrain.evaluate.subject import Subject

BETTER: Better = "higher"
LABEL = "Text alignment"
READS = ("clip", "legacy")


def score(subject: Subject) -> list[float]:
    """Return N cosines in [-1, 1], one an image with a prompt."""
    rows = [
        i
        for i, prompt in enumerate(subject.prompts)
        if prompt.strip() or subject.config.evaluate.legacy
    ]
    if not rows:
        return []
    cosines = (subject.prompt_embeddings * subject.image_embeddings).sum(dim=-1)
    return [float(cosines[i]) for i in rows]
