"""What editors write beside a text is no part of it."""

from pathlib import Path

from ray_unlearn.spec.data_spec import SplitSource
from ray_unlearn.unlearn.sources import read_source


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    """Editors on Windows write one; it became tokens of a .txt file, and refused a JSONL file."""
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfsome words")
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "some words"}\n')
    for name in ("a.txt", "a.jsonl"):
        source = SplitSource(path=str(tmp_path / name))
        assert [document.text for document in read_source(source, "here")] == ["some words"]
