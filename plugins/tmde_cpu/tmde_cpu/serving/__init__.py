"""The embedded runtime: llama.cpp in a supervised child process."""
