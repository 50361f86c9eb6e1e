"""Answers that were cut off at their limit: how many may be, and what to do where there are more."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["many_cut_off", "why_cut_off"]

# Shares of answers, above which it is warned. Requests of the general suite have limits of their own, long enough for
# what is checked in most answers, and many a model writes on after that.
_MOST = 0.2
_MOST_AT_OWN_LIMITS = 0.8


def many_cut_off(shares: Mapping[str, float]) -> dict[str, float]:
    """Levels of the general requests at which more than a fifth of the answers were cut off, with these shares."""
    return {level: share for level, share in shares.items() if share > _MOST}


def why_cut_off(share: float, *, own_limits: bool) -> str | None:
    """What to do where many answers were cut off; None where few were.

    Args:
        share: of a model's freely written answers.
        own_limits: whether the limit is each request's own, not that of --max-new-tokens.
    """
    if share <= (_MOST_AT_OWN_LIMITS if own_limits else _MOST):
        return None
    raised = (
        ""
        if own_limits
        else "raise --max-new-tokens, or data.max_length lower where prompts leave the model's window no room; "
    )
    return (
        f"{100 * share:.0f} % of a model's answers were cut off at their limit, and scores may say little: {raised}"
        "if it is a model that thinks before it answers, switch that off, as with `data.chat_template_kwargs: "
        "{enable_thinking: false}`, in the training too"
    )
