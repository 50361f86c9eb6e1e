"""RetrievalTemplate: what it renders, what it refuses, and that it can be recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfaug.data import RetrievalTemplate
from selfaug.data.row import FollowUp, RetrievalParts
from selfaug.errors import ConfigError


def test_messages_number_the_passages() -> None:
    template = RetrievalTemplate(system="Be brief.", separator="\n", user="{passages}\nQ: {question}")
    assert template.messages("why {x}?", ["a", "{b}"]) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "[1] a\n[2] {b}\nQ: why {x}?"},
    ]


def test_questions_and_passages_are_written_as_they_may_be() -> None:
    template = RetrievalTemplate(system="a", user="{passages} {question} a", separator=" ")
    parts = RetrievalParts("a?", ("a", "b"), template, answer="a.", follow_ups=(FollowUp("aa?", "a."),))
    contents = [one["content"] for one in parts.messages(2, lambda text: text.replace("a", "x"))]
    assert contents == ["a", "[1] x [2] b x? a", "a.", "xx? a"]
    assert parts.format_passage(0, str.upper) == "[1] A"


def test_no_system_message() -> None:
    messages = RetrievalTemplate(system=None).messages("q", ["a"])
    assert [message["role"] for message in messages] == ["user"]


def test_literal_braces() -> None:
    template = RetrievalTemplate(passage="{{{text}}}", user="{passages}{question}", system=None)
    assert template.messages("q", ["a"])[0]["content"] == "{a}q"


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        RetrievalTemplate(system=" ", passage="{number:>3} {body}", user="{question.__class__}")
    text = "\n".join(caught.value.problems)
    for part in (
        "'system' is empty",
        "'passage' lacks {text}",
        "'passage' has unknown {body}",
        "{number} takes no format",
        "'user' lacks {passages}",
        "'user' lacks {question}",
        "'user' has unknown {question.__class__}",
    ):
        assert part in text


def test_lone_brace_is_a_config_error() -> None:
    with pytest.raises(ConfigError) as caught:
        RetrievalTemplate(passage="{text")
    assert "'passage'" in caught.value.problems[0]


def test_from_file_keeps_defaults_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "template.yaml"
    path.write_text("system: null\npassage: '({number}) {text}'\n")
    template = RetrievalTemplate.from_file(path)
    assert template == RetrievalTemplate(system=None, passage="({number}) {text}")
    assert RetrievalTemplate(**template.to_dict()) == template


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"passages: '{text}'\n", "did you mean 'passage'"),
        (b"passage: 3\n", "must be text, it is int"),
        (b"- a\n", "keys and values"),
        (b"a: [\n", "not valid YAML"),
        (b"a: \xff\n", "not valid YAML"),
    ],
)
def test_wrong_file_is_a_config_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "template.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        RetrievalTemplate.from_file(path)
    assert message in str(caught.value)


def test_missing_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't read the template"):
        RetrievalTemplate.from_file(tmp_path / "none.yaml")


def test_digest_changes_with_every_attribute() -> None:
    template = RetrievalTemplate()
    others = [
        RetrievalTemplate(system=None),
        RetrievalTemplate(passage="{text}"),
        RetrievalTemplate(separator="\n"),
        RetrievalTemplate(user="{question}{passages}"),
    ]
    assert template.digest() == RetrievalTemplate().digest()
    assert len({template.digest(), *(other.digest() for other in others)}) == 5
