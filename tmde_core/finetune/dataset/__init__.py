"""What a run is trained on, and what is left out."""
