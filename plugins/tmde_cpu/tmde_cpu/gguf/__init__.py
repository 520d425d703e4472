"""GGUF files: reading headers, converting models and adapters."""
