"""A real OpenAI-style server for the tests: llama.cpp's own, in a process of its own.

`python llama_server.py MODEL.gguf KEY [ADAPTER.gguf]` prints its URL and serves until its standard input closes. With an adapter path it
first writes a small LoRA with random weights there, applied to no request that does not ask for it.
"""

import sys

import gguf
import numpy as np
import xllamacpp


def write_adapter(path: str) -> None:
    """A rank-4 adapter on the attention output of every layer, large enough to change what the model says."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string(gguf.Keys.General.TYPE, "adapter")
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 8.0)
    random = np.random.default_rng(7)
    for layer in range(30):
        for part, shape in (("a", (4, 576)), ("b", (576, 4))):
            weights = random.normal(0, 0.3, shape).astype(np.float32)
            writer.add_tensor(f"blk.{layer}.attn_output.weight.lora_{part}", weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    model, key, *adapter = sys.argv[1:]
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = {"tiny"}
    params.n_ctx = 1024
    params.n_parallel = 2
    params.port = 0
    params.api_keys = [key]
    params.cpuparams.n_threads = 2
    if adapter:
        write_adapter(adapter[0])
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(adapter[0], 1.0)]
        params.lora_init_without_apply = False  # as an administrator who forgot it: the runtime must cope
    server = xllamacpp.Server(params)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()


main()
