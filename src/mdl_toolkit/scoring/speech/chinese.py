"""Chinese texts as speech can be compared: one width and case, simplified characters, numbers read out.

A recording doesn't say whether ``25%`` or ``百分之二十五`` is to be written, nor in which of the two scripts.
So numbers in digits are read out as they are spoken: years and telephone numbers digit by digit, others as
numbers. Digits within a word of Latin letters (``mp3``) stay.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

#: Characters that are each a word of their own: ideographs and kana.
_CHARACTER = (
    "\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_TOKEN = re.compile(rf"[{_CHARACTER}]|[^\s{_CHARACTER}]+")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
#: Not within a word of Latin letters (``mp3``, ``covid-19``), nor in a longer number.
_ALONE, _ENDED = r"(?<![a-z0-9])(?<![a-z]-)", r"(?![a-z0-9]|\.\d)"
_NUMBER = r"\d+(?:\.\d+)?"
_TO = r"\s*[-~–—]\s*"
#: cn2an reads no longer numbers than this.
_LONGEST = 16
#: From this length on a number is read digit by digit, as telephone numbers are, unless it is a round one.
_TELEPHONE = 7
_MOBILE = re.compile(r"1[3-9]\d{9}")
_CURRENCIES = {"¥": "元", "$": "美元", "€": "欧元", "£": "英镑"}
_MONEY = "".join(map(re.escape, _CURRENCIES))


def chinese_normalizer() -> Callable[[str], str]:
    """The normaliser: a text of words with blanks between, each Chinese character a word."""
    from opencc import OpenCC

    simplified = OpenCC("t2s").convert

    def normalize(text: str) -> str:
        text = unicodedata.normalize("NFKC", text).casefold()
        if any(digit in text for digit in "0123456789"):
            text = _read_out(text)
        text = _as_spoken(simplified(text))
        return " ".join(_TOKEN.findall(_without_symbols(text)))

    return normalize


def has_chinese(text: str) -> bool:
    """Whether a text has Chinese characters."""
    return _HAN.search(text) is not None


def without_blanks(text: str) -> str:
    """The characters of a normalised text: blanks count between Latin words alone."""
    return re.sub(rf"(?<=[{_CHARACTER}]) | (?=[{_CHARACTER}])", "", text)


def _read_out(text: str) -> str:
    """Numbers in digits as they are spoken."""
    for rule, read in _RULES:
        text = rule.sub(read, text)
    return text


def _number(digits: str) -> str:
    """A number as it is read: a quantity, or digit by digit where it is none."""
    whole = digits.partition(".")[0]
    round_number = digits.endswith("00") and not _MOBILE.fullmatch(digits)
    if (len(whole) > 1 and whole[0] == "0") or (len(whole) >= _TELEPHONE and not round_number):
        return _digits(digits)
    return _quantity(digits)


def _quantity(digits: str) -> str:
    """A number as a quantity, whatever its length."""
    from cn2an import an2cn

    whole = digits.partition(".")[0]
    return _digits(digits) if len(whole) > _LONGEST else str(an2cn(digits, "low"))


def _grouped(found: re.Match[str]) -> str:
    """``1,234,567``."""
    return _quantity(found[0].replace(",", ""))


def _money(amount: str) -> str:
    """An amount: ``3万`` is read as a number and its unit."""
    return _number(amount[:-1]) + amount[-1] if amount[-1] in "万亿" else _number(amount)


def _digits(digits: str) -> str:
    """Digit by digit; a decimal point is read too."""
    return "".join("点" if digit == "." else "零一二三四五六七八九"[int(digit)] for digit in digits)


def _date(found: re.Match[str]) -> str:
    month, day = int(found[2]), int(found[3])
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return found[0]
    return f"{_digits(found[1])}年{_number(str(month))}月{_number(str(day))}日"


def _time(found: re.Match[str]) -> str:
    hour, minute, second = int(found[1]), int(found[2]), int(found[3] or 0)
    read = f"{_number(str(hour))}点"
    if minute or second:
        read += ("零" if 0 < minute < 10 else "") + f"{_number(str(minute))}分"
    return read + (f"{_number(str(second))}秒" if second else "")


def _share(found: re.Match[str]) -> str:
    of = "千" if found[0].endswith("‰") else "百"
    return f"{of}分之{_number(found[1])}"


def _shares(found: re.Match[str]) -> str:
    """``10-20%`` and ``10%-20%``, each as it is written."""
    second = "百分之" if found[2] else ""
    return f"百分之{_number(found[1])}到{second}{_number(found[3])}"


def _fraction(found: re.Match[str]) -> str:
    return f"{_number(found[2])}分之{_number(found[1])}"


def _range(found: re.Match[str]) -> str:
    one, other = found[1], found[2]
    if max(len(one), len(other)) > 4 or one[0] == "0" or other[0] == "0":
        return f"{_number(one)} {_number(other)}"
    return f"{_number(one)}到{_number(other)}"


#: Ways in which numbers are written, the more special first, and how each is read.
_RULES = tuple(
    (re.compile(rule, re.ASCII), read)
    for rule, read in (
        (rf"{_ALONE}(\d{{4}})[-/.](\d{{1,2}})[-/.](\d{{1,2}}){_ENDED}", _date),
        (
            rf"{_ALONE}\d{{1,3}}(?:,\d{{3}})+(?:\.\d+)?(?!\d)",
            _grouped,
        ),
        (rf"{_ALONE}\d+(?:\.\d+){{2,}}(?!\d)", lambda found: _digits(found[0])),
        (rf"{_ALONE}(?![12]000\s*年[前后])([12]\d{{3}})(?=\s*年)", lambda found: _digits(found[1])),
        (rf"{_ALONE}([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?{_ENDED}", _time),
        (rf"{_ALONE}(\d+):(\d+){_ENDED}", lambda found: f"{_number(found[1])}比{_number(found[2])}"),
        (rf"([{_MONEY}])\s*({_NUMBER}[万亿]?)", lambda found: _money(found[2]) + _CURRENCIES[found[1]]),
        (rf"(?:(?<=[为是到至度达低])|(?<![^\s(]))-(?={_NUMBER})", lambda _: "负"),
        (rf"{_ALONE}({_NUMBER})\s*(%?){_TO}({_NUMBER})\s*%", _shares),
        (rf"{_ALONE}({_NUMBER})\s*[%‰]", _share),
        (rf"{_ALONE}([1-9]\d*)[/⁄]([1-9]\d*){_ENDED}", _fraction),
        (rf"{_ALONE}({_NUMBER})\s*°\s*c(?![a-z])", lambda found: f"{_number(found[1])}摄氏度"),
        (rf"{_ALONE}({_NUMBER}){_TO}({_NUMBER}){_ENDED}", _range),
        (rf"{_ALONE}{_NUMBER}{_ENDED}", lambda found: _number(found[0])),
    )
)


def _as_spoken(text: str) -> str:
    """One way of writing for what is one number: 两百 is 二百, 〇 is 零, 一十二 is 十二."""
    text = text.replace("〇", "零").replace("○", "零")
    text = re.sub("两(?=[百千万亿])", "二", text)
    return re.sub("(?<![零一二三四五六七八九百千万亿])一十", "十", text)


def _without_symbols(text: str) -> str:
    """Letters, marks and numbers; in place of all else a blank, but for the apostrophe of a Latin word."""
    text = re.sub(r"(?<=[a-z])['’](?=[a-z])", "", text)
    return "".join(letter if unicodedata.category(letter)[0] in "LMN" else " " for letter in text)
