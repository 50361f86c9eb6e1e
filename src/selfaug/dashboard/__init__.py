"""The dashboard: a directory of runs in a browser. Reads records, never computes results."""
