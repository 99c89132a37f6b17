"""`Study`: the handle of a study in Python."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_unlearn.api.attacking import attack_repeats, attack_spec, attacked
from ray_unlearn.api.exporting import check_table, export_trial
from ray_unlearn.api.given import Lanes, PathLike, Say, operations_given, voice
from ray_unlearn.spec.errors import UserError, nearest
from ray_unlearn.spec.known_elsewhere import ATTRIBUTES, elsewhere
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.task_results import TaskResults
from ray_unlearn.store.attack_file import AttackedModel
from ray_unlearn.store.failure_reasons import FailureReasons, reasons_in_words
from ray_unlearn.store.location import check_no_file, fetched, opened, send
from ray_unlearn.store.migrate import migrate
from ray_unlearn.store.repair import repair, repair_remote
from ray_unlearn.store.snapshot import BestConfiguration, Snapshot, taken
from ray_unlearn.store.status import Status, open_study
from ray_unlearn.store.status import status as read_status
from ray_unlearn.store.storage import is_remote, storage_at
from ray_unlearn.store.table import write_table
from ray_unlearn.store.verify import Verification
from ray_unlearn.store.verify import verify as check

if TYPE_CHECKING:
    import pandas as pd

    from ray_unlearn.analysis.guidelines.confirmation import Confirmation
    from ray_unlearn.execution.study import StudyResult


class Study:
    """A study that was run or is running: read it, go on with it, export its model.

    `run` and `open` make it. The first access reads the study, and from then on `best`, `trials`,
    `rows` and `baselines` show that moment; `refresh` reads it again. Nothing is written before
    `resume`, `confirm` or `repair` is called, so a study that is running elsewhere can be opened at
    any time.

    Attributes:
        location: the study's folder, or its address in an object store.
        last_run: how the last run that this object started ended (`interrupted`, `counts` of
            trials by outcome, `reasons` why trials have no result with their counts, `exit_code`);
            None when it has started none.
    """

    def __init__(self, location: PathLike) -> None:
        self.location = os.fspath(location)
        self.last_run: StudyResult | None = None
        self._seen: Snapshot | None = None

    def __repr__(self) -> str:
        if self._seen is not None and self._seen.bests:
            best = self._seen.bests[0]
            said = f": best {best.method}, score {best.score_selection:.4g} (selection half)"
        elif self.last_run is not None:
            counts = self.last_run.counts.items()
            said = f": {', '.join(f'{count} {outcome}' for outcome, count in counts)}"
            if self.last_run.reasons:
                said += f"; {reasons_in_words(self.last_run.reasons)}"
        else:
            said = ""
        return f"<Study at {self.location}{said}>"

    if not TYPE_CHECKING:  # a type checker must see a name that is not there as an error

        def __getattr__(self, name: str) -> object:
            """Say what an attribute of Optuna's studies is here."""
            if hasattr(type(self), name):  # an error inside a property: let that one be seen
                return object.__getattribute__(self, name)
            known = elsewhere(ATTRIBUTES, name)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{known}")

    @property
    def spec(self) -> StudySpec:
        """The resolved study file, search spaces included.

        Raises:
            UserError: no study there.
            StorageError: it cannot be read.

        Examples:
            >>> study.spec.methods
            ('gradient_ascent', 'ascent_kl_in_distribution')
        """
        return self._snapshot.spec

    @property
    def best(self) -> BestConfiguration:
        """The best configuration of the study, which `export(trial="best")` exports.

        Returns:
            A record: method, trial number and id, update, hyperparameters, the scores of both
            halves (`score_selection` chose it, `score_reporting` is the one to quote), and the name
            of the rule that scored it.

        Raises:
            UserError: no trial has a score yet.
            StorageError: the study cannot be read.

        Examples:
            >>> study.best.method, study.best.hyperparameters["learning_rate"]
            ('ascent_kl_in_distribution', 0.0031)
        """
        bests = self._snapshot.bests
        if not bests:
            raise UserError(self._no_score())
        return bests[0]

    def best_of(self, method: str) -> BestConfiguration:
        """The best configuration of one method.

        Args:
            method: one of the study's methods.

        Returns:
            A record like `best`.

        Raises:
            UserError: `method` is not in this study, or none of its trials has a score.
            StorageError: the study cannot be read.

        Examples:
            >>> [study.best_of(method).score_reporting for method in study.spec.methods]
            [0.31, 0.12]
        """
        if method not in self.spec.methods:
            raise UserError(
                f"{method!r} is no method of this study{nearest(method, self.spec.methods)}"
            )
        for best in self._snapshot.bests:
            if best.method == method:
                return best
        raise UserError(self._no_score(method))

    @property
    def trials(self) -> "pd.DataFrame":
        """One line per trial, by number.

        Returns:
            Columns: `number`, `trial_id`, `method`, `status` (`complete`, `pruned`, `diverged`,
            `out_of_memory`, `failed`, `running`), `reason`, `sampled_by`, the hyperparameters,
            `rows` (how many it has), and `update`, `score_selection`, `score_reporting` of the row
            that scores it (NaN where it has no score; nats per token, lower is better).

        Raises:
            UserError: no study there.
            StorageError: it cannot be read.

        Examples:
            >>> study.trials.sort_values("score_selection")[["method", "learning_rate", "update"]]
        """
        return self._snapshot.trials.to_pandas()

    @property
    def rows(self) -> "pd.DataFrame":
        """The result table: one line per evaluation row, by trial and update.

        Returns:
            Study, trial, outcome and hyperparameters on each line, and the metrics of
            docs/metrics.md. A trial without rows has one line, with no `update`.

        Raises:
            UserError: no study there.
            StorageError: it cannot be read.

        Examples:
            >>> study.rows.groupby("number")["forget_ppl"].max()
        """
        return self._snapshot.rows.to_pandas()

    @property
    def baselines(self) -> "pd.DataFrame":
        """The models that no trial changed, by the metrics of the result table.

        Returns:
            One line each: `baseline` (`vanilla` and, where the study has exactly retrained models,
            `exact_retrain`, `exact_retrain_2` ...), and the metrics of docs/metrics.md.

        Raises:
            UserError: no study there.
            StorageError: it cannot be read.

        Examples:
            >>> study.baselines.set_index("baseline")["forget_ppl"]
        """
        return self._snapshot.baselines.to_pandas()

    def status(self) -> Status:
        """The state of the study now.

        Returns:
            Trials by outcome, the best of each method, notes, and the last report of a running
            study's driver (lanes, rate, time left).

        Raises:
            UserError: no study there.
            StorageError: it cannot be read.

        Examples:
            >>> study.status().finished
            4
        """
        with fetched(self.location) as folder:
            return replace(read_status(folder), folder=self.location)

    def refresh(self) -> "Study":
        """Read the study again, so that `best`, `trials` and `rows` are up to date.

        Returns:
            The same object.

        Raises:
            UserError: no study there.
            StorageError: it cannot be read.

        Examples:
            >>> study.refresh().best
        """
        with fetched(self.location) as folder:
            self._seen = taken(folder)
        return self

    def resume(
        self,
        trials: int | None = None,
        *,
        retry_failed: bool = False,
        lanes: Lanes = None,
        workers: int | None = None,
        address: str | None = None,
        quiet: bool = False,
        say: Say | None = None,
    ) -> "Study":
        """Go on with a stopped study, or extend a finished one; finished trials stay as they are.

        Args:
            trials: number of trials of each method to add; None: the study as it was asked for.
            retry_failed: run failed trials again.
            lanes: warm worker groups, or `auto` for as many as fit; None: the study file's.
            workers: workers per lane; None: the study file's.
            address: address of a Ray cluster; None: Ray on this machine.
            quiet: show no progress and print no messages.
            say: called with each line of progress; None: the lines go to stderr.

        Returns:
            The same object; `last_run` says how the run ended.

        Raises:
            UserError: study, model or data were changed, or lanes cannot run.
            StorageError: no study there, another process runs it, or it cannot be written.

        Examples:
            >>> study.resume(trials=5).last_run.counts
            {'complete': 14}
        """
        if not is_remote(self.location):
            check_no_file(self.location)  # before torch and ray are imported
        from ray_unlearn.execution.study import resume_study

        result = resume_study(
            self.location,
            operations=operations_given(lanes, workers),
            add_trials=trials,
            retry_failed=retry_failed,
            address=address,
            quiet=quiet,
            say=voice(say, quiet),
        )
        return self.after(result)

    def confirm(
        self,
        top: int = 1,
        seeds: int = 5,
        *,
        per_method: bool = False,
        attacks: Iterable[str] = (),
        lanes: Lanes = None,
        workers: int | None = None,
        address: str | None = None,
        quiet: bool = False,
        say: Say | None = None,
    ) -> "Confirmation":
        """Run the best configurations again with new seeds, which had no part in choosing them.

        The confirmation is a study of its own in `confirm/` below this one. If it was stopped, the
        same call goes on with it.

        Args:
            top: number of configurations, ranked by the score that chose them.
            seeds: number of new seeds for each, at least 2.
            per_method: take `top` configurations of each method.
            attacks: `relearn`, `quantise`: made on each of the new models, which this process makes
                again one by one (as `attack` does). The report shows them.
            lanes: as in `resume`, like all arguments below.
            workers: workers per lane.
            address: address of a Ray cluster.
            quiet: show no progress and print no messages.
            say: called with each line of progress.

        Returns:
            For each configuration, what the study claimed, and the mean and 90 % t-interval of the
            score on the reporting half over the new seeds.

        Raises:
            UserError: no trial has a score, or model or data were changed.
            StorageError: no study there, or it cannot be written.

        Examples:
            >>> found = study.confirm(top=3, seeds=5)
            >>> [(one.method, one.interval.mean) for one in found.configurations]
        """
        from ray_unlearn.analysis.guidelines.confirmation import confirmation, write_confirmation
        from ray_unlearn.execution.confirm import confirm_study

        names = tuple(attacks)
        how = attack_spec(names) if names else None
        self.last_run = confirm_study(
            self.location,
            top,
            seeds,
            per_method=per_method,
            operations=operations_given(lanes, workers),
            address=address,
            quiet=quiet,
            say=voice(say, quiet),
        )
        place = self.last_run.location
        with fetched(self.location) as study, fetched(place) as folder:
            found = confirmation(study, folder)
            if how is not None:
                attack_repeats(self.location, found, how, voice(say, quiet))
                with fetched(self.location) as now:
                    found = confirmation(now, folder)
            send(place, write_confirmation(found, folder))
        return found

    def export(
        self,
        path: PathLike,
        trial: str | int | None = None,
        *,
        update: int | None = None,
        strength: float | None = None,
        form: str = "merged",
        anyway: bool = False,
        push: str | None = None,
        public: bool = False,
        say: Say | None = None,
    ) -> Path:
        """Write the model of a trial or, without `trial`, the result table.

        The study has the best trial's weights. For another trial this process runs it again, which
        gives the same weights bit for bit on one CPU worker. What was written is read again and
        measured; its card has those numbers.

        Args:
            path: a new folder for a model (Hugging Face format, with its tokenizer), or a `.csv` or
                `.parquet` file for the table.
            trial: `best`, or the id or number of a trial.
            update: the update to stop the trial at; None: that of the row that scores it.
            strength: a in W_0 + a (W_t - W_0), above 0 and at most 2; None: that of the row that
                scores the trial, or 1, which is as trained, if `update` is given.
            form: `merged`: whole weights; `adapter`: the LoRA adapters alone, of a study with
                `model.lora`.
            anyway: write also a model that the report calls not feasible.
            push: hub id, `OWNER/NAME`, to upload the model to.
            public: let everybody see the upload; else it is private.
            say: called with each line of progress; None: the lines go to stderr.

        Returns:
            `path`.

        Raises:
            UserError: no such trial, no score, a model that is not feasible, an update without a
                trial, a path that is in use or has another ending, model or data have changed
                since, what was written is not the model that was measured, or an upload that cannot
                succeed.
            StorageError: the study cannot be read or the path cannot be written.

        Examples:
            >>> study.export("model/", trial="best")
            PosixPath('model')
        """
        output, say = Path(path), voice(say)
        if trial is None:
            check_table(output, update, push)
            write_table(self._snapshot.rows, output)
            say(f"wrote {output}")
            return output
        export_trial(
            self.location,
            output,
            str(trial),
            say,
            update=update,
            strength=strength,
            form=form,
            anyway=anyway,
            push=push,
            public=public,
        )
        return output

    def evaluate(
        self,
        tasks: str | Sequence[str],
        trial: str | int = "best",
        *,
        update: int | None = None,
        strength: float | None = None,
        num_fewshot: int | None = None,
        limit: int | None = None,
        batch_size: int | None = None,
        chat_template: bool = False,
        say: Say | None = None,
    ) -> TaskResults:
        """Run lm-evaluation-harness on the model of a trial, on vanilla and the retrained model.

        The results are stored with the study, and `report` shows them. The same call again replaces
        them. Data sets come from the hub, from its cache, or from the files of a task file; the
        variables that forbid the network (HF_DATASETS_OFFLINE) are the caller's.

        Args:
            tasks: names of tasks or groups of lm-eval, or paths of task files (.yaml), whose own
                paths are relative to their folders.
            trial: `best`, or the id or number of a trial.
            update: as in `export`.
            strength: as in `export`.
            num_fewshot: examples before each question; None: as each task has it.
            limit: take the first examples of each task only.
            batch_size: sequences per forward pass; None: the study's `evaluation.batch_size`.
            chat_template: write prompts with the tokenizer's chat template.
            say: called with each line of progress; None: the lines go to stderr.

        Returns:
            A record whose `scores` have `task`, `metric`, and `values` and `standard_errors` by
            model: `this`, `vanilla` and, where there is one, `exact_retrain`.

        Raises:
            UserError: lm-eval is not installed, an unknown task, data that cannot be loaded, or
                what `export` refuses.
            StorageError: the study cannot be read or written.

        Examples:
            >>> study.evaluate("arc_easy", limit=100).scores[0].values
            {'this': 0.61, 'vanilla': 0.62, 'exact_retrain': 0.62}
        """
        names = [tasks] if isinstance(tasks, str) else list(tasks)
        with fetched(self.location) as folder:
            read = open_study(folder)  # before torch is imported
            from ray_unlearn.unlearn.lm_eval_tasks import load_tasks
            from ray_unlearn.unlearn.task_evaluation import evaluate_trial
            from ray_unlearn.unlearn.trial_model import chosen_for_export

            chosen_for_export(*read, str(trial), update, strength)  # fails early
            return evaluate_trial(
                folder,
                storage_at(self.location),
                str(trial),
                load_tasks(names, num_fewshot, limit, chat_template),
                voice(say),
                update=update,
                strength=strength,
                batch_size=batch_size,
            )

    def attack(
        self,
        trial: str | int = "best",
        attacks: Iterable[str] | None = None,
        *,
        update: int | None = None,
        strength: float | None = None,
        prefixes: Iterable[str] = (),
        paraphrases: PathLike | None = None,
        say: Say | None = None,
        **settings: Any,
    ) -> AttackedModel:
        """Attack the model of a trial, beside the vanilla and the exactly retrained one.

        The model is made as `export` makes it and has to give the ledger's row. What is measured
        is added to the study's `attacks.json`, which `report` shows (docs/attacks.md).

        Args:
            trial: `best`, or the id or number of a trial.
            attacks: of `relearn`, `quantise` and `prompts`; None: the first two, and `prompts`
                where some are given.
            update: as in `export`.
            strength: as in `export`.
            prefixes: texts to put before each forget document or prompt.
            paraphrases: a file or folder with the forget set in other words.
            say: called with each line of progress; None: the lines go to stderr.
            settings: other fields of `AttackSpec`: `updates`, `learning_rate`, `batch_size`,
                `share`, `learnt`, `bits`, `group_size`.

        Returns:
            A record whose `outcomes` have NLL and share undone of each attack, and whose `lines`
            make a data frame.

        Raises:
            UserError: no such trial, no score, a setting that does not exist, the model made again
                is another one, or model or data have changed since.
            StorageError: the study cannot be read, or the file cannot be written.

        Examples:
            >>> [(one.setting, one.undone()) for one in study.attack().of("quantise")]
            [('8 bits, groups of 64', 0.0), ('4 bits, groups of 64', 0.01)]
        """
        given = {"prefixes": tuple(prefixes), **settings}
        if paraphrases is not None:
            given["paraphrases"] = os.fspath(paraphrases)
        how = attack_spec(attacks, **given)
        (found,) = attacked(self.location, [(str(trial), update, strength)], how, voice(say))
        return found

    def verify(self) -> Verification:
        """Check that the study is whole: rows, outcomes, trials, best weights, leftovers.

        Returns:
            `problems`, one sentence each, empty for a sound study; counts; and who writes it now.

        Raises:
            UserError: no study there.
            StorageError: the object store cannot be read.

        Examples:
            >>> study.verify().problems
            []
        """
        with fetched(self.location) as folder:
            return check(folder, storage_at(self.location))

    def repair(self) -> list[str]:
        """Set damaged parts of the ledger aside; their trials run again with `resume`.

        Returns:
            What was done, one sentence each; empty if nothing was wrong.

        Raises:
            UserError: no study there.
            StorageError: a process is running it, or it is damaged beyond repair.

        Examples:
            >>> study.repair()
            []
        """
        self._seen = None
        if not is_remote(self.location):
            return repair(Path(self.location))
        with opened(self.location) as place:
            return repair_remote(place)

    def migrate(self) -> list[str]:
        """Give a study in an object store, written by an older version, the form of this one.

        Returns:
            What was done, one sentence each.

        Raises:
            UserError: the study is in a folder, whose form has not changed.
            StorageError: a process is running it, or the store fails; the study is as it was.

        Examples:
            >>> ru.open("s3://bucket/studies/my-study").migrate()
            ['412 events are objects of their own now']
        """
        self._seen = None
        if not is_remote(self.location):
            raise UserError(
                f"{self.location}: nothing to migrate: only studies in object stores have an older "
                "form"
            )
        return migrate(storage_at(self.location))

    @property
    def _snapshot(self) -> Snapshot:
        if self._seen is None:
            self.refresh()
        assert self._seen is not None
        return self._seen

    def after(self, result: "StudyResult") -> "Study":
        """Store how a run ended, and drop what was read before it."""
        self.last_run, self._seen = result, None
        return self

    def _no_score(self, method: str | None = None) -> str:
        """The message that says why there is no best trial."""
        trials = self._snapshot.trials.to_pylist()
        own = [(t["status"], t["reason"]) for t in trials if method in (None, t["method"])]
        who = f"{self.location}: no trial{f' of {method}' if method else ''} has a score"
        reasons = FailureReasons(own).counts
        if reasons:
            return f"{who}: {reasons_in_words(reasons)}"
        if feasible := self.status().feasible:
            return f"{who}: {feasible}"
        return f"{who} yet; see `status()`"
