"""The demo tokenizer: byte-level BPE, so any text can be encoded.

It has an end-of-text and a separate padding token.
"""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END, PAD = "<|endoftext|>", "<|pad|>"  # ids 0 and 1; END is also the beginning-of-text token
END_ID, PAD_ID = 0, 1


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Train a tokenizer of `vocabulary` tokens, special ones included.

    Train it on the text that *both* models are trained on: then it treats forget and approximate
    documents alike and reveals no membership. It adds no special token to a text.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
