"""Measuring a model: generation, checks of its answers, the general suite, drift."""
