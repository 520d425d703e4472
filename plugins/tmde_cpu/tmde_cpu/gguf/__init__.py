"""GGUF files: read headers, convert models and adapters."""
