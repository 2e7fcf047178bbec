"""What manifests keep of the prompts that rows had."""

from __future__ import annotations

from mdl_toolkit.data.prompt.record import PromptRecord, PromptUse


def test_the_prompt_for_a_row_that_has_none():
    one = (PromptUse(user_prompt="a", rows=3), PromptUse(system_prompt="s", user_prompt="a", rows=1))
    record = PromptRecord(seen=one)
    assert record.default_for("user_prompt") == "a" and record.default_for("system_prompt") is None
    assert PromptRecord(user_prompt="b", seen=one).default_for("user_prompt") == "b"
    several = PromptRecord(seen=(*one, PromptUse(user_prompt="c", rows=1)))
    assert several.default_for("user_prompt") is None
    assert PromptRecord(seen=one, complete=False).default_for("user_prompt") is None


def test_datasets_used_as_one_have_one_record():
    first = PromptRecord(user_prompt="?", seen=(PromptUse(None, "?", 2), PromptUse("s", None, 1)))
    second = PromptRecord(user_prompt="!", seen=(PromptUse("s", None, 5),))
    joined = PromptRecord.joined([first, second])
    assert joined == PromptRecord(seen=(PromptUse("s", None, 6), PromptUse(None, "?", 2)))
    assert PromptRecord.joined([first, first]).user_prompt == "?"
    assert not PromptRecord.joined([first, PromptRecord("text-first")]).complete
