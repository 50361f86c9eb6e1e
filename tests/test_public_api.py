"""The public names, and what importing the package costs."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import selfaug

NAMES = [
    "ReferenceCache",
    "SelfAugConfig",
    "SelfAugTrainer",
    "alignment_loss",
    "measure_drift",
    "open_assistant",
]


def test_public_names_are_these() -> None:
    assert sorted(selfaug.__all__) == NAMES
    assert set(NAMES) <= set(dir(selfaug))


@pytest.mark.parametrize("name", NAMES)
def test_public_name_is_there_and_says_what_it_is(name: str) -> None:
    thing = getattr(selfaug, name)
    assert thing.__name__ == name
    assert thing.__doc__


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'SelfAugmentedTrainer'"):
        selfaug.SelfAugmentedTrainer  # noqa: B018


def test_version_is_that_of_the_distribution() -> None:
    assert selfaug.__version__ == version("selfaug")


def test_import_is_light() -> None:
    code = "import sys, selfaug; print({'torch', 'transformers', 'trl', 'typer', 'yaml'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_module_is_the_command() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "selfaug", "--version"], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == selfaug.__version__
