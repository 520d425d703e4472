"""Define the settings table `[runtimes.embedded]`."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import psutil
from msgspec import Meta

from tmde_core.sdk.context import PluginSettings

CacheType = Literal["f16", "q8_0", "q4_0"]
"""llama.cpp's names of the types that keys and values are stored in."""

DEFAULT_SLOTS = 4
"""The default number of answers that are generated at the same time."""
DEFAULT_CONTEXT = 4096
"""The default number of tokens in each slot, or fewer if the model was trained on fewer. Four slots of the embedded
model then take 380 MB in addition to the weights; its full 8192 would take twice as much."""
DEFAULT_BATCH = 16
"""The default number of prompt tokens in a step on the processor. A cancelled request is noticed between steps. 16
tokens take 0.1 s with the embedded model on two cores. With 64, a prompt is read a sixth faster, and a cancellation is
noticed after 0.4 s."""
CARD_BATCH = 512
"""The default number on a graphics card, where a step of 512 tokens takes a fraction of a second."""

OWNED_FLAGS = {
    **dict.fromkeys(("-m", "--model", "-mu", "--model-url", "-hf", "-hfr", "--hf-repo", "-hff", "--hf-file"), "model"),
    **dict.fromkeys(("-dr", "--docker-repo", "--models-dir", "--models-preset", "--models-max"), "model"),
    **dict.fromkeys(("-c", "--ctx-size", "--kv-unified-per-slot", "-kvu", "-no-kvu", "--kv-unified"), "context"),
    **dict.fromkeys(("-np", "--parallel"), "slots"),
    **dict.fromkeys(("-t", "--threads", "-tb", "--threads-batch"), "threads"),
    **dict.fromkeys(("-b", "--batch-size", "-ub", "--ubatch-size"), "batch"),
    **dict.fromkeys(("-ngl", "--gpu-layers", "--n-gpu-layers", "-fit", "--fit", "-fitt", "--fit-target"), "gpu_layers"),
    **dict.fromkeys(("-fitc", "--fit-ctx"), "context"),
    **dict.fromkeys(("-fa", "--flash-attn"), "flash_attention"),
    **dict.fromkeys(("-ctk", "--cache-type-k", "-ctv", "--cache-type-v"), "cache_type"),
    **dict.fromkeys(("-dev", "--device"), "device"),
}
"""Flags of llama-server that have a setting of their own, with its name."""
REFUSED_FLAGS = frozenset(
    (
        *("--host", "--port", "--reuse-port", "--path", "--api-prefix", "--api-key", "--api-key-file"),
        *("--ssl-key-file", "--ssl-cert-file", "--cors-origins", "--cors-methods", "--cors-headers"),
        *("--lora", "--lora-scaled", "--lora-init-without-apply", "-cram", "--cache-ram", "--cache-idle-slots"),
        *("--slots", "--no-slots", "--metrics", "--props", "--slot-save-path", "--media-path"),
        *("--embedding", "--embeddings", "--rerank", "--reranking", "--pooling"),
        *("--jinja", "--no-jinja", "--skip-chat-parsing", "--context-shift", "--no-cont-batching", "-nocb"),
        *("--ui", "--webui", "--no-ui", "--no-webui", "--ui-config", "--ui-config-file", "--ui-mcp-proxy"),
        *("--webui-mcp-proxy", "--tools", "--tools-runtime", "--mcp-servers-config", "--mcp-servers-json"),
        *("-ag", "--agent", "--models-autoload", "--log-disable", "--log-file", "--log-jsonl", "--no-log-prefix"),
        *("--rpc", "--sleep-idle-seconds", "-a", "--alias"),
        *("-h", "--help", "--usage", "--version", "--list-devices", "-cl", "--cache-list", "--completion-bash"),
    )
)
"""Flags that would take from TMDE what it must decide: who may ask, which adapter answers, what is counted and logged."""


class EmbeddedSettings(PluginSettings, frozen=True, kw_only=True):
    """The settings of the embedded runtime. Every field is optional."""

    model: Annotated[
        str,
        Meta(
            title="Default model",
            description=(
                "The default model: a file in `data/models/`, the absolute path of a GGUF file, or of a directory of "
                "safetensors. Empty: the embedded model."
            ),
        ),
    ] = ""
    models: Annotated[
        tuple[str, ...],
        Meta(
            title="Further models",
            description="Further ones that a role may name. Each gets a server of its own when it is first asked.",
        ),
    ] = ()
    context: (
        Annotated[
            int,
            Meta(
                ge=256,
                le=1_048_576,
                title="Context",
                description=(
                    "Tokens that a prompt and its answer may have together; unset: 4096, or what the model was trained on "
                    "if that is less. On a graphics card, unset: as many as fit, up to 32,768."
                ),
                extra={"unit": "tokens"},
            ),
        ]
        | None
    ) = None
    slots: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=64,
                title="Answers at a time",
                description=(
                    "How many answers are generated at the same time. Unset: 4; on a graphics card 2 to 4, as fit."
                ),
            ),
        ]
        | None
    ) = None
    threads: (
        Annotated[int, Meta(ge=1, le=512, title="Threads", description="Unset: one for each physical core.")] | None
    ) = None
    batch: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=2048,
                title="Tokens in a step",
                description=(
                    "Prompt tokens read in one step. More reads faster and notices a cancellation later. Unset: 16, on a "
                    "graphics card 512."
                ),
            ),
        ]
        | None
    ) = None
    binary: Annotated[
        str,
        Meta(
            title="llama-server",
            description=(
                "A llama-server program that serves the models, such as a build for CUDA, Vulkan, ROCm or Metal: its path, "
                "or its name on the PATH. Empty: TMDE's own, on the processor. The settings below need it."
            ),
        ),
    ] = ""
    gpu_layers: Annotated[
        Annotated[int, Meta(ge=0, le=1000)] | Literal["auto"],
        Meta(
            title="Layers on the card",
            description="How many of the model's layers are on the graphics card, or `auto`: as many as fit.",
        ),
    ] = "auto"
    device: Annotated[
        str,
        Meta(
            title="Card",
            description=(
                "Which cards are used, by the names that `llama-server --list-devices` prints, separated by commas: "
                "`CUDA0`, `Vulkan1`. Empty: all of them."
            ),
        ),
    ] = ""
    flash_attention: Annotated[
        Literal["auto", "on", "off"],
        Meta(title="Flash attention", description="Takes less memory where the card supports it."),
    ] = "auto"
    cache_type: Annotated[
        CacheType,
        Meta(
            title="Type of the cache",
            description=(
                "How the keys and values of the context are stored. `q8_0` takes half the memory of `f16`, `q4_0` a "
                "quarter with a loss; both need flash attention."
            ),
        ),
    ] = "f16"
    extra_args: Annotated[
        tuple[str, ...],
        Meta(
            title="Further arguments",
            description=(
                'Further arguments of llama-server, one string each: `["--tensor-split", "3,1"]`. What TMDE decides '
                "itself is refused."
            ),
        ),
    ] = ()

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        if not self.binary:
            plain = EmbeddedSettings.__struct_defaults__
            names = EmbeddedSettings.__struct_fields__[-len(plain) :]
            for name, default in zip(names, plain, strict=True):
                if name in _NEED_BINARY and getattr(self, name) != default:
                    raise ValueError(
                        f"{name} is for a graphics card and needs runtimes.embedded.binary, the path of a llama-server. "
                        "TMDE's own server uses the processor"
                    )
        if self.cache_type != "f16" and self.flash_attention == "off":
            raise ValueError(f"cache_type {self.cache_type} needs flash attention; leave flash_attention at auto or on")
        for argument in self.extra_args:
            _check_argument(argument)

    @property
    def slot_count(self) -> int:
        """The number of slots on the processor."""
        return self.slots or DEFAULT_SLOTS

    @property
    def thread_count(self) -> int:
        """The number of threads that compute."""
        return self.threads or usable_cores()


_NEED_BINARY = frozenset({"gpu_layers", "device", "flash_attention", "cache_type", "extra_args"})


def _check_argument(argument: str) -> None:
    if not argument.startswith("-") or argument.lstrip("-")[:1].isdigit():
        return  # a value
    flag = argument.partition("=")[0]
    flag = flag if flag in OWNED_FLAGS else flag.replace("_", "-")  # llama-server takes --ctx_size for --ctx-size
    bare = flag.replace("--no-", "--", 1)
    if setting := OWNED_FLAGS.get(flag) or OWNED_FLAGS.get(bare):
        raise ValueError(f"extra_args: {argument} is decided by the setting {setting}; use that")
    if flag in REFUSED_FLAGS or bare in REFUSED_FLAGS:
        raise ValueError(f"extra_args: {argument} is decided by TMDE and cannot be given")


def usable_cores() -> int:
    """Return the number of physical cores, but at most the cores that this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or allowed, allowed))
