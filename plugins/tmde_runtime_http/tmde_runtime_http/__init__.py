"""Model runtimes that talk to a server which is already running: Ollama, and any that speaks OpenAI's chat wire."""
