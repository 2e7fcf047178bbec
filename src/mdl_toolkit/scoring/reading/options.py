"""Which option of a question an answer chooses, by letter or by text, as people's answers really look."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mdl_toolkit.scoring.reading.label_set import LabelSet
from mdl_toolkit.scoring.reading.lists import choices_of
from mdl_toolkit.scoring.reading.words import without_thinking, words

_LATIN = r"A-Za-z0-9_\u00c0-\u024f"
#: A letter that stands alone: no abbreviation (``A.B``, ``e.g.``), no part of a word (``it's``, ``A-flat``).
_ALONE = rf"(?<![{_LATIN}'’.])(?<![{_LATIN}]-)(?P<letter>[A-Za-z])(?!\.?[{_LATIN}'’])(?!-[{_LATIN}])"
_OPEN = r"[(\[{<\"'“‘「『【]"
_IS = (
    r"(?:\s+(?:is|was|are|would|should|must|could|may|might|be|to|that|likely|probably|clearly|therefore)\b"
    r"|\s*[:=]){0,4}"  # bounded, so that no text takes long
)
_NOUN = r"(?:option|choice|letter|answer|label)"
_VERB = r"(?:choose|chooses|choosing|chose|pick(?:ed|s)?|select(?:ed|s)?|go(?:ing)?\s+(?:with|for))"
_ENGLISH = rf"\b(?:{_NOUN}|{_VERB}){_IS}(?:\s+the)?(?:\s+{_NOUN})?{_IS}\s*"
_CHINESE = r"(?:答案|选项|选择|应选|该选|故选|选)(?:应该|应当|应)?(?:是|为|选)?(?:选项)?\s*:?\s*"
#: Words that announce the option chosen, and its letter.
_ANNOUNCED = re.compile(rf"(?:(?i:{_ENGLISH})|{_CHINESE})(?:{_OPEN}\s*)*{_ALONE}")
#: A line that is a letter, or begins with one and what divides it from the text after it.
_LISTED = re.compile(
    rf"^\W*{_ALONE}(?:[.,]?[^\S\n]*$|\s*(?:[)\]}}】>\"'”’:、]|\.(?=\s*\S)|\s[-–—]\s))", re.MULTILINE
)
_BRACKETED = re.compile(rf"[(\[【「]?\s*{_ALONE}\s*[)\]】」]")
_STANDING = re.compile(_ALONE)
_WHOLE = re.compile(r"[\W_]*(?P<letter>[A-Za-z])[\W_]*")
_LEADING = re.compile(r"(?P<letter>[a-z]),?\s+(?P<rest>.+)", re.DOTALL)
#: Another letter that is named in one breath: "A or B", "A, B", "A和B".
_ALSO = re.compile(rf"\W*?(?:[,/;&、和或与]|\b(?:or|and)\b)\s*{_OPEN}?{_ALONE}")
_DENIED = re.compile(
    r"(?:\b(?:not|neither|nor|than|instead of)\s+(?:the\s+)?(?:option\s+)?|n't\s+(?:be\s+)?"
    r"|不是|不选|而非|并非)"
    rf"{_OPEN}?\s*$",
    re.IGNORECASE,
)
_NEXT_WORD = re.compile(rf"[^\S\n]+([{_LATIN}][{_LATIN}'’]*)")
_SENTENCE_BEGINS = re.compile(r"(?:^|[.!?:\n])\W*$")
#: What may follow the letter A, and not the article.
_AFTER_LETTER = frozenset(
    ("is", "was", "because", "since", "as", "and", "or", "but", "for", "given", "seems", "matches", "fits")
)
#: Characters after "a" in which an option's text is looked for.
_NEAR = 200
_FINAL = (
    re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL | re.IGNORECASE),
    re.compile(r"\\boxed\{\s*(?:\\text(?:bf)?\{)?([^{}]*)\}"),
    re.compile(r"\b(?:final|correct)\s+((?:answer|option|choice)\b.*)", re.DOTALL | re.IGNORECASE),
)
_ALIKE = str.maketrans({"*": None, "`": None, "，": ",", "：": ":", "。": "."})


@dataclass(frozen=True)
class _Mention:
    """A letter that an answer mentions: its option, and where it ends."""

    letter: str
    option: int
    end: int


class OptionReader:
    """Reads which option is meant.

    Args:
        texts: The texts of the options in order, the first of which is A; ``None`` where only letters are
            known.
        letters: The number of options where no texts are given.
    """

    def __init__(self, texts: Sequence[str] | None, letters: int = 26) -> None:
        self._count = min(len(texts) if texts is not None else letters, 26)
        self._texts = LabelSet(texts or ())
        self._option_of: dict[int, int] = {}  # by text; where two options have one text, the first
        for option, text in enumerate(texts or ()):
            number = self._texts.equal(text)
            if number is not None:
                self._option_of.setdefault(number, option)

    def read(self, answer: str) -> int | None:
        r"""The option that an answer chooses, from 0; ``None`` where it names none, or several.

        The first of these that holds decides: the answer is an option's text; it is a letter; it announces a
        letter ("The answer is B", "选B"); a letter stands before a text ("b) dog") or in brackets; capitals
        that stand alone, or else options' texts, are named. A letter counts within the options' range only,
        and "a" in prose is an article. After "final answer", in ``<answer>`` and in ``\boxed`` stands what
        counts.
        """
        text = unicodedata.normalize("NFKC", without_thinking(answer)).translate(_ALIKE).strip()
        equal = self._named_by_whole(text)
        if equal is not None:
            return equal
        for final in _FINAL:
            found = final.findall(text)
            if found:
                text = found[-1].strip()
        whole = _WHOLE.fullmatch(text)
        if whole:
            return self._number(whole["letter"])
        for pattern in (_ANNOUNCED, _LISTED, _BRACKETED):
            mentions = self._mentions(text, pattern)
            if mentions:
                repeats_all = pattern is not _ANNOUNCED and options_of_prompt(text) is not None
                return None if repeats_all else self._agreed(text, mentions)
        return self._in_prose(text)

    def _agreed(self, text: str, mentions: Sequence[_Mention]) -> int | None:
        """The option that letters mean, where they all mean one, and no other one's text follows."""
        options = {mention.option for mention in mentions}
        for mention in mentions:
            also = _ALSO.match(text, mention.end)
            if also:
                options |= {m.option for m in self._mentions(text, _STANDING) if m.end == also.end("letter")}
            follows = self._named_by_whole(text[mention.end :])
            if follows is not None:
                options.add(follows)
        return _only(options)

    def _in_prose(self, text: str) -> int | None:
        texts = self._texts.named(text)
        named = {self._option_of[number] for number in texts}
        within = {word for number in texts for word in words(self._texts.labels[number])}  # "C" in "C major"
        standing = {
            mention.option
            for mention in self._mentions(text, _STANDING)
            if mention.letter.isupper() and mention.letter != "I" and mention.letter.lower() not in within
        }
        leading = _LEADING.fullmatch(text)
        if leading and self._named_by_whole(leading["rest"]) == self._number(leading["letter"]):
            return self._number(leading["letter"])
        if standing and named and not standing & named:
            return None
        return _only(standing or named)

    def _mentions(self, text: str, pattern: re.Pattern[str]) -> list[_Mention]:
        return list(self._iterate(text, pattern))

    def _iterate(self, text: str, pattern: re.Pattern[str]) -> Iterator[_Mention]:
        for match in pattern.finditer(text):
            begin, end = match.span("letter")
            option = self._number(match["letter"])
            if option is None or _DENIED.search(text[max(0, begin - 40) : begin]):
                continue
            if not self._is_word(text, begin, end, option):
                yield _Mention(match["letter"], option, end)

    def _is_word(self, text: str, begin: int, end: int, option: int) -> bool:
        """Whether a letter is the article "a" or the pronoun "I"."""
        letter = text[begin]
        follows = _NEXT_WORD.match(text, end)
        if letter not in "aAI" or not follows:
            return False
        named = {self._option_of[number] for number in self._texts.named(text[end : end + _NEAR])}
        if letter == "I" or (named and option not in named):
            return named != {option}
        if named == {option} or follows[1] in _AFTER_LETTER:
            return False
        return letter == "a" or _SENTENCE_BEGINS.search(text[:begin]) is not None

    def _number(self, letter: str) -> int | None:
        number = ord(letter.upper()) - ord("A")
        return number if number < self._count else None

    def _named_by_whole(self, text: str) -> int | None:
        number = self._texts.equal(text)
        return None if number is None else self._option_of[number]


def _only(options: set[int]) -> int | None:
    return options.pop() if len(options) == 1 else None


_MARKER = re.compile(r"(?:^|(?<=[\s,;:。?!)]))[(\[]?(?P<letter>[A-Za-z])(?:\s*[)\]】:、]|\.)\s*(?=\S)")


def options_of_prompt(prompt: str) -> list[str] | None:
    """The texts of the options that a prompt lists as "A. … B. …", "(a) … (b) …", "A) …", in order.

    Returns:
        The texts; ``None`` where the prompt has no list of two or more letters that begins with A.
    """
    text = unicodedata.normalize("NFKC", prompt)
    markers = list(_MARKER.finditer(text))
    best: list[re.Match[str]] = []
    for at, first in enumerate(markers):
        if first["letter"] not in "aA":
            continue
        chain = [first]
        for marker in markers[at + 1 :]:
            if ord(marker["letter"]) == ord(chain[-1]["letter"]) + 1:
                chain.append(marker)
        if len(chain) >= max(2, len(best)):
            best = chain
    if not best:
        return None
    ends = [marker.start() for marker in best[1:]] + [len(text)]
    texts = [text[marker.end() : end] for marker, end in zip(best, ends, strict=True)]
    texts[-1] = texts[-1].strip().split("\n")[0]  # what follows the list is no option
    return [text.strip().rstrip(",;，；").strip() for text in texts]


def options_of_rows(
    choices: Sequence[str | Sequence[str] | Mapping[str, str] | None] | None,
    prompts: Sequence[str | None] | None,
) -> list[list[str] | None] | None:
    """The options of each row, from its column of choices or else from its prompt.

    Args:
        choices: The column, if there is one: what :func:`choices_of` reads, or a list as in a prompt.
        prompts: The prompt of each row, if known.

    Returns:
        The options of each row, or ``None`` for one without; ``None`` where no row has any.
    """
    rows = len(choices if choices is not None else prompts or ())
    found: list[list[str] | None] = [
        _choices_of_row(cell) or (options_of_prompt(prompt) if prompt else None)
        for cell, prompt in zip(choices or [None] * rows, prompts or [None] * rows, strict=True)
    ]
    return found if any(found) else None


def _choices_of_row(cell: str | Sequence[str] | Mapping[str, str] | None) -> list[str] | None:
    found = choices_of(cell) if cell else []
    return (options_of_prompt(found[0]) if len(found) == 1 else None) or found


def without_letters(options: Sequence[str]) -> list[str]:
    """Options without letters of their own ("A. dog", "(b) cat"), where each has its own."""
    found = [_MARKER.match(unicodedata.normalize("NFKC", option.strip())) for option in options]
    lettered = [
        match is not None and ord(match["letter"].upper()) - ord("A") == number
        for number, match in enumerate(found)
    ]
    if not options or not all(lettered):
        return [option.strip() for option in options]
    return [
        unicodedata.normalize("NFKC", option.strip())[match.end() :].strip()
        for option, match in zip(options, found, strict=True)
        if match
    ]
