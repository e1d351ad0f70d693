"""Which pictures are kept out of training: decided by each picture's own content, so adding pictures moves no other. Pure."""

from __future__ import annotations

from collections.abc import Collection

TRAIN = "train"
HELD_OUT = "held_out"


def split(identities: Collection[str], fraction: float) -> dict[str, str]:
    """Map each content hash to `train` or `held_out`: held out when its first 32 bits, as a share of 2^32, are below `fraction`.

    Two corrections keep small sets usable where there are at least two pictures: when none falls below the fraction,
    the smallest hash is held out; when all do, the largest is trained on. A picture added later may send such a lone
    held-out picture back to training, never a trained one out of it.
    """
    if fraction <= 0 or len(identities) < 2:
        return dict.fromkeys(identities, TRAIN)
    held_out = {identity for identity in identities if int(identity[:8], 16) / 2**32 < fraction}
    if not held_out:
        held_out = {min(identities)}
    elif len(held_out) == len(identities):
        held_out.remove(max(held_out))
    return {identity: HELD_OUT if identity in held_out else TRAIN for identity in identities}
