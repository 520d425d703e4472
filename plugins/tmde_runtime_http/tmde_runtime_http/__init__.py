"""Model runtimes for servers that are already running: Ollama, and servers with an OpenAI-style chat protocol."""
