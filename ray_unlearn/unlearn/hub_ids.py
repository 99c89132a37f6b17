"""A look at whether a hub id exists, before a library asks for it again and again."""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal

from ray_unlearn.spec.errors import UserError, nearest
from ray_unlearn.spec.model_spec import ModelSpec

Kind = Literal["model", "dataset"]
PATIENCE_S = 5.0
"""Seconds to wait for the hub's answer."""


@cache
def check_hub_id(
    source: str, revision: str | None, file: str, where: str, kind: Kind = "model"
) -> None:
    """Refuse a model or data set that is neither in the cache of this machine nor on the hub.

    The libraries ask six times, for half a minute, and do not say which one may be meant.

    Args:
        source: hub id.
        revision: of the model or data set; None: the newest.
        file: in it, which is looked for.
        where: the study file's key that names it.
        kind: what it is.

    Raises:
        UserError: it is in neither, it may not be read, or the hub cannot be asked.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        cached = try_to_load_from_cache(source, file, revision=revision, repo_type=kind)
        if isinstance(cached, str):
            return
        if constants.HF_HUB_OFFLINE:
            raise UserError(_absent(source, where, "HF_HUB_OFFLINE is set", kind))
        url = hf_hub_url(source, file, revision=revision, repo_type=kind)
        get_hf_file_metadata(url, timeout=PATIENCE_S)
    except UserError:
        raise
    except EntryNotFoundError:  # said by who reads the file
        return
    except GatedRepoError:
        raise UserError(
            f"{where}: {source!r} is gated: accept its terms on the hub, and set HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise UserError(
            f"{where}: the hub's {source!r} has no revision {revision!r}; check `revision`"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(_absent(source, where, f"the hub has no such {kind}", kind)) from None
    # The client's transport has errors of its own; whichever it is, the hub has not answered.
    except Exception as error:
        reason = f"the hub does not answer ({type(error).__name__})"
        raise UserError(_absent(source, where, reason, kind)) from None


def cached_file(model: ModelSpec, name: str) -> bool:
    """Whether the cache of this machine has a file of a hub model."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model.source, name, revision=model.revision)
    except HFValidationError:
        return False
    return isinstance(found, str)


def _absent(source: str, where: str, reason: str, kind: Kind) -> str:
    use = "name its folder" if kind == "model" else "use `path`"
    return (
        f"{where}: {source!r} is no folder and not in this machine's cache, and {reason}"
        f"{_hint(source, kind)}; check its spelling, or download it and {use}"
    )


def _hint(source: str, kind: Kind) -> str:
    hint = nearest(source, _known(source, kind))
    return hint.rstrip("?") if "did you mean" in hint else ""


def _known(source: str, kind: Kind) -> Iterator[str]:
    """What is in the hub's cache, and folders of models beside where the source would be."""
    from huggingface_hub import constants

    cached = Path(constants.HF_HUB_CACHE)
    for folder in cached.glob(f"{kind}s--*"):
        yield "/".join(folder.name.split("--")[1:])
    beside = Path(source).parent
    if os.access(beside, os.R_OK) and beside.is_dir():
        for folder in beside.iterdir():
            if (folder / "config.json").is_file():
                yield str(folder)
