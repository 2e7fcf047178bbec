"""The Chinese normaliser: what is said alike is written alike."""

from __future__ import annotations

import random

import pytest

from mdl_toolkit.scoring.speech.chinese import chinese_normalizer, without_blanks

normalize = chinese_normalizer()

#: Texts that sound the same.
SAME = [
    ("今天天气很好。", "今天天氣很好！"),
    ("我在臺灣買了蘋果", "我在台湾买了苹果"),
    ("ＡＢＣ公司", "abc公司"),
    ("２０２３年５月１日", "二〇二三年五月一日"),
    ("2023-05-01", "二零二三年五月一日"),
    ("1988年", "一九八八年"),
    ("90年代", "九十年代"),
    ("2000年前", "两千年前"),
    ("三千年前", "3000年前"),
    ("25.5%", "百分之二十五点五"),
    ("10%-20%", "百分之十到百分之二十"),
    ("5‰", "千分之五"),
    ("250块", "两百五十块"),
    ("12个人", "十二个人"),
    ("一十二个人", "12个人"),
    ("2,000人", "两千人"),
    ("1,234,567", "一百二十三万四千五百六十七"),
    ("10001", "一万零一"),
    ("打13800138000", "打一三八零零一三八零零零"),
    ("010-62345678", "零一零六二三四五六七八"),
    ("007", "零零七"),
    ("12:30开会", "十二点三十分开会"),
    ("比分3:2", "比分三比二"),
    ("3-5天", "三到五天"),
    ("2/3的人", "三分之二的人"),
    ("气温为-5℃", "气温为负五摄氏度"),
    ("¥100", "一百元"),
    ("$3.5亿", "三点五亿美元"),
    ("1.5.2版", "一点五点二版"),
    ("It's OK啦", "its ok 啦"),
    ("用 GPT-4 和 MP3", "用gpt-4和mp3"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_sounds_the_same_is_written_the_same(one: str, other: str):
    assert normalize(one) == normalize(other)


@pytest.mark.parametrize(
    ("one", "other"), [("5度", "-5度"), ("mp3", "mp4"), ("十二", "二十"), ("他们", "我们"), ("1.5", "15")]
)
def test_what_sounds_different_stays_different(one: str, other: str):
    assert normalize(one) != normalize(other)


def test_words_are_chinese_characters_and_latin_words():
    assert normalize("今天是 Monday，OK?").split() == ["今", "天", "是", "monday", "ok"]
    assert normalize("5G网络").split() == ["5g", "网", "络"]
    assert normalize("！？…") == normalize("") == ""
    assert without_blanks(normalize("我 爱 New York 的")) == "我爱new york的"


def test_no_text_is_too_odd():
    """Once normalised, a text stays as it is; whatever it was made of."""
    rng = random.Random(3)
    letters = "0123456789.,:-/%¥$年月日前℃一两百万〇点abc '。 ①²٣\u200b\n😀㎏가あ"
    for _ in range(3000):
        text = "".join(rng.choices(letters, k=rng.randrange(24)))
        made = normalize(text)
        assert made == " ".join(made.split())
        assert not set(made) & set(",.。:%¥$!")
    assert normalize("1" * 400).startswith("一 一 一")
