"""Pulls base models from a hub that speaks the protocol of Hugging Face. `service` is the way in."""
