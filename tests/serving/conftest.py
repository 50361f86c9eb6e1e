from __future__ import annotations

from serving_fixtures import client, engine, log, served, server, start, tuned

__all__ = ["client", "engine", "log", "served", "server", "start", "tuned"]
