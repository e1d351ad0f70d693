"""Hand an address to gallery-dl, which knows hundreds of sites: its images come into a folder with
what is known of each, which the source `gallery_dl` reads."""

from __future__ import annotations

import shutil
import subprocess

from raytrain.config.data import SubsetConfig
from raytrain.data import sources
from raytrain.data.item import Item
from raytrain.errors import UserError

PROGRAM = "gallery-dl"


def scrape(url: str, folder: str) -> int:
    """Have an address's images downloaded into a local folder; return how many images it holds.

    Those there already are not downloaded again. Raises UserError where gallery-dl is not
    installed, or fails.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise UserError(
            f"`raytrain data scrape` hands {url!r} to {PROGRAM}, which is not installed here; "
            f"nothing was downloaded. Install it (`pip install {PROGRAM}`, or see "
            "https://github.com/mikf/gallery-dl), and mind the terms of the site."
        )
    done = subprocess.run(
        [program, "--write-metadata", "--directory", folder, "--", url], check=False
    )
    if done.returncode:
        raise UserError(
            f"{PROGRAM} ended with code {done.returncode} for {url!r} (its own words are above); "
            f"what it downloaded until then is in {folder!r}. Correct the address, or run the "
            "same command again: it goes on."
        )
    found = sources.items(SubsetConfig(source=folder, format="gallery_dl"))
    return sum(isinstance(item, Item) for item in found)
