"""Every broken image of the corpus gives its reason and nothing else; every tricky one decodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from raytrain.data.image.image import BadImage, decode, decode_layers, header, measure
from tests.data import corpus, corpus_good, corpus_images
from tests.data.corpus_good import Good
from tests.data.corpus_images import Bad

LIMIT = 200_000_000


def open_fully(content: bytes) -> None:
    measure(content, LIMIT)
    decode(content, LIMIT)


@pytest.mark.parametrize("file", corpus_images.bad(), ids=lambda file: file.name)
def test_a_bad_image_gives_its_reason(file: Bad) -> None:
    with pytest.raises(BadImage) as caught:
        open_fully(file.content)
    reason = str(caught.value)
    assert file.reason in reason
    assert len(reason) < 300
    assert "0x7f" not in reason  # no address in memory: the same file gives the same words
    assert reason.isprintable()


@pytest.mark.parametrize("file", corpus_good.good(), ids=lambda file: file.name)
def test_a_tricky_image_decodes(file: Good) -> None:
    size = measure(file.content, LIMIT)
    image, alpha = decode_layers(file.content, LIMIT)
    assert size == image.size == file.size
    assert image.mode == "RGB"
    assert alpha is None or alpha.size == size


def test_every_path_of_the_corpus_is_there_once(tmp_path: Path) -> None:
    built = corpus.build(tmp_path)
    assert (len(built.bad), len(built.good)) == (198, 106)  # as docs/promises.md says
    assert not built.bad.keys() & built.good.keys()
    contents = [path.read_bytes() for path in (tmp_path / "source" / "good").iterdir()]
    assert len(set(contents)) == len(contents), "equal images would be rejected as duplicates"


def test_the_header_tells_of_every_transparency() -> None:
    for file in corpus_good.good():
        alpha = decode_layers(file.content, LIMIT)[1]
        transparent = header(file.content, LIMIT)[1]
        assert transparent or alpha is None, f"{file.name}: its pixels depend on the background"
