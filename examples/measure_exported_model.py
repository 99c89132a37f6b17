"""The perplexity of documents under an exported model, by plain transformers.

    python examples/measure_exported_model.py model/ forget.jsonl --sequence-length 512

Nothing of ray-unlearn is used, so whoever gets a model can check its card: documents are JSONL
with a `text` field, or a text file each; the card says how long the pieces are that they are cut
into. The digest tells whether these are the documents that the card means.
"""

import argparse
import hashlib
import json
import math
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def read(paths: list[str], field: str) -> list[str]:
    """The texts of JSONL files, and of other files whole."""
    texts = []
    for path in map(Path, paths):
        content = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            texts += [json.loads(line)[field] for line in content.splitlines() if line.strip()]
        else:
            texts.append(content)
    return texts


def digest(texts: list[str]) -> str:
    """SHA-256 of the sorted SHA-256 of each text, as in the card."""
    each = sorted(hashlib.sha256(text.encode()).hexdigest() for text in texts)
    return hashlib.sha256("".join(f"{one}\n" for one in each).encode()).hexdigest()


@torch.no_grad()
def perplexity(model, tokenizer, texts: list[str], length: int, most: int | None) -> float:
    """exp of the mean negative log-likelihood of all predicted tokens, piece by piece."""
    total, count = 0.0, 0
    for whole in tokenizer(texts)["input_ids"]:
        ids = whole[: most * length] if most else whole
        for start in range(0, len(ids), length):
            piece = torch.tensor([ids[start : start + length]], device=model.device)
            if piece.shape[1] > 1:
                logprobs = model(piece).logits[0, :-1].float().log_softmax(-1)
                chosen = logprobs.gather(1, piece[0, 1:, None])
                total -= chosen.double().sum().item()
                count += len(chosen)
    return math.exp(total / count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder or hub id")
    parser.add_argument("documents", nargs="+", help="JSONL or text files")
    parser.add_argument("--text", default="text", help="field of JSONL that holds the text")
    parser.add_argument("--sequence-length", type=int, required=True, help="tokens of a piece")
    parser.add_argument("--max-sequences", type=int, help="pieces of a document that count")
    given = parser.parse_args()
    texts = read(given.documents, given.text)
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype="auto").eval()
    found = perplexity(model, tokenizer, texts, given.sequence_length, given.max_sequences)
    print(f"documents: {len(texts)}")
    print(f"sha256: {digest(texts)}")
    print(f"perplexity: {found:.6g}")


if __name__ == "__main__":
    main()
