"""`export --push`: an exported model on the Hugging Face hub.

Whatever can be refused is refused before the model is made. A new repository is private: what a
model has forgotten, and for whom, is nobody's business until its owner says so, and what was public
for a minute is public.
"""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray_unlearn.spec.errors import EXIT_STORAGE, UserError
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.unlearn.card_facts import is_on_this_machine
from ray_unlearn.unlearn.model_files import HUB_ID
from ray_unlearn.unlearn.written_model import Form

FIRST_FILES = {".gitattributes", "README.md"}
"""What the hub itself puts into a new repository."""
TOKEN_HELP = "run `hf auth login`, or set HF_TOKEN to a token that may write"


class NotUploaded(UserError):
    """The upload failed; the exported folder is whole."""

    exit_code = EXIT_STORAGE


def check_push(repo: str, public: bool, spec: ModelSpec, form: Form) -> None:
    """Refuse an upload that could not succeed, or that nobody wants.

    Args:
        repo: hub id, `OWNER/NAME`.
        public: whether everybody may see it.
        spec: the vanilla model.
        form: of the exported model.

    Raises:
        UserError: not a hub id; adapters of a model that only this machine has; no token, or one
            that may not write there; the hub does not answer; the repository has files, or is
            public where nobody asked for that.
    """
    from huggingface_hub import HfApi, constants, get_token

    if not HUB_ID.fullmatch(repo) or "/" not in repo:
        raise UserError(_no_id(repo))
    if form == "adapter" and is_on_this_machine(spec.source):
        raise UserError(
            f"--push {repo}: adapters are loaded on their base model, and {spec.source!r} is on "
            "this machine alone; use `--form merged`, or a study whose `model.source` is a hub id"
        )
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"--push {repo}: HF_HUB_OFFLINE is set; unset it, or leave out --push")
    if get_token() is None:
        raise UserError(f"--push {repo}: there is no token for the hub; {TOKEN_HELP}")
    api = HfApi()
    _check_owner(api, repo)
    _check_repository(api, repo, public)


def push(folder: Path, repo: str, public: bool, say: Callable[[str], None]) -> None:
    """Upload an exported model.

    Args:
        folder: of the model.
        repo: as in `check_push`, which comes first.
        public: as there.
        say: called with each line of progress.

    Raises:
        NotUploaded: it failed; the message has the command to go on with.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    say(f"uploading to {repo} ({'public' if public else 'private'})")
    try:
        url = api.create_repo(repo, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message="Model exported by ray-unlearn"
        )
    # The hub's client and its transport have many errors; after any the folder is as it was.
    except Exception as error:
        again = f"hf upload {repo} {shlex.quote(str(folder))} ."
        raise NotUploaded(
            f"--push {repo}: not uploaded: {_reason(error)}; the model is whole in {folder}: go on "
            f"with `{again}{'' if public else ' --private'}`"
        ) from None
    say(f"uploaded: {url}")


def _check_owner(api: Any, repo: str) -> None:
    """The token is known to the hub, may write, and belongs to who owns the repository."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        who = api.whoami()
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            raise UserError(f"--push {repo}: the hub refuses the token; {TOKEN_HELP}") from None
        raise UserError(_no_answer(repo, error)) from None
    except Exception as error:
        raise UserError(_no_answer(repo, error)) from None
    role = who.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise UserError(f"--push {repo}: the token may only read; {TOKEN_HELP}")
    owner = repo.partition("/")[0]
    owners = [str(who.get("name")), *(str(org.get("name")) for org in who.get("orgs", []))]
    if owner.lower() not in (one.lower() for one in owners):
        raise UserError(
            f"--push {repo}: the token is of {owners[0]!r}, which can write to: "
            f"{', '.join(owners)}; name one of them as the owner"
        )


def _check_repository(api: Any, repo: str, public: bool) -> None:
    """There is none of that name, or an empty one that is as private as wanted."""
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        found = api.model_info(repo)
    except HFValidationError:
        raise UserError(_no_id(repo)) from None
    except RepositoryNotFoundError:
        return
    except Exception as error:
        raise UserError(_no_answer(repo, error)) from None
    files = {file.rfilename for file in found.siblings or []} - FIRST_FILES
    if files:
        raise UserError(
            f"--push {repo}: this repository has files ({', '.join(sorted(files)[:3])}), which "
            "would stay beside the new ones; name a new one"
        )
    if not found.private and not public:
        raise UserError(
            f"--push {repo}: this repository is public; give --public, or name a new one, which "
            "will be private"
        )


def _no_id(repo: str) -> str:
    return f"--push {repo!r}: not a hub id; write OWNER/NAME in letters, digits, `-`, `_` and `.`"


def _no_answer(repo: str, error: Exception) -> str:
    return (
        f"--push {repo}: the hub does not answer ({_reason(error)}); try again, or export without "
        f"--push and upload the folder with `hf upload {repo} FOLDER .`"
    )


def _reason(error: Exception) -> str:
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
