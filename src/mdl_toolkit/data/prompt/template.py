"""A checkpoint's chat template: found where transformers finds it, and rendered in a sandbox as there.

Templates come from model folders, which a user may have downloaded: they are data, and are run in jinja2's
immutable sandbox. Only this module knows where a folder keeps its template.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from mdl_toolkit.errors import ModelError

_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a model folder; empty where the file is absent."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: can't be read as JSON ({error}); fetch the model again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: a JSON object expected, found {type(value).__name__}")
    return value


def find_template(folder: Path) -> str:
    """The text of a folder's chat template.

    Looked for in ``chat_template.jinja``, ``chat_template.json`` and ``tokenizer_config.json``, in this
    order.

    Raises:
        ModelError: The folder has no template.
    """
    plain = folder / "chat_template.jinja"
    if plain.is_file():
        try:
            return plain.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ModelError(f"{plain}: can't be read ({error})") from error
    for name in ("chat_template.json", "tokenizer_config.json"):
        value = read_json(folder / name).get("chat_template")
        if isinstance(value, list):  # several templates by name
            named = {str(item.get("name")): item.get("template") for item in value if isinstance(item, dict)}
            value = named.get("default")
        if isinstance(value, str):
            return value
    raise ModelError(
        f"{folder}: no chat template (chat_template.jinja, chat_template.json or chat_template in "
        "tokenizer_config.json); copy the one of the base model into the folder"
    )


def compile_template(folder: Path) -> Callable[..., str]:
    """Compile a folder's chat template.

    Returns:
        ``render(messages, add_generation_prompt) -> str``; raises ModelError where the template refuses.
    """
    import jinja2

    text = find_template(folder)
    try:
        template = _environment().from_string(text)
    except jinja2.TemplateError as error:
        raise ModelError(f"{folder}: its chat template is not valid: {error}") from error
    known = _special_tokens(read_json(folder / "tokenizer_config.json"))

    def render(messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool) -> str:
        try:
            return str(
                template.render(
                    messages=messages,
                    tools=None,
                    documents=None,
                    add_generation_prompt=add_generation_prompt,
                    **known,
                )
            )
        except Exception as error:  # a template is foreign code: it can raise whatever it likes
            raise ModelError(f"{folder}: its chat template failed: {error}") from error

    return render


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name in _NAMED_TOKENS:
        value = config.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            found[name] = value
    return found


def _environment() -> Any:
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class GenerationBlock(Extension):
        """``{% generation %}…{% endgeneration %}`` marks answers for other tools; here it is its body."""

        tags = {"generation"}  # noqa: RUF012 -- the interface of a Jinja extension

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    def strftime_now(form: str) -> str:
        return datetime.now().strftime(form)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment
