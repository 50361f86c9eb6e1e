"""What the terms mean, for "what is this?" beside them."""

from __future__ import annotations

__all__ = ["WORDS", "word_of"]

WORDS: dict[str, str] = {
    "base model": "The model as it was before training, frozen: what the tuned model is compared with.",
    "tuned model": "The model after training for the job.",
    "task gain": "By how many percentage points the tuned model scores better at the job than the base model, on "
    "held-out rows. Where some of these were trained on, too, it is said: then the number is also of what the model "
    "remembers.",
    "retention": "What is left of the general score: score of the tuned model divided by score of the base model, on "
    "requests that have nothing to do with the job. 100 % means that as much was gained as was lost, or that nothing "
    "changed.",
    "forgetting": "Score of the base model minus score of the tuned model on general requests, in percentage points.",
    "general score": "Share of the checks on general requests that are passed: following instructions, knowledge, "
    "arithmetic, reading, refusals. They have nothing to do with the job.",
    "change of the general score": "Score of the tuned model minus score of the base model on general requests, in "
    "percentage points. Below 0 is forgetting.",
    "drift": "How far the tuned model's next-token distributions are from the base model's: the Kullback-Leibler "
    "divergence KL(base ‖ tuned), in nats per token, on a named set of texts. 0 means equal.",
    "nll": "Negative log-likelihood: how surprised the model is by the right answers, in nats per completion token. "
    "Lower is better learned.",
    "alignment loss": "How far the model's expectations over the prompts are from the base model's, in nats per prompt "
    "token. SelfAug adds it to the loss, times alpha.",
    "alpha": "Weight of the alignment loss. 0 is plain fine-tuning; more keeps the model closer to what it was.",
    "budget": "The forgetting that you allow.",
    "interval": "A range around a measured number, as wide as so few questions make it uncertain. If the test were "
    "made again and again, each time with other questions of the same kind, 95 of 100 ranges that are made like this "
    "would hold the true value; whether this one does, nobody knows.",
    "leaks": "Share of general answers that carry the style of the job where nobody asked for it.",
    "gate": "Bounds on what may be forgotten and what must be gained or reached, and whether the whole measured "
    "interval keeps them: pass, fail, or inconclusive, with the number of items that would decide. Bounds can be "
    "given after the test, too, on the same answers: what earlier ones decided is shown beside.",
    "canary set": "Fixed prompts whose drift is recorded at training, and must come back exactly from the server.",
    "CUSUM": "A sum of small deviations of live traffic from training's. One bad request is noise; when the sum "
    "passes its limit, traffic has changed.",
    "credit": "How much more SelfAug is worth than the best of the alternatives, not than doing nothing.",
    "net present value": "All benefits minus all costs over the years, with what comes later counting less.",
    "self-anchors": "Requests that the base model writes itself before training; its expectations on them are kept.",
}
"""By their names, in the order of the page."""

_OTHER_NAMES = {
    "proposed budget": "budget",
    "general checks against base": "change of the general score",
    "job's style in general answers": "leaks",
    "general − base, points": "change of the general score",
    "general score": "change of the general score",  # the tile, which stands for how it has changed
    "difference, item by item": "interval",
    "nats per token": "drift",
    "drift, general": "drift",
    "drift, job": "drift",
    "drift of live prompts": "drift",
    "learning the job (nll)": "nll",
    "cusum of drift with its limit": "CUSUM",
    "forgetting and drift": "forgetting",
    "forgetting against drift": "drift",
    "where the model changed": "drift",
    "by tenths of the text": "drift",
}
_BY_LOWER = {word.lower(): word for word in WORDS}


def word_of(name: str) -> str | None:
    """The word that explains what a tile, a column or a heading is called; None where there is none."""
    lower = name.lower()
    if lower.startswith("gate:"):
        return "gate"
    return _OTHER_NAMES.get(lower) or _BY_LOWER.get(lower)
