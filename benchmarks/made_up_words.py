"""Words that are as frequent as those of real text, for benchmarks that need a lot of it."""

from __future__ import annotations

import bm25s
import numpy as np

__all__ = ["made_up_words"]

_SYLLABLES = [first + vowel for first in "b d f g h k l m n p r s t v w z".split() for vowel in "aeiou"]  # noqa: SIM905


def made_up_words(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Words from the most frequent to the rarest, and how many of a text's words are no rarer than each.

    The most frequent ones are English words that aren't searched for, the others are made up; frequencies are those of
    Zipf and Mandelbrot. A text is `words[np.searchsorted(frequencies, random.random(size))]`.

    Args:
        count: of different words.

    Returns:
        words and cumulative frequencies, both (count,).
    """
    words = list(bm25s.stopwords.STOPWORDS_EN)
    words += [_made_up(rank) for rank in range(count - len(words))]
    frequencies = np.cumsum(1.0 / (np.arange(count) + 2.7))
    return np.array(words), frequencies / frequencies[-1]


def _made_up(rank: int) -> str:
    """A word; frequent ones are short."""
    word = ""
    while rank >= 0:
        rank, syllable = divmod(rank, len(_SYLLABLES))
        word += _SYLLABLES[syllable]
        rank -= 1
    return f"{word}x"  # no English word, and no ending of one
