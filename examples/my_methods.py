"""A method of your own: one function. See docs/methods.md, "A method of your own"."""

import ray_unlearn as ru

SHARPNESS = ru.Hyperparameter("sharpness", 0.5, "how early a token is let go", above=0)


@ru.method(
    needs="logprobs",
    retain="descent",
    hyperparameters=[SHARPNESS],
    space={"sharpness": {"type": "float", "low": 0.05, "high": 2.0, "scale": "log"}},
)
def bounded_ascent(given, chosen):
    """w_f mean tanh(a log P) / a on U, a the sharpness, + w_r NLL(R)."""
    a = chosen.sharpness
    return (a * given.values).tanh().sum() / a / given.targets
