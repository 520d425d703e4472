"""Plans runs: the questions, the weights that answer, and what two runs must share to be compared."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec

from tmde_core.benchmark.questions.bank import QuestionBank
from tmde_core.benchmark.questions.files import content_hash
from tmde_core.benchmark.running.runner import make_adapter_ref
from tmde_core.debate.judging import Judges
from tmde_core.errors import ConflictError, InvalidInputError
from tmde_core.lora.service import LoraService
from tmde_core.models.service import find_served_model
from tmde_core.records.base import to_json, utc_now
from tmde_core.records.benchmark import BenchmarkPlan, BenchmarkRun, BenchmarkTrigger
from tmde_core.records.chat import AdapterRef
from tmde_core.records.questions import Question
from tmde_core.records.runtimes import ModelInfo
from tmde_core.runtimes import describe_lack_of_adapters, serves_adapters
from tmde_core.sdk.hooks import AUTO
from tmde_core.settings import Roles
from tmde_core.workspace import Workspace

DEFAULT_REPEATS = {"quick": 1, "full": 2, "custom": 2}


class Planner:
    """Creates runs from plans."""

    def __init__(self, workspace: Workspace, lora: LoraService, bank: QuestionBank) -> None:
        self._workspace = workspace
        self._lora = lora
        self._bank = bank

    async def make_run(
        self, plan: BenchmarkPlan, triggered_by: BenchmarkTrigger
    ) -> tuple[BenchmarkRun, Sequence[Question], AdapterRef | None]:
        """Return the run of a plan (not stored yet), with its questions and its adapter.

        Raises:
            ConflictError: The adapter belongs to another base model, or the Proposer's runtime serves no adapters.
            NotFoundError: The suite, a question or the adapter does not exist.
            InvalidInputError: A custom run names no questions, or a run of another type names questions; the plan names
                both the base model and an adapter; or no judge has this name.
            AdapterInvalidError: The adapter's files are damaged.
            PluginUnavailableError: No plugin provides the runtime.
        """
        suite, questions = await self._bank.choose(plan)
        judge = plan.judge or self._workspace.settings.benchmark.judge
        if judge != AUTO:
            self._workspace.plugins.judges.choose(judge, "judge")
        base = await self._base()
        adapter = await self._adapter(plan, base)
        repeats = plan.repeats or DEFAULT_REPEATS[plan.type]
        run = BenchmarkRun(
            id=uuid4(),
            type=plan.type,
            mode=plan.mode,
            suite=suite,
            status="running",
            started_at=utc_now(),
            adapter_id=UUID(adapter.id) if adapter else None,
            base_model=base.name,
            base_model_sha256=await self._workspace.models.hash_weights(base),
            suite_sha256=content_hash(questions),
            adapter_sha256=(await self._lora.get(UUID(adapter.id))).sha256 if adapter else None,
            repeats=repeats,
            seed=plan.seed,
            judge=judge,
            question_count=len(questions),
            answer_count=len(questions) * repeats,
            triggered_by=triggered_by,
            warnings=self._warnings(questions, judge),
            settings=self._used(judge),
        )
        return run, questions, adapter

    async def check_resume(self, run: BenchmarkRun) -> AdapterRef | None:
        """Return the adapter of a run to resume, after checking that the run can be resumed.

        The remaining questions must be asked in the same way as the first ones.

        Returns:
            The adapter, or None if the run measures the base model.

        Raises:
            ConflictError: The base model, the adapter or the settings have changed.
            NotFoundError: The adapter no longer exists.
        """
        base = await self._base()
        sha256 = await self._workspace.models.hash_weights(base)
        if (run.base_model, run.base_model_sha256) != (base.name, sha256):
            raise ConflictError(
                f"The run began with the base model {run.base_model!r}; {base.name!r} would answer the rest. Start a new run."
            )
        before, now = dict(run.settings), self._used(run.judge)
        if list(before.get("benchmark", {}).get("panel") or ()) != list(now["benchmark"]["panel"]):
            raise ConflictError(
                "`benchmark.panel` has changed since the run began; the rest would be judged by others. Start a new run, or put it back."
            )
        if dict(before.get("judgeRules") or {}) != now["judgeRules"]:
            raise ConflictError(
                "The judge's rules have changed since the run began; the rest would be judged in another way. Start a new run."
            )
        for name in ("roles", *(("debate",) if run.mode == "debate" else ())):
            if before.get(name) != now[name]:
                raise ConflictError(
                    f"The settings under [{name}] have changed since the run began; its answers would not compare. "
                    "Start a new run, or put them back."
                )
        if run.adapter_id is None:
            return None
        adapter = await self._lora.get(run.adapter_id)
        if adapter.sha256 != run.adapter_sha256:
            raise ConflictError(f"The adapter {run.adapter_id} has other weights now than when the run began.")
        return make_adapter_ref(adapter.id, adapter.path)

    async def _base(self) -> ModelInfo:
        role = self._workspace.settings.roles.proposer
        runtime = await self._workspace.runtimes.get(role.runtime)
        return find_served_model(await runtime.models(), role.model, role.runtime)

    async def _adapter(self, plan: BenchmarkPlan, base: ModelInfo) -> AdapterRef | None:
        if plan.base:
            if plan.adapter_id is not None:
                raise InvalidInputError("base: a run asks the base model or an adapter, not both.", field="base")
            return None
        name = self._workspace.settings.roles.proposer.runtime
        runtime = await self._workspace.runtimes.get(name)
        serves = await serves_adapters(runtime)
        if plan.adapter_id is None:
            return self._lora.get_active_ref() if serves else None  # the base model answers debates then, too
        adapter = await self._lora.get(plan.adapter_id)
        if not serves:
            so = f"so the adapter {plan.adapter_id} cannot be measured"
            raise ConflictError(describe_lack_of_adapters(name, runtime, so))
        manifest = await self._lora.verified(plan.adapter_id)
        await self._workspace.models.require_same_base(Path(adapter.path), manifest, base)
        await self._lora.ensure_gguf(manifest, base.path)
        return make_adapter_ref(adapter.id, adapter.path)

    def _warnings(self, questions: Sequence[Question], judge: str) -> tuple[str, ...]:
        roles = self._workspace.settings.roles
        open_ = any(criterion.check is None for question in questions for criterion in question.criteria)
        same = (roles.judge.runtime, roles.judge.model) == (roles.proposer.runtime, roles.proposer.model)
        if open_ and same and self._needs_model(judge):
            return (
                "The judge is the Proposer's own model: it judges its own answers. Choose another under [roles.judge].",
            )
        return ()

    def _needs_model(self, judge: str) -> bool:
        judges = Judges(self._workspace)
        return judges.needs_model(judges.default if judge == AUTO else judge)

    def _used(self, judge: str) -> dict[str, Any]:
        """Return the current settings that an answer and its score depend on."""
        return {
            "roles": _plain_roles(self._workspace.settings.roles),
            "debate": msgspec.to_builtins(self._workspace.settings.debate),
            "benchmark": msgspec.to_builtins(self._workspace.settings.benchmark),
            "judgeNeedsModel": self._needs_model(judge),
            "judgeRules": Judges(self._workspace).rules(judge),
        }


def _plain_roles(roles: Roles) -> dict[str, dict[str, Any]]:
    """Return the settings of the roles as a run stores them.

    `thinking` is left out where it is unset, so that a run still compares with runs from before that setting.
    """
    plain: dict[str, dict[str, Any]] = msgspec.to_builtins(roles)
    return {
        role: {name: value for name, value in one.items() if name != "thinking" or value is not None}
        for role, one in plain.items()
    }


def comparable_hash(run: BenchmarkRun) -> str:
    """Return a hash of everything that two runs must share to be comparable without reservation.

    The hash covers the questions, mode, judge, repeats, seed, base model, roles, debate settings (in debate mode),
    panel and the version of the judge's rules.
    """
    shared = [
        run.suite_sha256,
        run.mode,
        run.judge,
        run.repeats,
        run.seed,
        run.base_model_sha256 or run.base_model,
        run.settings.get("roles"),
        run.settings.get("debate") if run.mode == "debate" else None,
    ]
    if panel := (run.settings.get("benchmark") or {}).get(
        "panel"
    ):  # a run without a panel keeps the hash that it had before TMDE knew panels
        shared.append(panel)
    if rules := run.settings.get("judgeRules"):  # the first version of the rules was not recorded
        shared.append(rules)
    return hashlib.sha256(to_json(shared)).hexdigest()
