"""The quickstart's config: the toy world's folders written into `quickstart.toml`."""

from __future__ import annotations

from pathlib import Path

from raytrain.toy import WEIGHTS


def write_config(output: str) -> Path:
    """Write the quickstart's config to `<output>/quickstart.toml` and return its path."""
    template = Path(__file__).with_name("quickstart.toml").read_text(encoding="utf-8")
    path = Path(output) / "quickstart.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(template.format(output=output, weights=WEIGHTS), encoding="utf-8")
    return path
