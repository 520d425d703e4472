"""Measures answers: asks benchmark questions and computes statistics that separate a difference from noise."""
