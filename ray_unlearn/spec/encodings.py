"""Text files that should be UTF-8: a byte order mark is left out, other encodings are refused."""

import codecs

from ray_unlearn.spec.errors import UserError

MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""The longer marks first: UTF-32's begins with that of UTF-16."""


def utf8_text(content: bytes) -> str:
    """The text of a UTF-8 file, without its byte order mark.

    Raises:
        UserError: it is something else, with a guess at what, the line and the remedy.
    """
    guess = next((name for mark, name in MARKS.items() if content.startswith(mark)), None)
    if guess is None and b"\0" in content[:2]:
        guess = "UTF-16"
    if guess is not None:
        raise UserError(f"is {guess} text; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"line {line}: {_guessed(content, error.start)}; save it as UTF-8"
        ) from None


def _guessed(content: bytes, at: int) -> str:
    """What a byte that is not UTF-8 may be, with the word around it."""
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError:
        return f"byte 0x{content[at]:02x} is not UTF-8, and no Windows-1252 either"
    before = len(content[:at].decode("cp1252"))
    word = text[:before].split()[-1:] if text[:before] and not text[before - 1].isspace() else []
    rest = text[before:].split()[:1]
    shown = "".join([*word, *rest])
    return f"not UTF-8, probably Windows-1252 or Latin-1 ({shown!r})"
