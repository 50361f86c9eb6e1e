"""Rows to token ids and labels, exactly as serving will see the prompt; shortening on purpose and counted."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from selfaug.core.printable import counted
from selfaug.data.encoded_rows import EncodedRow, EncodedRows, EncodeReport
from selfaug.data.row import OWN_TEMPLATE_ARGUMENTS, Row
from selfaug.data.sources import SKIP_FLAGS, Problem, problems_error, short_text
from selfaug.data.special_tokens import without_special_tokens
from selfaug.data.template_checks import (
    REASONING,
    Turn,
    has_thoughts,
    lacks_reasoning,
    quoted_arguments,
    template_errors,
    unfaithful,
)
from selfaug.errors import ConfigError, DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "encode_rows",
    "keeps_earlier_turns",
    "keeps_system_message",
    "rows_without_template",
]

_BATCH, _BATCH_CHARACTERS = 512, 1 << 25
"""Rows that are tokenised at once, and characters of their texts from which it is fewer rows: enough to fill the
tokeniser's threads, few enough to hold them."""

_TEMPLATE_HINT = (
    "the prompt in training must be the prompt in serving, token by token. A model that reasons adds or "
    "strips its thinking: try chat_template_kwargs such as enable_thinking=False, or give the tokeniser "
    "another chat template."
)
_THOUGHTS_HINT = (
    "enable_thinking=False is for answers without thoughts, and these rows have some: leave it out, or give rows "
    "without thoughts."
)
_SPACE_HINT = (
    "an answer that begins with white space merges with the end of its prompt: take the white space off the answer's "
    "beginning."
)
_EARLIER_HINT = (
    "with this template one answer a row can be learnt: make rows without follow_ups (`selfaug prepare` with "
    "--follow-ups 0), or leave --every-assistant-turn out; or take a template that keeps earlier turns, as some do "
    "with preserve_thinking=True in chat_template_kwargs (docs/details/forms-of-rows.md)."
)
_SYSTEM_HINT = (
    "without their system message these rows can be used: this chat template refuses one, or doesn't keep it where it "
    "was. Set `system: null` in the template of retrieval rows (data.template; of `selfaug prepare`, rows.template), "
    "and write its text into the user's turn."
)
_LENGTH_HINT = (
    "raise max_length where it is less than the model's own window, shorten these rows (of `selfaug prepare`: by "
    "fewer --passages, or a smaller --chunk-tokens)."
)
_LEFT_OUT_HINT = (
    "the model would be trained on less than the row says: take a chat template that renders all of it (tools and "
    "their calls, too), or rows without it."
)
_ARGUMENTS_HINT = (
    "OpenAI's form has the `function.arguments` of a call as JSON in a text, and this chat template would write quotes "
    "and backslashes around it: make objects of them (json.loads)."
)
_SKIP_HINT = f"On the command line, leave these rows out with {SKIP_FLAGS}."
_HINTS = (
    _TEMPLATE_HINT, _THOUGHTS_HINT, _SPACE_HINT, _EARLIER_HINT, _SYSTEM_HINT, _LEFT_OUT_HINT, _ARGUMENTS_HINT,
    _LENGTH_HINT,
)  # fmt: skip
"""In the order in which they are told."""

_NO_TOKENS = "the completion has no tokens"
_NOT_PARTED = (
    "the end of the prompt and the start of the completion merge into one token, and this tokeniser can't "
    "part them; move the space from the prompt's end to the completion's start"
)


def encode_rows(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None,
    skip_bad_rows: bool = False,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> EncodedRows:
    """Token ids and labels of rows.

    Messages go through the chat template; of retrieval rows, special tokens that stand in questions and passages are
    written so that they are none (`without_special_tokens`). The tokens of the prompt, rendered as for serving (with
    the generation prompt), are required to begin the tokens of the whole row. Text is tokenised as it is, with
    the tokeniser's beginning token before the prompt, if it has one that the prompt doesn't begin with, and its end
    token after the completion; where the last characters of the prompt and the first of the completion would merge
    into one token, they are tokenised apart, because serving tokenises the prompt alone.

    A retrieval row that is too long loses whole passages from the end, never the question and never its first
    passage; nor, where the row says which one it is, the passage that its answer is from, or one before it: the
    answer cites it by its number. No other row is shortened.

    Args:
        rows: from `load_rows`.
        tokenizer: of the model that is to be trained.
        max_length: most tokens in a row, prompt and completion together; None for no limit.
        skip_bad_rows: leave out rows that don't fit or can't be rendered, and return their problems.
        chat_template_kwargs: further arguments of the chat template, to be the same in serving. A row's own go before
            them, and are warned of: serving doesn't know them.

    Raises:
        DataError: if a row doesn't fit or can't be rendered (with `skip_bad_rows`: if none is left), with all
            problems.
        ModelError: if the tokeniser lacks a chat template that the rows need, or an end token.
        ConfigError: if `max_length` is not positive, or `chat_template_kwargs` has an argument that is set
            here.
    """
    template_arguments = dict(chat_template_kwargs or {})
    _check_arguments(rows, tokenizer, max_length, template_arguments)
    encoder = _Encoder(tokenizer, template_arguments)
    drafts = encoder.encode([_Task(row) for row in rows], max_length)
    if max_length is not None:
        _shorten(drafts, encoder, max_length)

    encoded = [_finish(draft, encoder.plain) for draft in drafts if draft.spans]
    # Encoded again without the limit: only then their prompts are tokenised apart.
    too_long = [
        _problem(draft, _too_long(draft, max_length))
        for draft in encoder.encode([draft.task for draft in drafts if draft.too_long], None)
    ]
    refused = [_problem(draft, draft.reason) for draft in drafts if draft.reason]
    problems = sorted(refused + too_long, key=lambda problem: (problem.file, problem.line))
    if problems and (not skip_bad_rows or not encoded):
        _hint_at_system_messages(drafts, encoder)
        found = {*(draft.hint for draft in drafts), *([_LENGTH_HINT] if too_long else ())}
        hints = [*(hint for hint in _HINTS if hint in found), *([_SKIP_HINT] if encoded else ())]
        raise problems_error(
            f"{len(problems):,} of {len(rows):,} rows can't be used.", problems, hint=" ".join(hints) or None
        )
    if not encoded:
        raise DataError("there are no rows to encode.", hint="give at least one row.")
    of_text = sum(draft.task.is_text() for draft in drafts if draft.spans)
    report = _report(
        encoded, of_text, len(too_long), len(refused), _warnings(drafts, tokenizer, template_arguments)
    )
    return EncodedRows(encoded, report, problems)


def _check_arguments(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    template_arguments: dict[str, Any],
) -> None:
    if max_length is not None and max_length < 1:
        raise ConfigError(
            f"max_length is {max_length}.", hint="give a positive number, or None for no limit."
        )
    if clash := sorted(OWN_TEMPLATE_ARGUMENTS & template_arguments.keys()):
        raise ConfigError(
            f"chat_template_kwargs can't set {', '.join(clash)}: selfaug sets it itself.",
            hint="leave it out.",
        )
    if any(isinstance(row.prompt, list) for row in rows):
        try:
            tokenizer.get_chat_template()
        except ValueError as error:
            raise ModelError(
                "the tokeniser has no chat template, and there are rows with messages or with retrieved passages.",
                hint="take the model's instruction-tuned variant, which has one; or give the rows as text, "
                "with prompt and completion.",
            ) from error
    if tokenizer.eos_token_id is None and any(isinstance(row.prompt, str) for row in rows):
        raise ModelError(
            "the tokeniser has no end token, so the model couldn't learn where a completion ends.",
            hint="set tokenizer.eos_token to the token at which generation stops.",
        )


@dataclass(frozen=True, slots=True)
class _Task:
    """A row, with the first `keep` passages (None: all)."""

    row: Row
    keep: int | None = None

    def is_text(self) -> bool:
        return isinstance(self.row.prompt, str)

    def fewest(self) -> int:
        """Passages that the prompt can't lose."""
        return 0 if self.row.retrieval is None else self.row.retrieval.fewest

    def passages_kept(self) -> int:
        if self.row.retrieval is None:
            return 0
        return len(self.row.retrieval.passages) if self.keep is None else self.keep


@dataclass(slots=True)
class _Draft:
    """Tokens of a task, with the half-open spans that carry nll.

    There are no spans where the row is too long, or can't be rendered for the reason given; the hint helps then. While
    its batch is tokenised, the tokens are in `ids`, then in `tokens`: in a tenth of the memory.
    """

    task: _Task
    characters: int = 0
    ids: list[int] = field(default_factory=list)
    tokens: array[int] = field(default_factory=lambda: array("i"))
    spans: list[tuple[int, int]] = field(default_factory=list)
    too_long: bool = False
    reason: str = ""
    hint: str = ""
    inserted: str = ""
    unended: bool = False
    unreasoned: bool = False


class _Encoder:
    """Renders and tokenises tasks in batches."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template_arguments: dict[str, Any]) -> None:
        self._tokenizer = tokenizer
        self._template_arguments = template_arguments
        self.plain = without_special_tokens(tokenizer)
        bare, special = self._tokenize(["a"])[0], list(tokenizer("a", add_special_tokens=True)["input_ids"])
        self._leading = special[: _find(special, bare)]

    def encode(self, tasks: Sequence[_Task], max_length: int | None) -> list[_Draft]:
        """A draft of each task, in the same order; those over `max_length` without spans."""
        drafts = [_Draft(task) for task in tasks]
        rendered: list[tuple[_Draft, list[Turn]]] = []
        characters = 0
        for draft in drafts:
            if turns := self._turns(draft):
                rendered.append((draft, turns))
                characters += sum(len(turn.prompt) + len(turn.whole) for turn in turns)
            if len(rendered) == _BATCH or characters >= _BATCH_CHARACTERS:
                self._encode_batch(rendered, max_length)
                rendered, characters = [], 0
        self._encode_batch(rendered, max_length)
        return drafts

    def _encode_batch(self, rendered: Sequence[tuple[_Draft, list[Turn]]], max_length: int | None) -> None:
        for (draft, row), whole in zip(
            rendered, self._tokenize([row[-1].whole for _, row in rendered]), strict=True
        ):
            draft.ids = whole
            draft.characters = len(row[-1].whole)
            draft.too_long = max_length is not None and self._length(draft) > max_length
        # The prompts are tokenised only of what fits: shortening tries rows that don't.
        fitting = [(draft, row) for draft, row in rendered if not draft.too_long]
        self._finish_text([(draft, row[0]) for draft, row in fitting if draft.task.is_text()], max_length)
        self._finish_chat([(draft, row) for draft, row in fitting if not draft.task.is_text()])
        for draft, _ in rendered:
            draft.tokens, draft.ids = array("i", draft.ids), []

    def _length(self, draft: _Draft) -> int:
        return len(draft.ids) + (len(self._leading_of(draft.ids)) + 1 if draft.task.is_text() else 0)

    def _leading_of(self, ids: list[int]) -> list[int]:
        """What is put before the tokens of a text: nothing where a prompt that was rendered by hand begins with it."""
        return [] if _begins(ids, self._leading) else self._leading

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        # verbose=False: that a row is longer than the window is said by us, with its place.
        ids: list[list[int]] = self._tokenizer(
            texts,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
        return ids

    def _turns(self, draft: _Draft) -> list[Turn]:
        """Texts of the trained turns, the last one last; none, with a reason, if they can't be rendered."""
        row, prompt = draft.task.row, draft.task.row.prompt_for(self.plain, draft.task.keep)
        if isinstance(prompt, str):
            assert isinstance(row.completion, str)
            return [Turn(prompt, prompt + row.completion)]
        messages, trained = [*prompt, *row.completion], row.trained_turns()
        try:
            turns = [
                Turn(
                    self._render(row, messages[:index], True), self._render(row, messages[: index + 1], False)
                )
                for index in trained
            ]
        except template_errors() as error:
            draft.reason = f"the chat template refuses the row: {short_text(error)}"
            return []
        if left_out := unfaithful(row, messages, trained, turns):
            draft.reason, draft.hint = left_out, _LEFT_OUT_HINT
            return []
        if (name := quoted_arguments(messages, trained, turns)) is not None:
            draft.reason = (
                "the chat template writes the arguments of a call as a text in quotes: "
                f"give the arguments of {name!r} as an object"
            )
            draft.hint = _ARGUMENTS_HINT
            return []
        draft.unreasoned = lacks_reasoning([messages[index] for index in trained], turns)
        _note_additions(draft, turns[-1], messages[-1]["content"].strip())
        return turns

    def _render(self, row: Row, messages: list[dict[str, Any]], for_generation: bool) -> str:
        text: str = self._tokenizer.apply_chat_template(
            messages,
            tools=row.tools,
            add_generation_prompt=for_generation,
            tokenize=False,
            **row.template_arguments(self._template_arguments),
        )
        return text

    def _finish_chat(self, drafts: Sequence[tuple[_Draft, list[Turn]]]) -> None:
        """Set the spans of chat rows, after checking that the tokens of each part begin the whole row's."""
        # The end of the last turn is the end of the row, which is tokenised already.
        parts = [[text for turn in row for text in (turn.prompt, turn.whole)][:-1] for _, row in drafts]
        tokens = iter(self._tokenize([text for texts in parts for text in texts]))
        for (draft, turns), texts in zip(drafts, parts, strict=True):
            self._set_spans(draft, turns, [*(next(tokens) for _ in texts), draft.ids])

    def _set_spans(self, draft: _Draft, turns: list[Turn], parts: list[list[int]]) -> None:
        for turn, prompt, whole in zip(turns, parts[::2], parts[1::2], strict=True):
            if not _begins(draft.ids, prompt) or not _begins(draft.ids, whole):
                # By itself the turn is faithful; with others after it, the template changes it.
                earlier_differs = whole is not parts[-1] and _begins(whole, prompt)
                draft.hint = _EARLIER_HINT if earlier_differs else self._mismatch_hint(draft.task.row, turn)
                draft.reason = self._difference(prompt, whole, draft, earlier_differs)
                return
        spans = [(len(prompt), len(whole)) for prompt, whole in zip(parts[::2], parts[1::2], strict=True)]
        if all(start < end for start, end in spans):
            draft.spans = spans
        else:
            draft.reason = _NO_TOKENS

    def _mismatch_hint(self, row: Row, turn: Turn) -> str:
        """What helps where the prompt in serving doesn't begin what is trained."""
        # As text it does: only their tokens merge.
        if turn.whole.startswith(turn.prompt) and turn.whole[len(turn.prompt) :][:1].isspace():
            return _SPACE_HINT
        thinks = row.template_arguments(self._template_arguments).get("enable_thinking") is not False
        return _TEMPLATE_HINT if thinks or not has_thoughts(row) else _THOUGHTS_HINT

    def _difference(self, prompt: list[int], whole: list[int], draft: _Draft, earlier_differs: bool) -> str:
        alone = whole if earlier_differs else prompt
        pairs = zip(alone, draft.ids, strict=False)
        at = next((index for index, (one, other) in enumerate(pairs) if one != other), len(draft.ids))
        shown, trained = self._show(alone[at : at + 4]), self._show(draft.ids[at : at + 4])
        if earlier_differs:
            return (
                f"the chat template renders an earlier answer differently from a last one at token {at}: as the last "
                f"one it has {shown}, before another turn {trained}"
            )
        return (
            f"the prompt in serving differs from the one in training at token {at}: serving has {shown}, training has "
            f"{trained}"
        )

    def _show(self, ids: list[int]) -> str:
        return repr(self._decode(ids)) if ids else "nothing"

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def _finish_text(self, drafts: Sequence[tuple[_Draft, Turn]], max_length: int | None) -> None:
        """Set ids and spans of text rows."""
        end = self._tokenizer.eos_token_id
        for (draft, turn), prompt in zip(
            drafts, self._tokenize([turn.prompt for _, turn in drafts]), strict=True
        ):
            if draft.ids[: len(prompt)] != prompt:
                apart = prompt + self._tokenize([turn.whole[len(turn.prompt) :]])[0]
                # A tokeniser that puts a space before every text would put one into the middle of this.
                if self._decode(apart) != self._decode(draft.ids):
                    draft.reason = _NOT_PARTED
                    continue
                draft.ids = apart
            if len(draft.ids) == len(prompt):
                draft.reason = _NO_TOKENS
                continue
            leading = self._leading_of(prompt)
            start = len(leading) + len(prompt)
            draft.ids = leading + draft.ids + ([] if draft.ids[-1] == end else [end])
            # Tokenised apart it may be longer than it was as a whole.
            draft.too_long = max_length is not None and len(draft.ids) > max_length
            draft.spans = [] if draft.too_long else [(start, len(draft.ids))]


def _note_additions(draft: _Draft, turn: Turn, content: str) -> None:
    """Note what the template puts before the completion, and whether it puts anything after it."""
    added = turn.whole[len(turn.prompt) :]
    # Where the prompt is no prefix, the row is refused for it.
    if content and content in added and turn.whole.startswith(turn.prompt):
        before, _, after = added.partition(content)
        draft.inserted = before.strip()
        draft.unended = not after.strip()


def _warnings(
    drafts: Sequence[_Draft], tokenizer: PreTrainedTokenizerBase, template_arguments: Mapping[str, Any]
) -> list[str]:
    """What the user should know about how rows are rendered, and of rows that the template doesn't render."""
    inserted = Counter(draft.inserted for draft in drafts if draft.inserted)
    unended = sum(draft.unended for draft in drafts)
    unreasoned = sum(draft.unreasoned for draft in drafts)
    warnings = [
        f"the chat template puts {text!r} before the completion of {counted(count, 'row')}; the model is trained "
        "to write it, and serving must expect it."
        for text, count in inserted.most_common(3)
    ]
    if unended:
        warnings.append(
            f"the chat template writes nothing after the completion of {counted(unended, 'row')}; the model "
            f"isn't trained to stop there. Its end token is {tokenizer.eos_token!r}."
        )
    if unreasoned:
        warnings.append(
            f"the chat template leaves out the reasoning ({', '.join(REASONING)}) of {counted(unreasoned, 'row')}; "
            "the model is trained to answer without it."
        )
    own = sum(
        draft.task.row.template_arguments(template_arguments) != template_arguments
        for draft in drafts
        if draft.spans and not draft.task.is_text()
    )
    if own:
        warnings.append(
            f"{counted(own, 'row has', 'rows have')} chat_template_kwargs other than the run's "
            "(data.chat_template_kwargs), with which `selfaug chat` and `selfaug serve` make their prompts."
        )
    if bare := rows_without_template((draft.task.row for draft in drafts if draft.spans), tokenizer):
        warnings.append(
            f"{_as_they_stand(len(bare))}, without the model's chat template, which "
            "`selfaug chat` and /v1/chat/completions use. For a model that is to chat, give messages."
        )
    return warnings


def _as_they_stand(rows: int) -> str:
    return counted(
        rows, "row is text: it is trained as it stands", "rows are text: they are trained as they stand"
    )


def rows_without_template(rows: Iterable[Row], tokenizer: PreTrainedTokenizerBase) -> list[Row]:
    """Rows of text that a chat model won't be asked like; a prompt that was rendered by hand has special tokens.

    Args:
        rows: from `load_rows`.
        tokenizer: of the model; without a chat template there are none.
    """
    if tokenizer.chat_template is None:
        return []
    special = {*tokenizer.all_special_tokens}
    special |= {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    if not special:
        return []
    of_template = re.compile("|".join(map(re.escape, sorted(special))))
    return [row for row in rows if isinstance(row.prompt, str) and of_template.search(row.prompt) is None]


def keeps_earlier_turns(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template renders an answer before another turn as it does a last one: else only that is learnt.

    Args:
        tokenizer: of the model, with a chat template.
    """
    turns = [{"role": role, "content": "a"} for role in ("user", "assistant", "user", "assistant")]
    row = Row("", turns[:-1], turns[-1:], "", 0, every_assistant_turn=True)
    return _Encoder(tokenizer, {}).encode([_Task(row)], None)[0].hint != _EARLIER_HINT


def keeps_system_message(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template takes a system message, and writes it in serving where it does in training.

    Args:
        tokenizer: of the model, with a chat template.
    """
    turns = [{"role": role, "content": f"text of {role}"} for role in ("system", "user", "assistant")]
    encoder = _Encoder(tokenizer, {})
    drafts = encoder.encode([_Task(Row("", turns[:-1], turns[-1:], "", 0))], None)
    _hint_at_system_messages(drafts, encoder)
    return drafts[0].hint != _SYSTEM_HINT


def _hint_at_system_messages(drafts: Sequence[_Draft], encoder: _Encoder) -> None:
    """Of refused rows that can be used without the system message that they begin with, say so in place of else."""
    refused = [draft for draft in drafts if draft.reason and _has_system_message(draft.task.row)]
    bare = [_Task(_without_system_message(draft.task.row, encoder.plain)) for draft in refused]
    for draft, without in zip(refused, encoder.encode(bare, None), strict=True):
        if without.spans:
            draft.hint = _SYSTEM_HINT


def _has_system_message(row: Row) -> bool:
    return isinstance(row.prompt, list) and len(row.prompt) > 1 and row.prompt[0]["role"] == "system"


def _without_system_message(row: Row, plain: Callable[[str], str]) -> Row:
    return replace(row, prompt=row.prompt_for(plain)[1:], retrieval=None)


def _begins(ids: list[int], part: list[int]) -> bool:
    return ids[: len(part)] == part


def _find(ids: list[int], part: list[int]) -> int:
    return next((at for at in range(len(ids)) if ids[at : at + len(part)] == part), 0)


def _shorten(drafts: list[_Draft], encoder: _Encoder, max_length: int) -> None:
    """Replace, in place, each draft that is too long by the one with the most passages that fits.

    If not even the fewest passages fit, the draft with these is put in, for the message. Each row's number
    of passages is guessed from what it has, tried, and corrected; all rows are tried together, so that each
    round is one batch for the tokeniser.
    """
    ranges = {
        at: (draft.task.fewest(), len(draft.task.row.retrieval.passages) - 1)
        for at, draft in enumerate(drafts)
        if draft.too_long and draft.task.row.retrieval is not None
    }
    tried = {at: drafts[at] for at in ranges}
    while open_ranges := {at: span for at, span in ranges.items() if span[0] <= span[1]}:
        tasks = [
            _Task(drafts[at].task.row, keep=min(max(_guess_keep(tried[at], max_length), low), high))
            for at, (low, high) in open_ranges.items()
        ]
        for (at, (low, high)), draft in zip(
            open_ranges.items(), encoder.encode(tasks, max_length), strict=True
        ):
            tried[at] = draft
            keep = draft.task.passages_kept()
            ranges[at] = (low, keep - 1) if draft.too_long else (keep + 1, high)
            if not draft.too_long or keep == draft.task.fewest():
                drafts[at] = draft


def _guess_keep(draft: _Draft, max_length: int) -> int:
    """How many passages would fit, if all their characters took as many tokens as this draft's do."""
    retrieval = draft.task.row.retrieval
    assert retrieval is not None
    rate = len(draft.tokens) / max(draft.characters, 1)
    sizes = [rate * len(retrieval.format_passage(index, str)) for index in range(len(retrieval.passages))]
    keep = draft.task.passages_kept()
    room = float(max_length - len(draft.tokens))
    while room < 0 and keep > 1:
        keep -= 1
        room += sizes[keep]
    while keep < len(sizes) and room >= sizes[keep]:
        room -= sizes[keep]
        keep += 1
    return keep


def _problem(draft: _Draft, reason: str) -> Problem:
    return Problem(draft.task.row.file, draft.task.row.line, reason)


def _too_long(draft: _Draft, max_length: int | None) -> str:
    if draft.reason:
        return draft.reason
    completion = sum(end - start for start, end in draft.spans)
    kept = "" if draft.task.keep is None else f" with {draft.task.keep} of its passages"
    if draft.task.fewest() > 1:
        kept = f" with the {draft.task.fewest()} passages up to the one that the answer is from"
    return (
        f"the prompt{kept} has {len(draft.tokens) - completion:,} tokens, the completion {completion:,}, "
        f"the window {max_length:,}"
    )


def _finish(draft: _Draft, plain: Callable[[str], str]) -> EncodedRow:
    row, keep = draft.task.row, draft.task.keep
    retrieval = row.retrieval
    if retrieval is None or keep is None:
        return EncodedRow(row.id, draft.tokens, draft.spans, source=row.source, cluster=row.cluster)
    dropped = list(range(keep, len(retrieval.passages)))
    text = retrieval.template.separator.join(retrieval.format_passage(index, plain) for index in dropped)
    return EncodedRow(row.id, draft.tokens, draft.spans, dropped, text, row.source, row.cluster)


def _report(
    rows: list[EncodedRow], of_text: int, too_long: int, refused: int, warnings: list[str]
) -> EncodeReport:
    lengths = np.array([len(row.ids) for row in rows])
    completion = sum(end - start for row in rows for start, end in row.spans)
    return EncodeReport(
        rows=len(rows),
        rows_of_text=of_text,
        rows_shortened=sum(bool(row.dropped_passages) for row in rows),
        passages_dropped=sum(len(row.dropped_passages) for row in rows),
        rows_too_long=too_long,
        rows_refused=refused,
        prompt_tokens=int(lengths.sum()) - completion,
        completion_tokens=completion,
        length_p50=int(np.percentile(lengths, 50)),
        length_p95=int(np.percentile(lengths, 95)),
        length_max=int(lengths.max()),
        warnings=warnings,
    )
