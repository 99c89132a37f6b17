"""Guidelines: what studies and tables say about hyperparameters, and the next study's space."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from ray_unlearn.api.given import PathLike, Say, voice
from ray_unlearn.api.study_handle import Study
from ray_unlearn.spec.errors import StorageError, UserError
from ray_unlearn.spec.guideline_file import (
    BestTrial,
    Guideline,
    Guidelines,
    Recommendation,
    Status,
    load_guidelines,
)
from ray_unlearn.spec.strict import validated
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.atomic_write import write_whole
from ray_unlearn.store.location import fetched, send_folder
from ray_unlearn.store.status import open_study
from ray_unlearn.store.storage import below, checked_url, is_remote, storage_at

if TYPE_CHECKING:
    import pandas as pd

    from ray_unlearn.analysis.why.explanation import Explanation

Source = Study | PathLike
Drawn = Literal["random", "adaptive"]
FRAME = (
    "id", "kind", "status", "grade", "method", "param", "low", "high", "choices", "start", "trials",
    "groups", "seeds", "text", "why",
)  # fmt: skip


@dataclass(frozen=True, repr=False)
class Guide:
    """Guidelines: claims about hyperparameters with their evidence, made or withheld.

    Attributes:
        file: everything, in the form of a guidelines.json.
        studies: the studies that it was made from, as resolved study files.
        sources: locations of what it was made from, or of the file.
    """

    file: Guidelines
    studies: tuple[StudySpec, ...] = ()
    sources: tuple[str, ...] = ()

    @classmethod
    def read(cls, where: "Source") -> "Guide":
        """The guide of a report that was written.

        Args:
            where: a guidelines.json, the report's folder, or a study with its report in it.

        Raises:
            UserError: there is no guidelines.json.

        Examples:
            >>> ru.Guide.read("results/my-study").sentences
        """
        place = _location(where)
        with fetched(place) as folder:
            file = next((path for path in _files_at(place, folder) if path.is_file()), None)
            if file is None:
                raise UserError(
                    f"{place}: no guidelines.json there, nor in report/; `ray-unlearn report` "
                    "writes one"
                )
            return cls(load_guidelines(file), sources=(place,))

    def __repr__(self) -> str:
        counts = f"{len(self.claimed)} claimed, {len(self.likely)} likely"
        return f"<Guide: {counts}, {len(self.withheld)} not known>"

    @property
    def recommendations(self) -> tuple[Recommendation, ...]:
        """The setting of each method to use, and what it may cost; the best method first.

        Always there, however few the trials: without a response surface it is the best trial.

        Examples:
            >>> guide.recommendations[0].setting
            {'learning_rate': 0.000508, 'w_r': 8.14}
        """
        return self.file.recommendations

    @property
    def claimed(self) -> tuple[Guideline, ...]:
        """Claims that were made.

        Examples:
            >>> [claim.text for claim in guide.claimed]
        """
        return self.file.claimed

    @property
    def likely(self) -> tuple[Guideline, ...]:
        """Ranges that are good with a `probability`, and what would settle them.

        Examples:
            >>> [(g.param, g.search_space.low, g.search_space.high) for g in guide.likely]
        """
        return self._of("likely")

    @property
    def leave_alone(self) -> tuple[Guideline, ...]:
        """Hyperparameters of which no value that was searched costs more than the tolerance.

        Examples:
            >>> [g.param for g in guide.leave_alone]
        """
        return self._of("leave_alone")

    def _of(self, status: Status) -> tuple[Guideline, ...]:
        return tuple(g for g in self.file.guidelines if g.status == status)

    @property
    def withheld(self) -> tuple[Guideline, ...]:
        """What is not known; `why` says what is missing.

        Examples:
            >>> {claim.id: claim.why for claim in guide.withheld}
        """
        return self._of("not_known")

    @property
    def best(self) -> tuple[BestTrial, ...]:
        """The best trial of each study and method, with its hyperparameters.

        Examples:
            >>> min(guide.best, key=lambda trial: trial.score).hyperparameters
        """
        return self.file.best_trials

    @property
    def columns(self) -> "pd.DataFrame":
        """What each column of foreign tables was taken for.

        Returns:
            One line each: `source`, `column`, `use`, `name`, `why`.

        Examples:
            >>> guide.columns.query("use == 'hyperparameter'")["column"].tolist()
        """
        import pandas as pd

        found = self.file.provenance.get("columns", [])
        return pd.DataFrame(found, columns=["source", "column", "use", "name", "why"])

    @property
    def sentences(self) -> dict[str, str]:
        """What the guide says, by id: recommended settings, then claims, made or withheld.

        Examples:
            >>> guide.sentences["range/gradient_ascent/learning_rate"]
        """
        from ray_unlearn.analysis.why.named_records import records_of

        return {name: record.text for name, record in records_of(self.file).items()}

    def why(self, claim: str) -> "Explanation":
        """What stands behind a sentence, computed again from its sources.

        Args:
            claim: its id, a key of `sentences`.

        Returns:
            Statistic, estimates, thresholds, trials, seed, and whether the sentence comes out the
            same; `print` it.

        Raises:
            UserError: there is no such id, or a source cannot be read.
            StorageError: a source is damaged.

        Examples:
            >>> print(guide.why("range/gradient_ascent/learning_rate"))
        """
        from ray_unlearn.analysis.why.explanation import explanation

        with ExitStack() as stack:
            near = [stack.enter_context(fetched(one)) for one in self.sources]
            return explanation(self.file, claim, near, " ".join(self.sources))

    def to_frame(self) -> "pd.DataFrame":
        """All guidelines, claimed and withheld, as a table.

        Returns:
            One line each: `id`, `kind`, `status`, `grade`, `method`, `param`; where to search next
            (`low`, `high` or `choices`, and `start`); `trials`, `groups` and `seeds` behind it;
            `text`, and `why` it is withheld.

        Examples:
            >>> guide.to_frame().query("status == 'claimed'")[["method", "param", "low", "high"]]
        """
        import pandas as pd

        return pd.DataFrame([_frame_line(g) for g in self.file.guidelines], columns=list(FRAME))

    def save(self, path: PathLike) -> Path:
        """Write a guidelines.json, as `report` does.

        Args:
            path: the file to write.

        Returns:
            `path`.

        Raises:
            StorageError: the file cannot be written.

        Examples:
            >>> guide.save("guidelines.json")
        """
        output = Path(path)
        try:
            write_whole(output, self.file.as_json().encode())
        except OSError as error:
            raise StorageError(f"{output}: cannot be written: {error}") from None
        return output

    def narrow(
        self,
        path: PathLike,
        study: StudySpec | Study | PathLike | None = None,
        *,
        likely: bool = False,
        say: Say | None = None,
    ) -> StudySpec:
        """Write the next study's file, which searches where good regions are claimed.

        Args:
            path: the file to write; `run` accepts it.
            study: what to narrow: a study file, its spec, or a study; None: the first study that
                the guidelines were made from.
            likely: search likely ranges too, where none is claimed.
            say: called with each line on what was done; None: the lines go to stderr.

        Returns:
            The narrowed study.

        Raises:
            UserError: nothing was claimed about what it searches, or there is no study to narrow.
            StorageError: the file cannot be written.

        Examples:
            >>> guide.narrow("next.yaml")
            >>> ru.run("next.yaml", "results/next")
        """
        if study is None:
            if not self.studies:
                raise UserError(
                    f"{path}: guidelines from tables alone name no model and no data; give the "
                    'study to narrow: guide.narrow(path, "my_study.yaml")'
                )
            study = self.studies[0]
        from ray_unlearn.execution.resume import write_spec

        spec = narrow(study, self, likely=likely, say=say)
        write_spec(Path(path), spec)
        return spec


@dataclass(frozen=True)
class Report:
    """A report that was written."""

    page: str
    """Path or address of the HTML page.

    The same page in Markdown, guidelines.json, `figures/` and `data/` are beside it.
    """
    guide: Guide

    def _repr_html_(self) -> str:
        return f'<a href="{self.page}">{self.page}</a>'


def guidelines(
    *sources: Source,
    mapping: Mapping[str, str] | None = None,
    score: str | None = None,
    maximise: bool | None = None,
    tolerance: float | None = None,
    sampler: Drawn | None = None,
    params: Sequence[str] = (),
    outcomes: Sequence[str] = (),
    failed: Sequence[str] = (),
    objective: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Guide:
    """Guidelines from studies, result tables, and anyone's tables of trials.

    Args:
        sources: studies or their locations, tables (CSV, TSV, JSON lines, Parquet), Optuna
            storages, folders of Ray Tune, DeepCAVE or OpenUnlearning.
        mapping: from columns of a foreign table to our names (`{"lr": "learning_rate"}`).
        score: column of a foreign table that is the score.
        maximise: whether higher scores of a foreign table are better; None: as its program or
            its name tells.
        tolerance: how far from the best is still good, in units of the score; None: from the data.
        sampler: how the trials of a foreign table were drawn, if the table does not say.
        params: columns of a foreign table that are hyperparameters; empty: decided by column.
        outcomes: columns that are results, whatever they look like.
        failed: words in the score column that mean a failed trial, such as `FAIL`.
        objective: weights of the score's parts `forget_gap`, `retain` and `general` (1 where not
            named) to score all trials with again, such as `{"general": 2}`; None: as searched.
        seed: seed of every random draw.

    Returns:
        The guidelines that `report` would write.

    Raises:
        UserError: no source, or one that cannot be read.
        StorageError: a study is damaged, or the object store cannot be read.

    Examples:
        >>> guide = ru.guidelines(study, "others.csv", mapping={"lr": "learning_rate"})
        >>> guide
        <Guide: 3 claimed, 2 likely, 9 not known>
    """
    from ray_unlearn.analysis.report.derive import derive_guidelines

    with _read(sources) as paths:
        found = derive_guidelines(
            paths,
            mapping=mapping,
            score=score,
            maximise=maximise,
            tolerance=tolerance,
            sampler=sampler,
            params=params,
            outcomes=outcomes,
            failed=failed,
            objective=objective,
            seed=seed,
        )
        return Guide(found, _specs(paths), tuple(map(_location, sources)))


def report(
    *sources: Source,
    out: PathLike | None = None,
    mapping: Mapping[str, str] | None = None,
    score: str | None = None,
    maximise: bool | None = None,
    tolerance: float | None = None,
    sampler: Drawn | None = None,
    params: Sequence[str] = (),
    outcomes: Sequence[str] = (),
    failed: Sequence[str] = (),
    objective: Mapping[str, float] | None = None,
    since: PathLike | None = None,
    seed: int = 0,
    next_trials: int = 0,
) -> Report:
    """Write the report: guidelines with their evidence, each study, figures, numbers as CSV.

    Args:
        sources: as in `guidelines`.
        out: folder or address; None: `report/` in the first study, or here for a table.
        mapping: as in `guidelines`, like the next eight.
        score: column that is the score.
        maximise: whether higher scores are better.
        tolerance: how far from the best is still good.
        sampler: how trials were drawn.
        params: columns that are hyperparameters.
        outcomes: columns that are results.
        failed: words that mean a failed trial.
        objective: weights of the score's parts to score all trials with again.
        since: an earlier guidelines.json to compare with.
        seed: seed of every random draw.
        next_trials: how many trials to name that would settle most of what is open. They are
            written beside the page: `next.csv`, and for each study `next.yaml`, which `run` takes.

    Returns:
        The page, and the guidelines in it.

    Raises:
        UserError: no source, or one that cannot be reported on.
        StorageError: `out` cannot be written.

    Examples:
        >>> ru.report(study, other, out="report/").page
        '/home/me/report/report.html'
    """
    from ray_unlearn.analysis.report.write import write_report

    target = _default_out(sources) if out is None else os.fspath(out)
    with ExitStack() as stack:
        paths = stack.enter_context(_read(sources))
        folder = Path(target)
        if is_remote(target):
            checked_url(target)
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="ray-unlearn-"))) / "report"
        page = write_report(
            paths,
            folder,
            mapping=mapping,
            score=score,
            maximise=maximise,
            tolerance=tolerance,
            sampler=sampler,
            params=params,
            outcomes=outcomes,
            failed=failed,
            objective=objective,
            since=None if since is None else Path(since),
            seed=seed,
            next_count=next_trials,
        )
        file = load_guidelines(page.parent / "guidelines.json")
        guide = Guide(file, _specs(paths), tuple(map(_location, sources)))
        send_folder(target, page.parent)
    return Report(
        str(below(target, page.name)) if is_remote(target) else str(page.resolve()), guide
    )


def narrow(
    study: StudySpec | Study | PathLike,
    guidelines: Guide | PathLike,
    *,
    likely: bool = False,
    say: Say | None = None,
) -> StudySpec:
    """The study with its spaces narrowed to what guidelines claim; `run` accepts it.

    A fifth of each narrowed method's trials stay in its own space, so that a claim can be refuted.

    Args:
        study: a study file, its spec, or a study.
        guidelines: what `guidelines` returns, or a guidelines.json.
        likely: search likely ranges too, where none is claimed.
        say: called with each line on what was done; None: the lines go to stderr.

    Returns:
        A resolved study.

    Raises:
        UserError: nothing was claimed about what the study searches, or its sampler runs given
            points.

    Examples:
        >>> ru.run(ru.narrow("my_study.yaml", guide), "results/narrowed")
    """
    from ray_unlearn.demo import DOMAINS, demo_domain
    from ray_unlearn.spec.narrowing import narrowed

    spec = as_spec(study)
    file, where = (
        (guidelines.file, "guidelines")
        if isinstance(guidelines, Guide)
        else (load_guidelines(Path(guidelines)), os.fspath(guidelines))
    )
    domain = spec.data.domain or DOMAINS[demo_domain(spec.data.source or "")]
    found, notes = narrowed(spec, file, where, domain, likely)
    for note in notes:
        voice(say)(note)
    return found


def as_spec(
    study: StudySpec | Study | PathLike, operations: Mapping[str, Any] | None = None
) -> StudySpec:
    """The resolved study of a file, a spec or a study, with some of its operations replaced."""
    if isinstance(study, Study):
        study = study.spec
    if not isinstance(study, StudySpec):
        return load_study(Path(study), dict(operations or {}))
    if not operations:
        return study
    content = study.model_dump(mode="json")
    content["operations"] |= operations
    return validated(StudySpec, content, study.name)


@contextmanager
def _read(sources: tuple[Source, ...]) -> Iterator[list[Path]]:
    """Folders and files of the sources, with remote studies as copies."""
    with ExitStack() as stack:
        yield [stack.enter_context(fetched(_location(source))) for source in sources]


def _location(source: Source) -> str:
    return source.location if isinstance(source, Study) else os.fspath(source)


def _files_at(place: str, folder: Path) -> Iterator[Path]:
    """Where the guidelines.json of a file, a report or a study may be; `folder`: its copy here."""
    if not folder.is_dir():
        yield folder
        return
    for name in ("guidelines.json", "report/guidelines.json"):
        if is_remote(place):
            (folder / name).parent.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):
                storage_at(place).fetch(name, folder / name)
        yield folder / name


def _default_out(sources: tuple[Source, ...]) -> str:
    if not sources:
        return "report"
    first = _location(sources[0])
    return str(below(first, "report")) if is_remote(first) or Path(first).is_dir() else "report"


def _specs(paths: list[Path]) -> tuple[StudySpec, ...]:
    return tuple(open_study(path)[0] for path in paths if (path / "ledger").is_dir())


def _frame_line(guideline: Guideline) -> dict[str, Any]:
    line = guideline.model_dump(include={"id", "kind", "status", "grade", "param", "text"})
    space = guideline.search_space
    if space is not None:
        line |= {"low": space.low, "high": space.high, "choices": space.choices}
    return line | {
        "method": guideline.scope.method,
        "start": guideline.warm_start,
        "trials": guideline.evidence.n_trials,
        "groups": guideline.evidence.n_groups,
        "seeds": guideline.evidence.n_seeds,
        "why": guideline.why,
    }
