"""Watching a deployed tuned model: signals of live traffic, their storage, and what happens on an alert."""
