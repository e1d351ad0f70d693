"""Which pictures are kept out of training: decided by each one's content, so adding pictures moves no other. Pure."""

from __future__ import annotations

from collections.abc import Collection

TRAIN = "train"
HELD_OUT = "held_out"


def split(identities: Collection[str], fraction: float) -> dict[str, str]:
    """Map each content hash to `train` or `held_out`.

    A picture is held out when the first 32 bits of its hash, as a share of 2^32, are below `fraction`.

    Two corrections keep small sets usable where there are at least two pictures: when none falls below the fraction,
    the smallest hash is held out; when all do, the largest is trained on. Only such a lone picture may change sides
    when pictures are added.
    """
    if fraction <= 0 or len(identities) < 2:
        return dict.fromkeys(identities, TRAIN)
    held_out = {identity for identity in identities if int(identity[:8], 16) / 2**32 < fraction}
    if not held_out:
        held_out = {min(identities)}
    elif len(held_out) == len(identities):
        held_out.remove(max(held_out))
    return {identity: HELD_OUT if identity in held_out else TRAIN for identity in identities}
