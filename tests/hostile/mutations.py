"""Hostile changes of real files: of their bytes, of the values in them, of the files themselves.

Each takes a `random.Random`, which is hypothesis's own in the tests and a seeded one in
`benchmarks/fuzz.py`.
"""

import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

Bytes = Callable[[bytes, Random], bytes]
HUGE = "@huge@"
DEEP = "@deep@"
"""Stand for text that neither JSON nor YAML would write: `_raw` puts it in."""
RAW = {HUGE: "9" * 5000, DEEP: "[" * 20_000, "@inf@": "1e999", "@nan@": "NaN"}
ESCAPES = "\x1b[31m\x1b]0;title\x07\x9b2J\r\b"
NAMES: list[str] = [
    "", " ", ".", "..", "../../outside/victim.txt", "../" * 40 + "etc/passwd", "~root", "a\0b",
    "{outside}/victim.txt", "//x", "C:\\x", "|x", "-rf", "%s%n", "${HOME}", "con", "nan", "inf",
    ESCAPES, "a\nb", "\u202egpj", "\u2028", "\ud800", "\ufeff", "grad\u0456ent_ascent",
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{7*7}}", "{% x %}",
    "[x](javascript:1)", "__class__", "x" * 100_000, "demo:shakespeare", "$x^{$", "\\frac{",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**30, 10**400, 0.0, -0.0, 0.5,
    1e-320, 1e308, -1e308, "@nan@", "@inf@", HUGE, DEEP, [], {}, [None], {"": None}, [[]], [{}],
    {"a": {"b": {"c": []}}}, [0] * 1000, "1", "true", "null", "2026-01-01", *NAMES,
]  # fmt: skip
SNIPPETS = (
    "&a [*a]", "*a", "!!python/object/apply:os.system [x]", "!!python/name:os.system", "!x y",
    "{[1]: 2}", "{{a: 1}: 2}", "? [a, b]\n: c", "!!map [a]", "!!map x", "!!seq {a: 1}", "!!set {a}",
    "!!omap [a]", "!!pairs [a]", "!!binary x", "!!binary '='", "!!int x", "!!float x", "!!bool 7",
    "!!timestamp x", "!!null x", "!!str {a: 1}", "{<<: 1}", "{<<: [1]}", "{<<: {a: 1}, a: 2}",
    "{<<: [{a: 1}, {b: 2}]}", "=", "0x" + "f" * 9000, "1:" * 3000 + "1", "1:1:1.5", "9" * 5000,
    ".inf", "-.inf", ".nan", "1e999", "2001-99-99", "2001-01-01", "2001-01-01 10:00:00", "0o17",
    "0b" + "1" * 9000, "~", "'", '"', "|", ">", "%", "@", "`", "- a", "a: b: c", "[", "{", "]",
    "[" * 900, "{a: " * 400, "\t", "\x07", "\\", "'\\x1b[31m'", '"\\e[31m\\a"', '"\\0"', "---",
    "...",
)  # fmt: skip
PIECES = (
    b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\n", b"\r", b"{", b"}", b"[", b"]", b'"', b",",
    b":", b"\x1b[31m", b"\xed\xa0\x80", b"\xc0\xaf", b"-", b"1e999", b"NaN", b"null", b"\n---\n",
)  # fmt: skip


# -- bytes -----------------------------------------------------------------------------------------


def flipped(data: bytes, random: Random) -> bytes:
    """A few bits turned."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8))):
        if changed:
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def cut(data: bytes, random: Random) -> bytes:
    """The beginning alone."""
    return data[: random.randrange(len(data) + 1)]


def without_a_piece(data: bytes, random: Random) -> bytes:
    """A stretch left out."""
    begin, end = _span(data, random)
    return data[:begin] + data[end:]


def with_a_piece_twice(data: bytes, random: Random) -> bytes:
    """A stretch repeated."""
    begin, end = _span(data, random)
    return data[:end] + data[begin:]


def with_a_piece_more(data: bytes, random: Random) -> bytes:
    """Something put in that is seldom text."""
    at = random.randrange(len(data) + 1)
    return data[:at] + random.choice(PIECES) * random.choice((1, 1, 3, 2000)) + data[at:]


def lines_mixed(data: bytes, random: Random) -> bytes:
    """A line left out, twice, or elsewhere."""
    lines = data.splitlines(keepends=True)
    if not lines:
        return data
    at, to = random.randrange(len(lines)), random.randrange(len(lines) + 1)
    line = lines[at]
    if random.random() < 0.6:
        del lines[at]
    if random.random() < 0.6:
        lines.insert(to, line)
    return b"".join(lines)


def in_another_encoding(data: bytes, random: Random) -> bytes:
    """The text in UTF-16, UTF-32 or Latin-1, or with a byte order mark."""
    text = data.decode("utf-8", "replace")
    name = random.choice(("utf-16", "utf-16-be", "utf-32", "latin-1", "utf-8-sig", "utf-7"))
    return text.encode(name, "replace")


def something_else(data: bytes, random: Random) -> bytes:
    """Nothing of the file left."""
    whole = (
        b"", b"\n", b"null", b"[]", b"{}", b"0", b'""', b"\0" * 1000, b"PK\3\4", b"PAR1PAR1",
        b"{" * 100_000, b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"a: " * 3000,
        b"SQLite format 3\0" + bytes(100), b'{"op_code": 1}\n', b"\x80\x04.", b"- " * 3000,
    )  # fmt: skip
    return random.choice((*whole, random.randbytes(200)))


BYTES: tuple[Bytes, ...] = (
    flipped, cut, without_a_piece, with_a_piece_twice, with_a_piece_more, lines_mixed,
    in_another_encoding, something_else,
)  # fmt: skip


def _span(data: bytes, random: Random) -> tuple[int, int]:
    begin = random.randrange(len(data) + 1)
    return begin, min(len(data), begin + random.choice((1, 4, 64, 4096)))


# -- values ----------------------------------------------------------------------------------------


def changed(content: Any, random: Random, times: int = 1) -> Any:
    """Plain values with one of them dropped, doubled, renamed, retyped or exchanged."""
    for _ in range(times):
        holders = _holders(content)
        if not holders:
            return random.choice(VALUES)
        holder = random.choice(holders)
        key = random.choice(list(holder if isinstance(holder, dict) else range(len(holder))))
        _change(holder, key, random)
    return content


def _change(holder: Any, key: Any, random: Random) -> None:
    kind = random.randrange(8)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[random.choice(NAMES)] = holder.pop(key)
    elif kind == 2 and isinstance(holder, dict):
        holder[random.choice(NAMES)] = random.choice(VALUES)
    elif kind == 3:
        other = random.choice(list(holder if isinstance(holder, dict) else range(len(holder))))
        holder[key], holder[other] = holder[other], holder[key]
    elif kind == 4 and isinstance(holder, list):
        holder.extend([holder[key]] * random.choice((1, 50)))
    elif kind == 5 and isinstance(holder[key], int | float):
        holder[key] = random.choice(
            (-holder[key], holder[key] * 10**9, holder[key] + 0.5, str(key))
        )
    elif kind == 6:
        holder[key] = [holder[key]] if random.random() < 0.5 else {"x": holder[key]}
    else:
        holder[key] = random.choice(VALUES)


def _holders(content: Any) -> list[Any]:
    if isinstance(content, dict):
        below = content.values()
    elif isinstance(content, list):
        below = content
    else:
        return []
    return [*([content] if content else []), *(one for part in below for one in _holders(part))]


def json_text(content: Any) -> bytes:
    """JSON with the values in it that `json` does not write."""
    text = json.dumps(content)
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text.encode("utf-8", "replace")


def json_values(data: bytes, random: Random) -> bytes:
    """A file of JSON with other values."""
    return json_text(changed(json.loads(data), random, random.choice((1, 1, 2, 5))))


def json_line_values(data: bytes, random: Random) -> bytes:
    """A file of JSON lines with other values in one of them."""
    lines = data.splitlines(keepends=True)
    at = random.randrange(len(lines))
    lines[at] = json_values(lines[at], random) + b"\n"
    return b"".join(lines)


def yaml_values(data: bytes, random: Random) -> bytes:
    """A YAML file with other values."""
    content = changed(yaml.safe_load(data), random, random.choice((1, 1, 2, 5)))
    try:
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=random.random() < 0.5)
    except (UnicodeError, ValueError):
        return data
    for name, raw in RAW.items():
        text = text.replace(f"'{name}'", raw)
    return text.encode("utf-8", "replace")


def yaml_snippets(data: bytes, random: Random) -> bytes:
    """A YAML file with a value that is more than it seems."""
    lines = data.decode("utf-8").splitlines()
    at = random.randrange(len(lines))
    key, colon, _ = lines[at].partition(":")
    snippet = random.choice(SNIPPETS)
    lines[at] = f"{key}: {snippet}" if colon and random.random() < 0.8 else snippet
    return "\n".join(lines).encode("utf-8", "replace")


def sealed(content: dict[str, Any]) -> bytes:
    """A line of a ledger whose checksum is right, whatever it says."""
    body = json_text({name: value for name, value in content.items() if name != "crc"})[:-1]
    return body + b', "crc": "%08x"}\n' % zlib.crc32(body)


def ledger_values(data: bytes, random: Random) -> bytes:
    """Events with other values, and with the checksum that makes them look whole."""
    lines = data.splitlines(keepends=True)
    at = 0 if random.random() < 0.2 else random.randrange(len(lines))
    content = changed(json.loads(lines[at]), random, random.choice((1, 1, 2, 5)))
    lines[at] = sealed(content) if isinstance(content, dict) else json_text(content) + b"\n"
    return b"".join(lines)


def ledger_order(data: bytes, random: Random) -> bytes:
    """Events left out, twice or elsewhere, numbered as if nothing had been."""
    lines = lines_mixed(data, random).splitlines(keepends=True)
    events = [json.loads(line) for line in lines]
    return b"".join(sealed(event | {"seq": seq}) for seq, event in enumerate(events))


def parquet_values(data: bytes, random: Random) -> bytes:
    """A Parquet table with other columns, types, cells or metadata."""
    table = pq.read_table(io.BytesIO(data))
    at = random.randrange(table.num_columns)
    name, kind = table.column_names[at], random.randrange(6)
    rows = table.num_rows
    if kind == 0:
        table = table.remove_column(at)
    elif kind == 1:
        texts = pa.array([random.choice(NAMES).encode("utf-8", "replace").decode()] * rows)
        table = table.set_column(at, name, texts)
    elif kind == 2:
        number = random.choice((None, -1.0, 1e308, float("nan"), float("inf"), 0.5))
        table = table.set_column(at, name, pa.array([number] * rows, pa.float64()))
    elif kind == 3:
        table = table.append_column(name, table.column(at))
    elif kind == 4:
        nested = random.choice(([[1]] * rows, [{"a": 1}] * rows, [b"\xff"] * rows, [True] * rows))
        table = table.set_column(at, name, pa.array(nested))
    else:
        version = random.choice((b"x", b"", b"-1", b"99", b"9" * 5000, b"\xff"))
        table = table.replace_schema_metadata({b"schema_version": version})
    if random.random() < 0.3:
        table = table.slice(random.randrange(rows + 1), random.randrange(rows + 1))
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def csv_cells(data: bytes, random: Random) -> bytes:
    """A table of text with another cell, in the header or below."""
    lines = data.decode().splitlines()
    at = random.choice((0, random.randrange(len(lines))))
    cells = lines[at].split(",")
    value = random.choice([str(one) for one in VALUES if not isinstance(one, list | dict)])
    cells[random.randrange(len(cells))] = RAW.get(value, value)
    lines[at] = ",".join(cells)
    return "\n".join(lines).encode("utf-8", "replace")


def tensor_header(data: bytes, random: Random) -> bytes:
    """A safetensors file with another header, or another length of it."""
    length = int.from_bytes(data[:8], "little")
    if random.random() < 0.3:
        other = random.choice((0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1))
        return other.to_bytes(8, "little") + data[8:]
    header = json_values(data[8 : 8 + length], random)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


# -- files -----------------------------------------------------------------------------------------


def moved(path: Path, outside: Path, random: Random) -> None:
    """The file replaced: by nothing, a folder, a link out of the world or to itself, a pipe."""
    content = path.read_bytes()
    path.unlink()
    kind = random.randrange(6)
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        path.symlink_to(outside / "victim.txt")
    elif kind == 2:
        path.symlink_to(path)
    elif kind == 3:
        (outside / path.name).write_bytes(content)
        path.symlink_to(outside / path.name)
    elif kind == 4:
        path.symlink_to("/dev/zero")
