"""Send a published dataset to the hub, by its own client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from raytrain import storage
from raytrain.data.tools.publish import MARK, Published
from raytrain.errors import UserError

REPLACED = ("train/**", "test/**", "data/**")
"""Files of an earlier publication that this one does not have are deleted."""


def check(repo: str, folder: str) -> None:
    """Raise UserError unless the hub knows who sends, and the folder is on this machine; before
    anything is written."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils._validators import validate_repo_id

    if not storage.is_local(folder):
        raise UserError(
            f"--push sends a folder of this machine, but {folder!r} is in an object store. Give a "
            "local folder."
        )
    name = repo.split("/")
    if len(name) != 2 or not all(name):
        raise UserError(f"--push needs <user or organization>/<name>, got {repo!r}.")
    with _told(repo):
        validate_repo_id(repo)
        HfApi().whoami()


def push(published: Published, repo: str, *, private: bool = False) -> str:
    """Create the repository where there is none, send the folder, and return its address; what is
    there and equal is not sent again. UserError where the hub refuses or cannot be reached."""
    from huggingface_hub import HfApi

    api = HfApi()
    with _told(repo):
        address = api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            repo_type="dataset",
            folder_path=published.folder,
            ignore_patterns=[MARK],
            delete_patterns=list(REPLACED),
            commit_message=f"raytrain data publish: {sum(published.images.values())} images",
        )
    return str(address)


@contextmanager
def _told(repo: str) -> Iterator[None]:
    """Turn what the hub's client raises into one message."""
    from httpx2 import HTTPError  # what the hub's client speaks through
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    kept = "What was published stays in the folder; the same command sends it again."
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise UserError(
            f"Sending to {repo!r} needs a token of the hub with the right to write, but there is "
            "none. Set HF_TOKEN, or run `hf auth login`."
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            why = "does not know" if status == 401 else "does not let write there"
            raise UserError(
                f"Sending to {repo!r} needs a token with the right to write to it, but the hub "
                f"{why} the one of HF_TOKEN or `hf auth login` ({status}). Give another. {kept}"
            ) from error
        raise UserError(f"The hub refuses {repo!r} with {status}: {error}. {kept}") from error
    except HFValidationError as error:
        raise UserError(
            f"--push needs a name that the hub takes, got {repo!r}: {error}"
        ) from error
    except (HTTPError, OfflineModeIsEnabled) as error:
        raise UserError(f"The hub cannot be reached to send {repo!r}: {error}. {kept}") from error
