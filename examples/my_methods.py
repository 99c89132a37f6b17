"""A method of your own: one function. See docs/methods.md, "A method of your own"."""

import ray_unlearn as ru


@ru.method(
    needs="logprobs",
    retain="descent",
    hyperparameters=["beta"],
    space={"beta": {"type": "float", "low": 0.05, "high": 2.0, "scale": "log"}},
)
def bounded_ascent(given, chosen):
    """w_f mean tanh(beta log P) / beta on U + w_r NLL(R): what is forgotten is left alone."""
    return (chosen.beta * given.values).tanh().sum() / chosen.beta / given.targets
