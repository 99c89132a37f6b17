"""Conversations as text, and which of its tokens are the answer's.

A prompt with its answer, or messages, become one text: by a chat template, or as prompt, separator
and answer. The last turn is the answer, and everything before it is context. The answer begins
with the spaces in front of it, because most tokenizers write a word and its space as one token;
what the template writes after it (the end-of-turn mark) belongs to it. A token that begins before
the answer belongs to the prompt.
"""

import json
from typing import Any

from ray_unlearn.spec.data_spec import DataSpec
from ray_unlearn.spec.document import Document, Turn
from ray_unlearn.spec.errors import UserError

PLACEHOLDER = "4f1c9be2a7d0"
"""Stands for an answer, to find where a template writes it."""

AFTER_EXAMPLE = "\n\n"
"""After an example before a question, where there is no template, as in MUSE."""

FIXED_DATE = (
    "{%- macro strftime_now(format) -%}{{ format | replace('%Y', '2024') | replace('%m', '07') "
    "| replace('%B', 'July') | replace('%b', 'Jul') | replace('%d', '26') }}{%- endmacro %}{{ '' }}"
)
"""Put before a template, so that today's date is 26 July 2024, the one Llama 3.1's template falls
back to: a study that is resumed tomorrow has the same tokens."""


def written_out(
    documents: list[Document], spec: DataSpec, tokenizer: Any, name: str
) -> list[Document]:
    """The documents of a split as texts; those without turns are texts already.

    Args:
        documents: as they were read.
        spec: its `chat_template` and `separator`.
        tokenizer: whose chat template is used where the spec asks for it.
        name: of the split, for errors.

    Raises:
        UserError: the tokenizer has no chat template; a template that cannot be used with a
            document, or does not write the answer as it writes others.
    """
    template = None
    if spec.chat_template is not None and any(document.turns for document in documents):
        template = FIXED_DATE + _template_text(spec.chat_template, tokenizer)
    found = []
    for document in documents:
        if not document.turns:
            found.append(document)
            continue
        if template is None:
            separator = "\n" if spec.separator is None else spec.separator
            head = _head(document.turns, separator)
            text = head + document.turns[-1].content
        else:
            where = f"data.chat_template: document {document.id!r} of `{name}`"
            head, text = _templated(document.turns, template, tokenizer, where)
        found.append(Document(document.id, text, prompt_length=len(head.rstrip(" "))))
    return found


def _head(turns: tuple[Turn, ...], separator: str) -> str:
    """What stands before the answer without a template: examples, each with its answer, prompt."""
    *examples, prompt = [turn.content for turn in turns[:-1]]
    pairs = zip(examples[::2], examples[1::2], strict=True)
    shown = "".join(asked + separator + told + AFTER_EXAMPLE for asked, told in pairs)
    return shown + prompt + separator


def _template_text(wanted: str, tokenizer: Any) -> str:
    if wanted != "tokenizer":
        return wanted
    try:
        text: str = tokenizer.get_chat_template()
    except ValueError:
        raise UserError(
            "data.chat_template: 'tokenizer', but the model's tokenizer has no chat template; give "
            "a Jinja template here, or leave it out for prompt, separator and answer as they are"
        ) from None
    return text


def _templated(
    turns: tuple[Turn, ...], template: str, tokenizer: Any, where: str
) -> tuple[str, str]:
    """What the template writes before the answer, and the whole text."""
    head, mark, _ = _rendered(
        (*turns[:-1], Turn(turns[-1].role, PLACEHOLDER)), template, tokenizer, where
    ).partition(PLACEHOLDER)
    if not mark:
        raise UserError(
            f"{where}: the template leaves the last message out; it must write the content of "
            f"messages of the role {turns[-1].role!r}"
        )
    text = _rendered(turns, template, tokenizer, where)
    if not text.startswith(head) or turns[-1].content.strip() not in text[len(head) :]:
        raise UserError(
            f"{where}: the template changes the prompt or the answer with what the answer is, so "
            "the answer cannot be told from the prompt; give a Jinja template that writes both as "
            "they are"
        )
    return head, text


def _rendered(turns: tuple[Turn, ...], template: str, tokenizer: Any, where: str) -> str:
    messages = [turn._asdict() for turn in turns]
    try:
        text: str = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
    # A template runs in a sandbox and may raise whatever its expressions do.
    except Exception as error:
        raise UserError(
            f"{where}: the template cannot be used: {type(error).__name__}: {error}; change the "
            "messages or the template"
        ) from None
    return text


def encoded_answers(
    documents: list[Document], tokenizer: Any, *, special_tokens: bool
) -> list[tuple[list[int], int]]:
    """Token ids of each text, and the index of the first one that belongs to its answer.

    Args:
        documents: with a `prompt_length`.
        tokenizer: one that says which characters a token stands for.
        special_tokens: whether it adds those of its own; a chat template writes them itself.

    Raises:
        UserError: a tokenizer that cannot say which characters a token stands for.
    """
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise UserError(
            f"model.source: {type(tokenizer).__name__} does not say which characters a token "
            "stands for, so answers cannot be told from prompts; save the tokenizer as "
            "tokenizer.json, or use `text`"
        )
    encodings = _with_exact_offsets(tokenizer).encode_batch(
        [document.text for document in documents], add_special_tokens=special_tokens
    )
    found = []
    for document, encoding in zip(documents, encodings, strict=True):
        assert document.prompt_length is not None
        # Tokens that the tokenizer adds stand for no characters.
        first = next(
            (
                index
                for index, (start, end) in enumerate(encoding.offsets)
                if end > start >= document.prompt_length
            ),
            len(encoding.ids),
        )
        found.append((encoding.ids, first))
    return found


def _with_exact_offsets(tokenizer: Any) -> Any:
    """A copy of the tokenizer whose offsets include the spaces that are part of a token.

    Many leave them out (`trim_offsets`), which makes a token look as if it began later.
    """
    from tokenizers import Tokenizer

    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content |= {"truncation": None, "padding": None}
    processor = content["post_processor"] or {}
    for part in (processor, *processor.get("processors", ())):
        if "trim_offsets" in part:
            part["trim_offsets"] = False
    return Tokenizer.from_str(json.dumps(content))
