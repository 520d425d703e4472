"""Define the rules for every training backend. Subclass the contract and say how the backend is made.

    class TestMyBackend(TrainingBackendContract):
        def backend(self, tmde_data_dir):
            return MyBackend(make_context(MySettings, tmde_data_dir))

        def base_model(self, tiny_model):
            return str(tiny_model)

The contract really trains: on a dataset of sixteen sums, in the run directory that TMDE would create, with the process
that `plan` returns. If neither `base_model` nor `--tmde-base-model` names a base model, tests that need one are
skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tmde_core.errors import InvalidInputError, TmdeError
from tmde_core.finetune.preview.process import Failure, look_to_the_end
from tmde_core.lora.archive.check import check
from tmde_core.lora.archive.unpack import Unpacked
from tmde_core.records.base import from_json
from tmde_core.records.finetune import FineTuneConfig, FineTuneMetrics
from tmde_core.records.lora import Manifest
from tmde_core.records.runtimes import Availability
from tmde_core.records.training import (
    PREVIEW_FILE,
    ConversionResult,
    MergeProgress,
    ResourceEstimate,
    TrainingJob,
    WorkerCommand,
)
from tmde_core.sdk.adapters import (
    CONFIG_FILE,
    GGUF_FILE,
    MANIFEST_FILE,
    REQUIRED_FILES,
    WEIGHTS_FILE,
    find_flaw,
    staging_directory,
)
from tmde_core.sdk.training import (
    ConvertingBackend,
    DequantizingBackend,
    MergingBackend,
    PreviewingBackend,
    TrainingBackend,
)
from tmde_core.sdk.worker.kit import EXIT_CANCELLED, EXIT_COMPLETE, list_checkpoints
from tmde_core.sdk.worker.run_files import CANCEL_FILE
from tmde_core.sdk.worker.vitals import read_heartbeat
from tmde_core.storage.durable import hash_file
from tmde_core.testing.contracts.rules import broken, calling, described, not_run, provide, require, run
from tmde_core.testing.contracts.training_run import BAD, MUCH, SMALL, TRAINING, VALIDATION, TrainingRun

__all__ = ["TrainingBackendContract"]

ABSENT_MODEL = "/nonexistent/no-such-base-model"
ASKED_SECONDS = 30.0
"""The time limit for queries that TMDE sends to a backend while a person waits."""
CONVERSION_SECONDS = 600.0
GGUF_MAGIC = b"GGUF"
RAW_ERROR = re.compile(r"[\w.]+(Error|Exception|Exit|Interrupt)\b")
"""The last line of a traceback."""
WEIGHT_FILES = ("config.json", "*.safetensors", "tokenizer*")
"""The files that make a directory of weights trainable."""
KIT = "tmde_core.sdk.worker.RunWorker does it for you."


class TrainingBackendContract:
    """The rules for training backends. pytest runs them in subclasses called `Test…`."""

    name = "test"
    """The name of the backend in the job, as in the descriptor."""
    config: Mapping[str, Any] = {}
    """Hyperparameters that differ from those of the contract's small run, by their Python names."""

    def backend(self) -> TrainingBackend:
        """Return the backend under test, made as `create` makes it. It may request the fixture `tmde_data_dir`."""
        raise NotImplementedError

    def base_model(self, tmde_base_model: str | None) -> str | None:
        """Return the base model to train, as in the settings. None skips the tests that need a base model."""
        return tmde_base_model

    # ----------------------------------------------------------------------------------- fixtures

    @pytest.fixture(scope="class")
    @classmethod
    def tmde_data_dir(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Return a data directory for all tests of the class."""
        return tmp_path_factory.mktemp("tmde")

    @pytest.fixture(scope="class")
    @classmethod
    def tmde_base_model(cls, request: pytest.FixtureRequest) -> str | None:
        """Return the value of `--tmde-base-model`."""
        chosen: str | None = request.config.getoption("--tmde-base-model", None)
        return chosen

    @pytest.fixture(scope="class")
    @classmethod
    def tmde_backend(cls, request: pytest.FixtureRequest) -> TrainingBackend:
        """Return the backend under test."""
        with calling("create", "It must work with the default settings. Leave what can fail to availability()."):
            return provide(request, cls().backend)

    @pytest.fixture(scope="class")
    @classmethod
    def tmde_available(cls, tmde_backend: TrainingBackend) -> TrainingBackend:
        """Return the backend, or skip the test if the backend is not available here."""
        availability = _availability(tmde_backend)
        if not availability.ok:
            not_run(f"the backend cannot work on this machine: {availability.reason}")
        return tmde_backend

    @pytest.fixture(scope="class")
    @classmethod
    def tmde_config(cls, request: pytest.FixtureRequest, tmde_available: TrainingBackend) -> FineTuneConfig:
        """Return the configuration of the small run, with the base model."""
        del tmde_available  # if the backend is not available, the skip must give that reason
        base = provide(request, cls().base_model)
        if not base:
            not_run("no base model was given. Name one with --base-model, the smallest that the backend can train.")
        return msgspec.structs.replace(SMALL, **cls.config, backend=cls.name, base_model=str(base))

    @pytest.fixture(scope="class")
    @classmethod
    def tmde_ended(
        cls, tmde_available: TrainingBackend, tmde_config: FineTuneConfig, tmde_data_dir: Path
    ) -> Iterator[TrainingRun]:
        """Start a run and wait until it has ended."""
        with _started(tmde_available, TrainingRun(tmde_data_dir, tmde_config)) as ended:
            ended.has_begun()
            ended.wait()
            yield ended

    @pytest.fixture(scope="class")
    @classmethod
    def tmde_completed(cls, tmde_ended: TrainingRun) -> TrainingRun:
        """Return the ended run, or skip the test if the run published no adapter."""
        if tmde_ended.status != EXIT_COMPLETE or not (tmde_ended.adapter_dir / MANIFEST_FILE).is_file():
            not_run("the run published no adapter.")
        return tmde_ended

    # ------------------------------------------------------------------------------------ planning

    def test_it_says_whether_it_can_work_here(self, tmde_backend: TrainingBackend) -> None:
        """Require a reason from `availability()` if the backend is not available, because pages show it."""
        availability = _availability(tmde_backend)
        require(
            availability.ok or availability.reason.strip(),
            "availability() says that the backend cannot work here, and gives no reason. The person cannot do anything about it. Put "
            "what is missing, and how to get it, into Availability.reason.",
        )

    def test_a_base_model_that_does_not_exist_is_refused(
        self, tmde_available: TrainingBackend, tmde_data_dir: Path
    ) -> None:
        """Require that `plan()` refuses an unknown base model with a sentence, before a run starts."""
        config = msgspec.structs.replace(SMALL, base_model=ABSENT_MODEL, backend=self.name)
        job = TrainingRun(tmde_data_dir, config).job
        advice = "The person would learn it from a run that fails. Look for the base model in plan(), and raise InvalidInputError."
        try:
            tmde_available.plan(job)
        except InvalidInputError as error:
            require(
                error.detail.strip(),
                "plan() raises InvalidInputError without a sentence. Say what is wrong and what to do.",
            )
        except Exception as error:
            broken(f"plan() for a base model that does not exist raised {described(error)}. {advice}", error)
        else:
            broken(f"plan() accepts the base model {ABSENT_MODEL!r}, which does not exist. {advice}")

    def test_it_estimates_what_a_job_needs(
        self, tmde_available: TrainingBackend, tmde_config: FineTuneConfig, tmde_data_dir: Path
    ) -> None:
        """Require that known figures are positive and unknown figures are None."""
        job = TrainingRun(tmde_data_dir, tmde_config).job
        with calling("estimate()", "The page of a run shows the estimate before it begins. Return what is known."):
            estimate = run(asyncio.to_thread(tmde_available.estimate, job), "estimate()", ASKED_SECONDS)
        require(
            isinstance(estimate, ResourceEstimate),
            f"estimate() returned a {type(estimate).__name__}. Return a ResourceEstimate; leave out what is not known.",
        )
        for field in ("ram_bytes", "vram_bytes", "seconds"):
            figure = getattr(estimate, field)
            require(
                figure is None or (math.isfinite(figure) and figure > 0),
                f"The estimate's {field} is {figure}. Return a figure above 0, or None where it is not known.",
            )

    def test_it_plans_a_command_and_trains_nothing_itself(
        self, tmde_available: TrainingBackend, tmde_config: FineTuneConfig, tmde_data_dir: Path
    ) -> None:
        """Require an argument list for a separate process."""
        planned = TrainingRun(tmde_data_dir, tmde_config)
        _plan(tmde_available, planned.job)
        require(
            not planned.adapter_dir.exists() and not planned.events(),
            "plan() has trained, or written events. TMDE plans in the server's process, also for runs that do not begin. Leave all "
            "work to the worker.",
        )

    # ----------------------------------------------------------------------------- a run to its end

    def test_a_run_ends_with_an_adapter(self, tmde_ended: TrainingRun) -> None:
        """Require that the worker exits with 0 and that TMDE considers the run completed."""
        require(
            tmde_ended.status == EXIT_COMPLETE,
            f"The worker of a small run ended with exit status {tmde_ended.status}. {tmde_ended.told()} The whole log is "
            "worker.log in the run's directory; run the planned command yourself to see it.",
        )
        require(
            tmde_ended.adapter_dir.is_dir(),
            "The worker ended well, and there is no adapter: the directory lora-adapters/RUN_ID does not exist. Finish with "
            "worker.publish(…).",
        )
        ending = tmde_ended.ending()
        require(ending.kind == "completed", f"TMDE would list this run as {ending.kind}: {ending.reason}")

    def test_it_tells_its_progress(self, tmde_completed: TrainingRun) -> None:
        """Require one event for each step, counting up to the total."""
        steps = [event.data for event in tmde_completed.events("progress")]
        require(
            steps,
            "There is no progress event. The person sees nothing of the run. Call worker.events.progress(step, total_steps).",
        )
        numbers: list[Any] = [data.get("step") for data in steps]
        total: Any = steps[-1].get("totalSteps")
        require(
            all(isinstance(number, int) for number in (*numbers, total))
            and numbers == sorted(set(numbers))
            and numbers[0] >= 1
            and numbers[-1] <= total,
            f"The progress events count the steps {_shown(numbers)} of {total}. The page shows progress and the time left from them. "
            "Count optimizer steps from 1 up to total_steps, each once.",
        )
        losses = [data["loss"] for data in steps if data.get("loss") is not None]
        require(
            losses and all(_is_figure(loss) for loss in losses),
            f"The losses in the progress events are {_shown(losses)}. The page draws them. Report the mean loss of each step; a loss "
            "that is not finite must end the run with TrainingFailedError.",
        )

    def test_it_reports_validation(self, tmde_completed: TrainingRun) -> None:
        """Require validation losses, because the dataset has examples that are not trained on."""
        found = [event.data.get("evalLoss") for event in tmde_completed.events("eval")]
        require(
            found,
            "There is no eval event, though the dataset has validation examples. Nobody can see whether the run learns or only "
            "memorises. Measure the loss of job.val_file after each epoch, and call worker.events.eval(step, loss).",
        )
        require(
            all(_is_figure(loss) for loss in found),
            f"The validation losses are {_shown(found)}. The page draws them. Report finite figures from 0 on.",
        )

    def test_its_last_event_says_complete(self, tmde_completed: TrainingRun) -> None:
        """Require `complete` as the last event, because followers of the log wait for it."""
        last = tmde_completed.last()
        require(
            last is not None and last.type == "complete" and last.data.get("adapterId") == str(tmde_completed.run_id),
            f"The last event is {last and last.type!r} with {last and dict(last.data)}. Whoever follows the run waits for `complete` "
            f"with the adapterId. {KIT}",
        )

    def test_it_shows_that_it_lives(self, tmde_completed: TrainingRun) -> None:
        """Require a heartbeat, and a lock that is held for the life of the process."""
        require(
            read_heartbeat(tmde_completed.run_dir) is not None,
            f"There is no heartbeat that can be read. TMDE tells from it why a worker was killed. {KIT}",
        )
        require(
            tmde_completed.lock_was_held is not False,
            f"The file lock in the run's directory was not locked while the worker trained. Two workers might train one run. {KIT}",
        )

    def test_its_adapter_has_every_file_and_its_hash(self, tmde_completed: TrainingRun) -> None:
        """Require every file of the adapter, with its hash in the manifest."""
        directory = tmde_completed.adapter_dir
        missing = [name for name in (*REQUIRED_FILES, MANIFEST_FILE) if not (directory / name).is_file()]
        require(
            not missing, f"The adapter lacks {', '.join(missing)}. Nothing can serve it. Finish with worker.publish(…)."
        )
        manifest = from_json((directory / MANIFEST_FILE).read_bytes(), Manifest)
        unhashed = [
            file.name
            for file in directory.iterdir()
            if file.name != MANIFEST_FILE and manifest.files.get(file.name) != hash_file(file)
        ]
        require(
            not unhashed,
            f"The manifest has no hash, or a wrong one, of {', '.join(unhashed)}. TMDE serves no adapter whose files it cannot "
            "verify. Publish with worker.publish(…), and change nothing afterwards.",
        )
        require(
            manifest.base_model.strip(),
            "The manifest does not name the base model. On any other model the adapter's answers are gibberish. Give "
            "worker.publish() a BaseIdentity with the name.",
        )
        require(
            manifest.traces_used == len(TRAINING) + len(VALIDATION),
            f"The manifest says that {manifest.traces_used} traces were used, and the dataset has {len(TRAINING) + len(VALIDATION)}. The "
            f"lineage of adapters is read from it. {KIT}",
        )

    def test_its_adapter_has_learned(self, tmde_completed: TrainingRun) -> None:
        """Require that the B matrices are not all zero and that every weight is a finite number."""
        directory = tmde_completed.adapter_dir
        manifest = from_json((directory / MANIFEST_FILE).read_bytes(), Manifest)
        flaw = find_flaw(directory, manifest.base_model or "named above")
        require(
            flaw is None, f"{flaw and flaw.detail} An adapter like that answers as the base model does, or not at all."
        )

    def test_its_adapter_can_be_exchanged(self, tmde_completed: TrainingRun) -> None:
        """Require that weights and configuration fit each other, so that another TMDE can import the adapter."""
        directory = tmde_completed.adapter_dir
        files = [file for file in directory.iterdir() if file.name != MANIFEST_FILE]
        unpacked = Unpacked(
            hashes={file.name: hash_file(file) for file in files}, manifest=(directory / MANIFEST_FILE).read_bytes()
        )
        reasons = check(directory, unpacked).reasons
        require(
            not reasons,
            f"Another TMDE would refuse this adapter after an export. {' '.join(reasons)} Save plain LoRA in the form of PEFT.",
        )
        rank = msgspec.json.decode((directory / CONFIG_FILE).read_bytes()).get("r")
        require(
            rank == tmde_completed.config.lora_rank,
            f"The adapter has the rank {rank}, and the job asked for {tmde_completed.config.lora_rank}. Use worker.config.lora_rank.",
        )

    def test_its_metrics_are_plausible(self, tmde_completed: TrainingRun) -> None:
        """Require finite metrics of at least 0 that describe this run."""
        last = tmde_completed.last()
        figures = dict((last.data.get("metrics") if last else None) or {})
        odd = {
            name: value
            for name, value in figures.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and not _is_figure(value)
        }
        require(
            not odd,
            f"The metrics have {odd}. People compare adapters by them. Report finite figures from 0 on, or None.",
        )
        with contextlib.suppress(msgspec.ValidationError):
            metrics = msgspec.convert(figures, FineTuneMetrics)
            require(
                metrics.final_train_loss is not None,
                "The metrics have no final_train_loss. Lists and comparisons of adapters show it. Pass FineTuneMetrics with what was "
                "measured to worker.publish().",
            )
            steps = [event.data.get("step") for event in tmde_completed.events("progress")]
            require(
                metrics.total_steps is None or metrics.total_steps == steps[-1],
                f"The metrics count {metrics.total_steps} steps, and the last progress event is step {steps[-1]}. Report the steps "
                "that were made.",
            )

    # ------------------------------------------------------------------------------ runs that go otherwise

    def test_it_trains_without_validation_examples(
        self, tmde_available: TrainingBackend, tmde_completed: TrainingRun
    ) -> None:
        """Require that training works without validation examples, because a small dataset may have none."""
        config = msgspec.structs.replace(tmde_completed.config, epochs=1)
        with _started(tmde_available, TrainingRun(tmde_completed.data_dir, config, val=())) as other:
            require(
                other.wait() == EXIT_COMPLETE,
                f"With an empty val_file the worker ended with exit status {other.status}. {other.told()} Small datasets have no "
                "validation examples. Train without measuring a validation loss then.",
            )

    def test_it_leaves_a_bad_example_out(self, tmde_available: TrainingBackend, tmde_completed: TrainingRun) -> None:
        """Require that a run leaves out an empty and a far too long answer, and trains on the other examples."""
        config = msgspec.structs.replace(tmde_completed.config, epochs=1)
        with _started(tmde_available, TrainingRun(tmde_completed.data_dir, config, (*BAD, *TRAINING))) as other:
            require(
                other.wait() == EXIT_COMPLETE,
                f"With an empty and a far too long answer among {len(TRAINING)} good ones the worker ended with exit status "
                f"{other.status}. {other.told()} One bad example would stop every run. Leave it out; "
                "worker.read_examples does it for you.",
            )

    def test_sigterm_cancels_it(self, tmde_available: TrainingBackend, tmde_completed: TrainingRun) -> None:
        """Require that SIGTERM cancels the run. TMDE and a machine that shuts down send SIGTERM."""
        with _started(tmde_available, _long(tmde_completed)) as other:
            if not other.has_begun():
                broken(f"A longer run ended before its first step. {other.told()}")
            status = other.terminate()
            if status == EXIT_COMPLETE:
                not_run("the run was over before it could be cancelled.")
            killed = "it did not end, and was killed" if status == -9 else f"it ended with exit status {status}"
            require(
                status == EXIT_CANCELLED,
                f"After SIGTERM {killed}. TMDE waits five seconds, then kills what is left. Let the error that the kit raises pass "
                f"through, and exit with worker.exit_code ({EXIT_CANCELLED}). {KIT}",
            )
            _must_be_cancelled(other, "SIGTERM")

    def test_the_cancel_file_cancels_it(self, tmde_available: TrainingBackend, tmde_completed: TrainingRun) -> None:
        """Require that the cancel file cancels the run, because no signal reaches a worker in another container."""
        with _started(tmde_available, _long(tmde_completed)) as other:
            if not other.has_begun():
                broken(f"A longer run ended before its first step. {other.told()}")
            (other.run_dir / CANCEL_FILE).touch()
            status = other.wait()
            if status == EXIT_COMPLETE and other.adapter_dir.exists():
                not_run("the run was over before it could be cancelled.")
            require(
                status == EXIT_CANCELLED,
                f"After the file {CANCEL_FILE} appeared in its run's directory the worker ended with exit status {status}, not "
                f"{EXIT_CANCELLED}. It is how TMDE cancels a worker in another container. {KIT}",
            )
            _must_be_cancelled(other, f"the file {CANCEL_FILE}")

    def test_an_adapter_that_is_there_is_left_alone(
        self, tmde_available: TrainingBackend, tmde_completed: TrainingRun
    ) -> None:
        """Require that a run whose adapter exists is refused and the adapter is not changed."""
        other = TrainingRun(tmde_completed.data_dir, tmde_completed.config)
        other.adapter_dir.mkdir(parents=True)
        (other.adapter_dir / WEIGHTS_FILE).write_bytes(b"another's")
        try:
            with _started(tmde_available, other):
                status = other.wait()
            kept = [file.name for file in other.adapter_dir.iterdir()]
            require(
                kept == [WEIGHTS_FILE] and (other.adapter_dir / WEIGHTS_FILE).read_bytes() == b"another's",
                f"The worker changed an adapter that was there before it began (now {', '.join(kept) or 'gone'}). A published "
                f"adapter never changes. Refuse to begin. {KIT}",
            )
            last = other.last()
            require(
                status != EXIT_COMPLETE and last is not None and last.type == "error",
                f"The adapter of the run exists already, and the worker ended with exit status {status} and the event "
                f"{last and last.type!r}. The person must learn why nothing was trained. End with an `error` event. {KIT}",
            )
        finally:
            shutil.rmtree(other.adapter_dir)

    def test_it_goes_on_from_its_checkpoint(
        self, tmde_available: TrainingBackend, tmde_completed: TrainingRun, tmde_data_dir: Path
    ) -> None:
        """Require that a killed run is resumed from the newest checkpoint."""
        kept = list_checkpoints(tmde_completed.run_dir)
        if not kept:
            not_run("the worker kept no checkpoint, so a run that is killed begins anew.")
        # Simulate a run that was killed after the older checkpoint: remove the newer checkpoint and the adapter.
        for newer in kept[1:]:
            shutil.rmtree(newer)
        aside = tmde_data_dir / "aside"
        tmde_completed.adapter_dir.rename(aside)
        other = TrainingRun(tmde_data_dir, tmde_completed.config, run_id=tmde_completed.run_id)
        step = int(kept[0].name.rsplit("-", 1)[1])
        other.resume_from(kept[0])
        try:
            self._must_go_on(tmde_available, other, step)
        finally:
            shutil.rmtree(other.adapter_dir, ignore_errors=True)
            aside.rename(other.adapter_dir)

    def _must_go_on(self, backend: TrainingBackend, other: TrainingRun, step: int) -> None:
        with _started(backend, other):
            require(
                other.wait() == EXIT_COMPLETE,
                f"A run that goes on after step {step} ended with exit status {other.status}. {other.told()} A run that was killed "
                "could never be resumed. Load what is in job.resume_from, or keep no checkpoints.",
            )
            steps = [event.data.get("step", 0) for event in other.events("progress")]
            require(
                all(number > step for number in steps),
                f"A run that goes on after step {step} reports the steps {_shown(steps)}. The work before the checkpoint is done "
                "twice. Begin with the step after it, or keep no checkpoints.",
            )

    # ------------------------------------------------------------------------------------ optional parts

    def test_its_preview_tells_the_lengths(
        self, tmde_available: TrainingBackend, tmde_config: FineTuneConfig, tmde_data_dir: Path
    ) -> None:
        """Require a preview with the lengths of all examples, if the backend is a `PreviewingBackend`."""
        if not isinstance(tmde_available, PreviewingBackend):
            not_run("the backend has no preview(), so runs are previewed without tokens.")
        looked = TrainingRun(tmde_data_dir, tmde_config)
        with calling("preview()", "Return the WorkerCommand that looks at the dataset."):
            command = tmde_available.preview(looked.job)
        _must_be_command(command, "preview()")
        report = run(
            look_to_the_end(command, looked.run_dir / PREVIEW_FILE), "The preview's worker", CONVERSION_SECONDS
        )
        if isinstance(report, Failure):
            broken(f"The preview failed: {report.sentence} Write a PreviewReport as {PREVIEW_FILE} into job.run_dir.")
        traces = {example.trace_id: "train" for example in TRAINING} | {
            example.trace_id: "val" for example in VALIDATION
        }
        told = {example.trace_id: example.split for example in report.examples}
        require(
            told == traces and len(report.examples) == len(traces),
            f"The preview tells of {len(report.examples)} examples, and the dataset has {len(traces)}, or they are not of the part "
            "they are in. Tell of each example once, with its traceId and its split.",
        )
        odd = next((one for one in report.examples if not 0 < one.supervised <= one.total), None)
        require(
            odd is None,
            f"An example has {odd and odd.total} tokens, of which {odd and odd.supervised} are learned from. The answer has at least "
            "one token, and no more than the whole. Count both with the model's tokenizer.",
        )
        require(
            not report.first_example or any(piece.supervised for piece in report.first_example),
            "No piece of the first example is learned from. The page marks what is. Set supervised on the answer's piece.",
        )
        require(
            not looked.adapter_dir.exists(),
            "The preview published an adapter. It is made before anybody decides to train. Train nothing in it.",
        )

    def test_it_converts_adapters(
        self, tmde_available: TrainingBackend, tmde_completed: TrainingRun, tmde_data_dir: Path
    ) -> None:
        """Require the GGUF form of an adapter that was trained elsewhere, if the backend is a `ConvertingBackend`."""
        if not isinstance(tmde_available, ConvertingBackend):
            not_run("the backend has no convert(), so it makes no served form of imported adapters.")
        directory = staging_directory(tmde_data_dir / "lora-adapters", "conversion")
        directory.mkdir()
        for name in REQUIRED_FILES:
            shutil.copyfile(tmde_completed.adapter_dir / name, directory / name)
        with calling("convert()", "TMDE asks every backend in turn. Return None for a base model that is not known."):
            unknown = tmde_available.convert(directory, "no-such-organisation/no-such-model")
            command = tmde_available.convert(directory, tmde_completed.config.base_model)
        require(
            unknown is None,
            "convert() returns a command for a base model that does not exist. TMDE would not ask the other backends. Return None.",
        )
        if command is None:
            not_run("convert() makes no served form of adapters of this base model.")
        _must_be_command(command, "convert()")
        done = _to_the_end(command, "The conversion")
        _must_end_well(done, "The conversion of the adapter that this backend has just trained")
        try:
            form = from_json(_last_line(done).encode(), ConversionResult)
        except TmdeError as error:
            broken(f"The conversion's last line of output is no ServedForm: {error.detail} Print one line of JSON.")
        require(
            not form.reasons,
            f"The conversion refuses the adapter that this backend has just trained: {' '.join(form.reasons)}",
        )
        require(
            form.note or (directory / GGUF_FILE).is_file(),
            f"The conversion ended well, and there is no {GGUF_FILE} beside the weights, and no note why. Write the file.",
        )

    @pytest.fixture(scope="class")
    @classmethod
    def tmde_merged(
        cls, tmde_available: TrainingBackend, tmde_completed: TrainingRun, tmde_data_dir: Path
    ) -> Path | None:
        """Return the model that the backend has merged; None if it merges nothing here."""
        if not isinstance(tmde_available, MergingBackend) or not (tmde_completed.adapter_dir / GGUF_FILE).is_file():
            return None
        target = tmde_data_dir / "merged.gguf"
        directory, base = tmde_completed.adapter_dir, tmde_completed.config.base_model
        with calling("merge()", "TMDE asks every backend in turn. Return None for a base model that is not known."):
            command = tmde_available.merge(directory, base, target, "F16")
        if command is None:
            return None
        _must_be_command(command, "merge()")
        done = _to_the_end(command, "The merge")
        said = next(iter(reversed(done.stderr.strip().splitlines())), "")
        if done.returncode == 1 and said and not RAW_ERROR.match(said):
            not_run(f"merge() makes nothing of this base model: {said}")  # llama.cpp may not know it, for example
        _must_end_well(done, "The merge of the adapter that this backend has just trained")
        try:
            last = from_json(_last_line(done).encode(), MergeProgress)
        except TmdeError as error:
            broken(f"The merge's last line of output is no MergeProgress: {error.detail} Print one line of JSON.")
        result = last.result
        if result is None:
            broken("The merge's last line of output has no result. Give it as MergeProgress(step='done', result=…).")
        require(
            not result.reasons,
            f"The merge refuses the adapter that this backend has just trained: {' '.join(result.reasons)}",
        )
        require(
            target.is_file() and target.read_bytes()[:4] == GGUF_MAGIC,
            "The merge ended well, and there is no GGUF file at the target. Write it there, under exactly this name.",
        )
        require(
            result.size_bytes == target.stat().st_size,
            f"The merge says that its file has {result.size_bytes} bytes, and it has {target.stat().st_size}. Tell its size.",
        )
        require(
            result.quality is not None or result.notes,
            "The merge has compared nothing, and says not why. Give the quality, or a note why the model cannot be asked.",
        )
        return target

    def test_it_merges_adapters(
        self,
        tmde_available: TrainingBackend,
        tmde_completed: TrainingRun,
        tmde_data_dir: Path,
        request: pytest.FixtureRequest,
    ) -> None:
        """Require a merged model of base model and adapter, if the backend is a `MergingBackend`."""
        if not isinstance(tmde_available, MergingBackend):
            not_run("the backend has no merge(), so adapters are not exported as merged-gguf with it.")
        with calling("merge()", "TMDE asks every backend in turn. Return None for a base model that is not known."):
            unknown = tmde_available.merge(
                tmde_completed.adapter_dir,
                "no-such-organisation/no-such-model",
                tmde_data_dir / "unknown.gguf",
                "base",
            )
        require(
            unknown is None,
            "merge() returns a command for a base model that does not exist. TMDE would not ask the other backends. Return None.",
        )
        if request.getfixturevalue("tmde_merged") is None:
            not_run("merge() does not know this base model, or its adapter has no GGUF form.")

    def test_it_refuses_to_dequantize_what_is_no_model(
        self, tmde_available: TrainingBackend, tmde_data_dir: Path
    ) -> None:
        """Require a sentence about a damaged GGUF file, if the backend is a `DequantizingBackend`."""
        if not isinstance(tmde_available, DequantizingBackend):
            not_run("the backend has no dequantize(), so it prepares no weights for other backends.")
        damaged = tmde_data_dir / "damaged.gguf"
        damaged.write_bytes(GGUF_MAGIC + b"\x03\x00\x00\x00 this is no model")
        with calling("dequantize()", "The file exists. Return the command, or None if that is impossible here."):
            command = tmde_available.dequantize(damaged)
        if command is None:
            return
        done = _to_the_end(_must_be_command(command, "dequantize()"), "The conversion to safetensors")
        said = next(iter(reversed(done.stderr.strip().splitlines())), "")
        require(
            done.returncode == 1 and said and not RAW_ERROR.match(said),
            f"For a damaged GGUF file, the conversion to safetensors ended with exit status {done.returncode}, and its last line on "
            f"stderr is {said[:200]!r}. That line is what the run says. Write one sentence, and exit with 1.",
        )

    def test_it_dequantizes_weights(
        self,
        tmde_available: TrainingBackend,
        tmde_config: FineTuneConfig,
        request: pytest.FixtureRequest,
    ) -> None:
        """Require weights that can be trained from a GGUF file, if the backend is a `DequantizingBackend`.

        The file is the base model, or the model that the backend has merged.
        """
        if not isinstance(tmde_available, DequantizingBackend):
            not_run("the backend has no dequantize(), so it prepares no weights for other backends.")
        base = Path(tmde_config.base_model)
        gguf = base if base.suffix == ".gguf" and base.is_file() else request.getfixturevalue("tmde_merged")
        if gguf is None:
            not_run("the base model is no GGUF file. Name one with --base-model.")
        with calling("dequantize()", "The file exists. Return the command, or None if that is impossible here."):
            command = tmde_available.dequantize(gguf)
        if command is None:
            not_run("dequantize() makes nothing of this file.")
        _must_be_command(command, "dequantize()")
        done = _to_the_end(command, "The conversion to safetensors")
        _must_end_well(done, f"The conversion of {gguf.name} to safetensors")
        directory = Path(_last_line(done))
        require(
            directory.is_absolute() and directory.is_dir(),
            f"The conversion's last line of output is {_last_line(done)[:200]!r}, which is no directory. Print its path there.",
        )
        missing = [kind for kind in WEIGHT_FILES if not any(directory.glob(kind))]
        require(
            not missing,
            f"The directory that the conversion names has no {' and no '.join(missing)}. The workers of other backends need them.",
        )
        again = _to_the_end(command, "The second conversion to safetensors")
        require(
            again.returncode == 0 and _last_line(again) == str(directory),
            f"Converted again, {gguf.name} is in {_last_line(again)[:200]!r}, and it was in {str(directory)!r}. Every run converts "
            "its base model first. Keep the directory.",
        )


# ------------------------------------------------------------------------------------------ the steps


def _to_the_end(command: WorkerCommand, what: str) -> subprocess.CompletedProcess[str]:
    with calling(what, f"TMDE starts it without a shell, and it has {CONVERSION_SECONDS:.0f} s."):
        return subprocess.run(
            command.argv,
            env={**os.environ, **command.env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=CONVERSION_SECONDS,
            check=False,
        )


def _must_end_well(done: subprocess.CompletedProcess[str], what: str) -> None:
    said = done.stderr.strip().splitlines()
    require(
        done.returncode == 0,
        f"{what} ended with exit status {done.returncode}: {said[-1] if said else 'it said nothing'}",
    )


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    return next(iter(reversed(done.stdout.strip().splitlines())), "")


def _availability(backend: TrainingBackend) -> Availability:
    with calling(
        "availability()",
        "Pages, `doctor` and every start of a run ask for it. Return Availability(ok=False, reason=…).",
    ):
        found = run(asyncio.to_thread(backend.availability), "availability()", ASKED_SECONDS)
    require(
        isinstance(found, Availability),
        f"availability() returned a {type(found).__name__}. TMDE reads ok and reason. Return an Availability.",
    )
    return found


def _plan(backend: TrainingBackend, job: TrainingJob) -> WorkerCommand:
    with calling(
        "plan()", "The base model is there and the backend is available, so a run could begin. Return the command."
    ):
        command = backend.plan(job)
    return _must_be_command(command, "plan()")


def _must_be_command(command: object, what: str) -> WorkerCommand:
    require(
        isinstance(command, WorkerCommand),
        f"{what} returned a {type(command).__name__}. TMDE starts a WorkerCommand. Return one.",
    )
    assert isinstance(command, WorkerCommand)
    argv, env = _as_object(command.argv), _as_object(command.env)
    require(
        isinstance(argv, tuple | list) and argv and all(isinstance(word, str) for word in argv),
        f"The command of {what} has the arguments {argv!r}. TMDE starts it without a shell. Give a tuple of texts, the program first.",
    )
    require(
        isinstance(env, dict) and all(isinstance(text, str) for pair in env.items() for text in pair),
        f"The command of {what} has the environment {env!r}. Give names and values as texts.",
    )
    return command


@contextlib.contextmanager
def _started(backend: TrainingBackend, run_: TrainingRun) -> Iterator[TrainingRun]:
    """Start the planned worker of a run, and end all its processes afterwards."""
    try:
        command = _plan(backend, run_.job)
        with calling("The planned command", "TMDE starts it without a shell. Name a program that is installed."):
            run_.start(command)
        yield run_
    finally:
        run_.close()


def _long(like: TrainingRun) -> TrainingRun:
    """Return a run with so many steps that it can be cancelled."""
    config = msgspec.structs.replace(like.config, epochs=10, batch_size=1)
    return TrainingRun(like.data_dir, config, MUCH, ())


def _must_be_cancelled(ended: TrainingRun, by: str) -> None:
    last = ended.last()
    require(
        last is not None and last.type == "cancelled",
        f"After {by} the last event is {last and last.type!r}. Followers of the log wait for `cancelled`. {KIT}",
    )
    require(
        not ended.adapter_dir.exists(),
        f"After {by} the worker published an adapter all the same. The person had ended the run. Publish nothing then. {KIT}",
    )


def _as_object(value: object) -> object:
    """Return the value with the type `object`, because nothing has checked the declared type."""
    return value


def _is_figure(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0


def _shown(values: list[Any]) -> str:
    if not values:
        return "none"
    text = ", ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in values[:8])
    return f"{text}, …" if len(values) > 8 else text
