"""Readers that do what hostile files make parsers do; a module of its own, because other processes import it."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

from selfaug.retrieval.document import Block, Document
from selfaug.retrieval.read_document import read_document


def noting(log: Path, file: Path, name: str) -> Document:
    """Reads, and writes down the name, the process, and whether another file was being read."""
    with log.open("a", encoding="utf-8") as opened:
        opened.write(f"{name} {os.getpid()}\n")
    return read_document(file, name)


def obeying(file: Path, name: str) -> Document:
    """Does what the file says."""
    order = file.read_text(encoding="utf-8")
    if order == "hang":
        while True:
            time.sleep(60)
    if order == "hang in C":
        ctypes.PyDLL(None).sleep(600)  # keeps the interpreter's lock: no Python signal handler ever runs
    if order == "eat":
        eaten = []
        while True:
            eaten.append(bytearray(50_000_000))
    if order == "crash":
        ctypes.string_at(0)
    if order == "exit":
        os._exit(3)
    if order == "killed":
        os.kill(os.getpid(), 9)
    if order == "large":
        return Document(name, "", "digest", tuple(Block("text", "x" * 1000) for _ in range(3000)))
    if order == "slow":
        time.sleep(0.7)
    return read_document(file, name)


def broken(file: Path, name: str) -> Document:
    """Has a fault of its own."""
    raise KeyError(name)
