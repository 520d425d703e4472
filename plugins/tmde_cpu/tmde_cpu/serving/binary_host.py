"""Decide how a `llama-server` program serves a model on this machine's cards, and start it so."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from tmde_core.sdk.errors import InvalidInputError, WorkerFailedError
from tmde_core.sdk.gguf_header import GgufTensor, read_header, read_tensors
from tmde_cpu.serving.binary import MIB, Binary, Device, best_devices, list_devices, open_binary
from tmde_cpu.serving.binary_child import BinaryChild, BinaryJob, CardFullError
from tmde_cpu.serving.child import ServerChild
from tmde_cpu.serving.memory import MemoryPlan, ModelSizes, Wish, card_bytes, fitting_layers, model_sizes, plan_memory
from tmde_cpu.serving.options import CARD_BATCH, DEFAULT_BATCH, EmbeddedSettings
from tmde_cpu.serving.server_log import ServerLog

log = structlog.get_logger(__name__)

NO_CARD = "none"
"""llama-server's own word for `--device` to use the processor only."""
FRESH_SECONDS = 5.0
"""How long the free memory that was read when the model was opened counts, so that a start does not read it again."""
FEWER_LAYERS = (0.75, 0.5)
"""What is tried when the card is full although the calculation said otherwise. The processor alone comes last."""

_SPLIT_FILE = re.compile(r"-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")


class BinaryHost:
    """Starts a `llama-server` program for one model (a `ServerHost`)."""

    def __init__(
        self,
        model: Path,
        binary: Binary,
        sizes: ModelSizes,
        devices: Sequence[Device],
        options: EmbeddedSettings,
        server_log: ServerLog,
    ) -> None:
        self._model = model
        self._binary = binary
        self._sizes = sizes
        self._options = options
        self._log = server_log
        self._devices: Sequence[Device] = devices
        self._devices_read = time.monotonic()
        self._most_layers = sizes.all_layers
        self._note = ""
        plan = plan_memory(sizes, [device.free_bytes for device in devices], self._wish(()))
        self.context = plan.context
        self.slots = plan.slots
        self._plan = plan

    @classmethod
    async def open(cls, model: Path, options: EmbeddedSettings, server_log: ServerLog) -> BinaryHost:
        """Examine the program, the cards and the model. No server is started.

        Raises:
            InvalidInputError: the program, the cards or the model are not as the settings say.
            WorkerFailedError: the program does not answer.
        """
        binary = await asyncio.to_thread(open_binary, options.binary)
        sizes = await asyncio.to_thread(read_sizes, model)
        devices = await asyncio.to_thread(_chosen_devices, binary, options)
        return cls(model, binary, sizes, devices, options, server_log)

    @property
    def detail(self) -> str:
        """Where the model runs, how many answers at a time, and which program serves it."""
        layers, every = self._plan.layers, self._sizes.all_layers
        cards = ", ".join(f"{device.name} ({device.description})" for device in self._devices)
        if not layers:
            where = f"on the processor: {self._why_no_card()}"
        elif layers < every:
            where = f"{layers} of {every} layers on {cards}, the others on the processor"
        else:
            where = f"all {every} layers on {cards}"
        how = f"{self.slots} answers at a time, {self.context:,} tokens each"
        told = f"{where}; {how}; llama-server {self._binary.version}"
        return f"{told}. {self._note}" if self._note else told

    @property
    def card_bytes(self) -> int:
        """The calculated memory of one server on the cards."""
        return self._plan.card_bytes

    async def start(self, adapters: Sequence[Path]) -> ServerChild:
        """Start a server. See `ServerHost.start`. A full card gets fewer layers, and at last none."""
        before, self._plan = self._plan, await self._plan_now(adapters)
        self._note = self._why_fewer(before)
        tries = self._fewer(self._plan.layers)
        while True:
            try:
                child = await BinaryChild.launch(self._job(adapters), self._log)
            except CardFullError as error:
                if not tries:
                    raise
                self._lower(tries.pop(0), self._wish(adapters), error)
            else:
                log.info("embedded.served", model=self._model.name, how=self.detail)
                return child

    async def has_room(self, adapters: Sequence[Path]) -> bool:
        """Return whether a second server gets as many layers as the running one has."""
        if not self._plan.layers:
            return True
        devices = await asyncio.to_thread(_chosen_devices, self._binary, self._options)
        free = [device.free_bytes for device in devices]
        return fitting_layers(self._sizes, free, self._plan, self._wish(adapters)).layers >= self._plan.layers

    def mourn(self, child: ServerChild) -> None:
        """Put fewer layers on the card from now on, if the server died because the card was full."""
        if child.short_of_memory and self._plan.layers:
            self._most_layers = self._fewer(self._plan.layers)[0]

    # --------------------------------------------------------------------------------------- the plan

    async def _plan_now(self, adapters: Sequence[Path]) -> MemoryPlan:
        """Return the layers that fit at this moment. Context and slots have been promised and stay."""
        if time.monotonic() - self._devices_read > FRESH_SECONDS:
            self._devices = await asyncio.to_thread(_chosen_devices, self._binary, self._options)
        self._devices_read = float("-inf")  # the server that starts now takes memory
        free = [device.free_bytes for device in self._devices]
        wish = self._wish(adapters)
        if wish.layers is not None:
            fixed = msgspec.structs.replace(wish, context=self.context, slots=self.slots)
            plan = plan_memory(self._sizes, free, fixed)
        else:
            every = MemoryPlan(self._sizes.all_layers, self.context, self.slots, 0)
            plan = fitting_layers(self._sizes, free, every, wish)
        return plan if plan.layers <= self._most_layers else self._with_layers(plan, self._most_layers, wish)

    def _with_layers(self, plan: MemoryPlan, layers: int, wish: Wish) -> MemoryPlan:
        """Return `plan` with other layers, and the memory that they take."""
        cards = max(1, len(self._devices))
        needed = card_bytes(self._sizes, layers, plan.context, plan.slots, wish, cards=cards)
        return msgspec.structs.replace(plan, layers=layers, card_bytes=needed)

    def _wish(self, adapters: Sequence[Path]) -> Wish:
        options = self._options
        trained = self._sizes.trained_context
        return Wish(
            layers=None if options.gpu_layers == "auto" else options.gpu_layers,
            context=min(options.context, trained) if options.context and trained else options.context,
            slots=options.slots,
            batch=options.batch or CARD_BATCH,
            key_type=options.cache_type,
            value_type=options.cache_type,
            flash_attention=options.flash_attention == "on"
            or (options.flash_attention == "auto" and self._binary.flash_attention_value),
            adapters=sum(adapter.stat().st_size for adapter in adapters if adapter.is_file()),
        )

    def _fewer(self, layers: int) -> list[int]:
        """Return what to try after `layers`, down to the processor alone."""
        steps = [int(layers * share) for share in FEWER_LAYERS] if self._options.gpu_layers != 0 else []
        return [step for step in dict.fromkeys((*steps, 0)) if step < layers]

    def _lower(self, layers: int, wish: Wish, error: WorkerFailedError) -> None:
        self._note = (
            f"The memory was too little for {self._plan.layers} layers on the card, so {layers or 'none'} are there. Close "
            "what else uses the card, or take a smaller model or context."
        )
        log.warning(
            "embedded.card_full", model=self._model.name, layers=self._plan.layers, next=layers, why=error.detail
        )
        self._plan = self._with_layers(self._plan, layers, wish)

    def _why_fewer(self, before: MemoryPlan) -> str:
        layers = self._plan.layers
        if layers >= before.layers:
            return ""
        log.warning("embedded.fewer_layers", model=self._model.name, layers=layers, before=before.layers)
        if layers == self._most_layers:
            return "The card was full while the model answered, so fewer layers are there until TMDE starts again."
        return "Less memory is free on the card than before, so fewer layers are there."

    def _why_no_card(self) -> str:
        wanted = self._options.gpu_layers
        if wanted == 0 or self._options.device == NO_CARD:
            return "the settings say so"
        if not self._devices:
            vain = "" if wanted == "auto" else f", so gpu_layers = {wanted} has no effect"
            return f"this llama-server finds no graphics card{vain}"
        free = max(device.free_bytes for device in self._devices) // MIB
        return f"no layer fits the {free:,} MiB that are free on {self._devices[0].name}"

    # ------------------------------------------------------------------------------------- the command

    def _job(self, adapters: Sequence[Path]) -> BinaryJob:
        return BinaryJob(
            program=self._binary.path,
            arguments=tuple(self._arguments()),
            model=str(self._model),
            adapters=tuple(map(str, adapters)),
            slots=self.slots,
        )

    def _arguments(self) -> list[str]:
        """Return the arguments without host, port, key and adapters."""
        options, plan, knows = self._options, self._plan, self._binary.knows
        batch = str(options.batch or (CARD_BATCH if plan.layers else DEFAULT_BATCH))
        threads = str(options.thread_count)
        arguments = ["--model", str(self._model)]
        arguments += ["--ctx-size", str(self.context * self.slots), "--parallel", str(self.slots)]
        arguments += ["--batch-size", batch, "--ubatch-size", batch, "--threads", threads, "--threads-batch", threads]
        arguments += ["--gpu-layers", str(plan.layers), *self._device_arguments(), *self._cache_arguments()]
        arguments += ["--lora-init-without-apply", "--jinja"]
        # llama.cpp's cache of prompts in RAM does not record which adapter computed them. Older builds have none.
        arguments += ["--cache-ram", "0"] if knows("--cache-ram") else []
        arguments += ["--fit", "off"] if knows("--fit") else []  # TMDE has calculated what fits
        arguments += ["--slots"] if knows("--slots") else []
        arguments += ["--no-ui"] if knows("--no-ui") else ["--no-webui"] if knows("--no-webui") else []
        arguments += [flag for flag in ("--log-prefix", "--log-timestamps") if knows(flag)]  # levels, to find errors
        return [*arguments, *options.extra_args]

    def _device_arguments(self) -> list[str]:
        # Without a word the program would take every card it finds, also one that was left out of the calculation. And
        # without layers, it would still compute long prompts on a card that has no room for them.
        names = ",".join(device.name for device in self._devices) if self._plan.layers else NO_CARD
        return ["--device", names]

    def _cache_arguments(self) -> list[str]:
        options = self._options
        types = ["--cache-type-k", options.cache_type, "--cache-type-v", options.cache_type]
        arguments = types if options.cache_type != "f16" else []
        if self._binary.flash_attention_value:
            return [*arguments, "--flash-attn", options.flash_attention]
        wanted = options.flash_attention == "on" or options.cache_type != "f16"
        return [*arguments, "--flash-attn"] if wanted else arguments


def read_sizes(model: Path) -> ModelSizes:
    """Read the sizes of a model, with all parts of a split file.

    Raises:
        InvalidInputError: a file is missing or is no whole GGUF file.
    """
    tensors: dict[str, GgufTensor] = {}
    for part in _parts(model):
        tensors |= read_tensors(part)
    return model_sizes(read_header(model), tensors)


def _parts(model: Path) -> list[Path]:
    if (found := _SPLIT_FILE.search(model.name)) is None:
        return [model]
    stem, count = model.name[: found.start()], int(found["count"])
    return [model.with_name(f"{stem}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]


def _chosen_devices(binary: Binary, options: EmbeddedSettings) -> tuple[Device, ...]:
    """Return the cards that the settings name, or the best ones.

    Raises:
        InvalidInputError: there is no card of that name. The error lists the cards.
    """
    wanted = [name for part in options.device.split(",") if (name := part.strip())]
    if options.gpu_layers == 0 or wanted == [NO_CARD]:
        return ()
    found = {device.name: device for device in list_devices(binary)}
    if missing := [name for name in wanted if name not in found]:
        there = ", ".join(found) or "none"
        raise InvalidInputError(
            f"The llama-server {binary.path} finds no card {missing[0]}; there are: {there}. Correct "
            "runtimes.embedded.device.",
            field="device",
        )
    return tuple(found[name] for name in wanted) if wanted else best_devices(tuple(found.values()))
