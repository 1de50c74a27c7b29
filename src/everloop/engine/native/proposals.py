"""What a request may write next, guessed without a model: from its own text, from a prediction.

Token ids are kept as characters of a string, because nothing searches faster than `str.find`.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from operator import mul

LARGEST_VOCABULARY = 0x110000
"""Characters that there are."""

AGREED = (0, 1, 2, 3, 5, 9, 17)
"""Tokens that agreed before a proposed one, in classes: the more, the likelier it is right."""

MATCH_ODDS = (0.0, 0.0, 0.0, 0.6, 0.7, 0.85, 0.92)
PREDICTION_ODDS = (0.15, 0.6, 0.75, 0.88, 0.93, 0.95, 0.96)
"""What is expected of each class before anything is known: what was counted where a small model
corrects and edits."""

PRIOR, MEMORY = 20.0, 0.995
"""Tokens that this expectation counts for, and what the outcome of one more leaves of what is known
of its class."""

DOUBT, SHORT_MEMORY = 1.0, 0.98
"""Wrong tokens that one request's own record must do without to be believed, and what one more
token leaves of it."""

MATCHED = (3, 5, 9, 17)
"""Lengths of what was written last that are looked for in the text before."""

NEAR, CLOSE = 64, 8
"""How far ahead in a prediction two tokens, and one, are believed to be what they look like."""

BELIEVED = 3
"""At its beginning a prediction is followed as if so many tokens had agreed."""

CERTAIN = 5
"""Where so many tokens agreed the output may well be, and no other place is looked for."""

PLACES = 4
"""Places of a prediction that are followed together."""

LOST = 8
"""After so many tokens in vain only three that agree are looked for, and nothing is proposed."""

FIRST_LOOK = 8
"""Tokens that a request writes before it is first asked, unless it has a prediction, and that are
written in one go whenever it is due, before anything was drafted."""

ENDLESS = sys.maxsize

EAGER_PAUSE, LONGEST_PAUSE = 4, 32
"""Tokens from one question to the next: up to the first number, one that paid just now is asked on
time; the second is the longest."""

_UTF32 = f"utf-32-{sys.byteorder[0]}e"
_CLASS = [bisect_right(AGREED, n) - 1 for n in range(AGREED[-1] + 1)]


class Odds:
    """How often proposed tokens of all requests turned out right, by how many agreed before."""

    def __init__(self, expected: Sequence[float]) -> None:
        self._right = [PRIOR * p for p in expected]
        self._seen = [PRIOR] * len(expected)

    @property
    def rates(self) -> list[float]:
        """That a token is right, by the class of how many before it agreed."""
        return [right / seen for right, seen in zip(self._right, self._seen, strict=True)]

    def of(self, agreed: int) -> float:
        """That a token is right before which `agreed` tokens were."""
        i = _CLASS[agreed] if agreed < len(_CLASS) else -1
        return self._right[i] / self._seen[i]

    def count(self, agreed: int, right: bool) -> None:
        """One more of them was right, or wrong."""
        i = _CLASS[agreed] if agreed < len(_CLASS) else -1
        self._right[i] = MEMORY * self._right[i] + right
        self._seen[i] = MEMORY * self._seen[i] + 1.0


class Record:
    """One request's proposals beside those of all: wrong so many times as often."""

    def __init__(self, odds: Odds) -> None:
        self._odds = odds
        self._wrong = self._expected = DOUBT

    def learn(self, agreed: int, right: int, wrong: bool) -> None:
        """After `agreed` tokens, `right` more were right, and then one was `wrong`, or the rest is
        not known."""
        for n in range(agreed, agreed + right + wrong):
            good = n < agreed + right
            self._wrong = DOUBT + SHORT_MEMORY * (self._wrong - DOUBT) + (not good)
            self._expected = (
                DOUBT + SHORT_MEMORY * (self._expected - DOUBT) + 1.0 - self._odds.of(n)
            )
            self._odds.count(n, good)

    def chances(self, agreed: int, count: int) -> list[float]:
        """That the next token is right, that the next two are, … , that the next `count` are."""
        times = self._wrong / self._expected
        rates = [max(1.0 - times * (1.0 - rate), 0.0) for rate in self._odds.rates]
        classes = _CLASS[agreed : agreed + count]
        classes += [_CLASS[-1]] * (count - len(classes))
        return list(accumulate([rates[i] for i in classes], mul))


class Experience:
    """What all requests of an engine have taught about proposals of each kind."""

    def __init__(self) -> None:
        self.matches, self.predictions = Odds(MATCH_ODDS), Odds(PREDICTION_ODDS)


class Matches:
    """Follows the latest earlier place of a text that ends like the text itself."""

    def __init__(self, experience: Experience) -> None:
        self._record = Record(experience.matches)
        self._text = ""
        self._at = -1  # what stands here is proposed; -1: nothing
        self._agreed = 0  # tokens before it that are the text's last ones

    def follow(self, tokens: Sequence[int]) -> None:
        """Takes the text, which begins with what it was before."""
        known = len(self._text)
        self._text = text = self._text + encode(tokens[known:])
        at = self._at
        if at >= 0 and known < len(text):
            new = len(text) - known
            right = _common(text, at, text, known, new)
            self._record.learn(self._agreed, right, right < new)
            if right == new:
                self._at, self._agreed = at + right, self._agreed + right
                return
        self._search()

    def propose(self, most: int, longest: int) -> tuple[str, list[float]]:
        """Up to `longest` tokens, and the chance that each of the first `most`, with all before
        it, is right."""
        if self._at < 0 or not longest:
            return "", []
        found = self._text[self._at : self._at + longest]
        if len(found) < longest:  # it goes round in circles
            found = (found * (longest // len(found) + 1))[:longest]
        return found, self._record.chances(self._agreed, min(most, longest))

    def _search(self) -> None:
        text, self._at = self._text, -1
        last = len(text) - 1
        for n in MATCHED:
            if n > last:
                return
            wanted = text[-n:]
            if self._at >= 0 and text.endswith(wanted, 0, self._at):
                self._agreed = n
                continue
            at = text.rfind(wanted, 0, last)
            if at < 0:
                return
            self._at, self._agreed = at + n, n


class Prediction:
    """Follows a predicted text from where the output stands in it, and finds its place again where
    the output has inserted, left out or replaced something.

    Where that is not certain, it follows several places, and proposes what stands at the one before
    which most tokens agreed.
    """

    def __init__(self, ids: Sequence[int], experience: Experience) -> None:
        self._record = Record(experience.predictions)
        self._text = encode(ids)
        self._known = frozenset(self._text)
        self._appeared = bytearray(len(self._text))
        self._output = ""
        # Where the next token should stand, and how many before it agreed; the likeliest first.
        self._places = [(0, BELIEVED)]
        self._certain = 0  # what stands before this has come, or is given up
        self._vain = 0  # last tokens that agreed with no place

    @property
    def usage(self) -> tuple[int, int]:
        """How many of its tokens appeared in the output where they were expected, and how many
        did not."""
        accepted = sum(self._appeared)
        return accepted, len(self._appeared) - accepted

    def follow(self, new: str) -> None:
        """Takes the next tokens of the output. What comes of it doesn't depend on how the output
        is cut in pieces."""
        end, text = len(self._output), self._text
        self._output = output = self._output + new
        while end < len(output):
            if self._vain >= LOST:
                end += 1
                found = text.find(output[end - 3 : end], self._certain)
                if found >= 0:
                    self._places, self._vain = [(found + 3, 3)], 0
                    self._came(found + 3, 3, 0)
                continue
            place, agreed = self._places[0]
            right = 0
            if len(self._places) == 1:
                right = _common(text, place, output, end, len(output) - end)
                self._record.learn(agreed, right, wrong=False)
                self._came(place, agreed, right)
                self._places = [(place + right, agreed + right)]
                end += right
            if not right:
                end += 1
                self._step(output, end)

    def propose(self, most: int, longest: int) -> tuple[str, list[float]]:
        """As `Matches.propose`."""
        if self._vain >= LOST:
            return "", []
        place, agreed = self._places[0]
        found = self._text[place : place + longest]
        return found, self._record.chances(agreed, min(most, len(found))) if found else []

    def _step(self, output: str, end: int) -> None:
        """Takes one token, output[end - 1], where there are several places or the only one is
        wrong."""
        text, token = self._text, output[end - 1]
        first, agreed = self._places[0]
        right = text[first : first + 1] == token
        if first < len(text):
            self._record.learn(agreed, int(right), wrong=not right)
        places = {p + 1: n + 1 for p, n in self._places if text[p : p + 1] == token}
        if not places:
            sure = [p for p, n in self._places if n >= CERTAIN]
            self._certain = min(sure, default=self._certain)
            places = {first + 1: 0, first: 0}  # one token instead of another, or one more
            self._vain += 1
        if max(places.values()) < CERTAIN and token in self._known:
            start = self._certain
            for n, reach in ((3, len(text)), (2, NEAR), (1, CLOSE)):
                found = text.find(output[end - n : end], start, start + reach + n)
                if end >= n and found >= 0:
                    places[found + n] = max(n, places.get(found + n, 0))
                    break
        best = sorted(places.items(), key=_agreed, reverse=True)
        self._places = best[:PLACES]
        if best[0][1] > 1:
            self._vain = 0
            self._came(*best[0], 0)

    def _came(self, place: int, agreed: int, right: int) -> None:
        """Notes that `agreed` tokens before a place appeared, and `right` there."""
        if agreed + right > 1:  # one alone may be chance
            start = max(place - agreed, 0)
            end = min(place + right, len(self._text))
            self._appeared[start:end] = b"\1" * (end - start)


class Drafter:
    """What one request proposes. `due` is the length of its text at which it is asked again."""

    def __init__(self, prompt: int, prediction: Sequence[int], experience: Experience) -> None:
        """`prompt`: tokens of the text that the request hasn't written."""
        self._matches = Matches(experience)
        self._prediction = Prediction(prediction, experience) if prediction else None
        self._seen = prompt
        self._pause = 1 if prediction else FIRST_LOOK
        self._useful = False  # nothing was drafted yet
        self.due = prompt + (0 if prediction else FIRST_LOOK)

    def patience(self, tokens: int) -> int:
        """How many more tokens than `tokens` may be written in one go although it is due sooner."""
        wait = max(self.due - tokens, 1)
        if self._useful and (self._prediction is not None or self._pause <= EAGER_PAUSE):
            return wait
        if self._prediction is not None and self._pause < LONGEST_PAUSE:
            return max(wait, FIRST_LOOK)
        return ENDLESS

    def propose(self, tokens: Sequence[int], most: int, longest: int) -> tuple[str, list[float]]:
        """Up to `longest` tokens that may come after `tokens`, all of the request's text, and the
        chance that each of the first `most`, with all before it, is right."""
        self._matches.follow(tokens)
        found = self._matches.propose(most, longest)
        if self._prediction is not None:
            self._follow(tokens)
            other = self._prediction.propose(most, longest)
            if sum(other[1]) >= sum(found[1]):
                return other
        return found

    def used(self, tokens: int) -> None:
        """Something was drafted after a text of so many tokens."""
        self._pause, self._useful, self.due = 1, True, tokens

    def rest(self, tokens: int) -> None:
        """Nothing came of it: the next time is later, and later still if that is in vain too."""
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self.due = tokens + self._pause

    def stop(self) -> None:
        """Nothing is to be drafted any more."""
        self._pause, self.due = LONGEST_PAUSE, ENDLESS

    def end(self, tokens: Sequence[int], last: int) -> None:
        """The output ended with a token that is not among `tokens`."""
        if self._prediction is not None:
            self._follow(tokens)
            self._prediction.follow(encode([last]))

    def usage(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Of the prediction, if there is one: tokens that appeared in the output, and others."""
        if self._prediction is None:
            return ()
        self._follow(tokens)
        return self._prediction.usage

    def _follow(self, tokens: Sequence[int]) -> None:
        assert self._prediction is not None
        if self._seen < len(tokens):
            self._prediction.follow(encode(tokens[self._seen :]))
            self._seen = len(tokens)


def encode(ids: Sequence[int]) -> str:
    """Token ids as characters."""
    return array("I", ids).tobytes().decode(_UTF32, "surrogatepass")


def decode(text: str) -> list[int]:
    """The token ids of characters."""
    return list(map(ord, text))


def _agreed(place: tuple[int, int]) -> int:
    return place[1]


def _common(a: str, i: int, b: str, j: int, most: int) -> int:
    """How many characters are equal from a[i] and b[j] on, at most `most`."""
    if a[i : i + most] == b[j : j + most]:
        return most
    count = 0
    for x, y in zip(a[i : i + most], b[j : j + most], strict=False):
        if x != y:
            break
        count += 1
    return count
