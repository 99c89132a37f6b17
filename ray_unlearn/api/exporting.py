"""What `Study.export` does for a model, and what it refuses for a table."""

from pathlib import Path

from ray_unlearn.api.given import Say
from ray_unlearn.spec.errors import UserError
from ray_unlearn.store.location import fetched
from ray_unlearn.store.status import open_study
from ray_unlearn.store.storage import storage_at


def check_table(output: Path, update: int | None, push: str | None) -> None:
    """Refuse what belongs to a model where no trial is named.

    Raises:
        UserError: an update, an upload, or a path that is no table's.
    """
    if update is not None:
        raise UserError(
            f"{output}: the table has all updates; name a trial (`best`, an id or a number) for "
            f"its model after update {update}"
        )
    if push is not None:
        raise UserError(
            f"--push {push}: a model is uploaded, not the table; name a trial (`best`, an id or a "
            "number)"
        )
    if output.suffix not in (".csv", ".parquet"):
        raise UserError(
            f"{output}: give a .csv or .parquet file for the table, or name a trial (`best`, an id "
            "or a number) for its model"
        )


def export_trial(
    location: str,
    output: Path,
    trial: str,
    say: Say,
    *,
    update: int | None,
    strength: float | None,
    form: str,
    anyway: bool,
    push: str | None,
    public: bool,
) -> None:
    """Write the model of a trial, and upload it where that is asked for; see `Study.export`."""
    from ray_unlearn.unlearn.hub_push import check_push
    from ray_unlearn.unlearn.hub_push import push as upload
    from ray_unlearn.unlearn.model_export import check_output, export_model
    from ray_unlearn.unlearn.written_model import checked_form

    if public and push is None:
        raise UserError("--public: says who may see an upload; give --push OWNER/NAME too")
    check_output(output)
    with fetched(location) as folder:
        spec, _ = open_study(folder)
        chosen = checked_form(form, spec.model)
        if push is not None:
            check_push(push, public, spec.model, chosen)
        export_model(
            folder,
            storage_at(location),
            output,
            trial,
            update,
            say,
            strength,
            form=chosen,
            anyway=anyway,
        )
    if push is not None:
        upload(output, push, public, say)
