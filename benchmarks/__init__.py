"""Measurements that are too slow for tests; see README.md."""
