"""Mistakes in the text of a study file, and in its overrides of the search space."""

from mistake import Mistake, key, override, renamed, written

YAML = [
    Mistake(
        "a tab",
        written(lambda t: t.replace("  source", "\tsource")),
        ("study.yaml", "line 3", "indent with spaces"),
    ),
    Mistake(
        "a key twice",
        written(lambda t: t + "name: other\n"),
        ("study.yaml", "line", "'name' is given twice", "keep one"),
    ),
    Mistake(
        "an open bracket",
        written(lambda t: t + "x: [1, 2\n"),
        ("study.yaml", "line", "not valid YAML"),
    ),
    Mistake(
        "a colon without a space",
        written(lambda t: t.replace("name: mine", "name:mine")),
        ("study.yaml", "line", "not valid YAML"),
    ),
    Mistake(
        "a bad indent",
        written(lambda t: t.replace("  domain", " domain")),
        ("study.yaml", "line", "not valid YAML"),
    ),
    Mistake(
        "UTF-16 by PowerShell",
        written(lambda t: t.encode("utf-16")),
        ("study.yaml", "UTF-16", "save it as UTF-8"),
    ),
    Mistake(
        "Windows-1252",
        written(lambda t: ("description: café\n" + t).encode("cp1252")),
        ("study.yaml", "line 1", "save it as UTF-8"),
    ),
    Mistake("an empty study file", written(lambda t: ""), ("study.yaml", "got nothing")),
    Mistake(
        "a list, not a mapping", written(lambda t: "- name: mine\n"), ("study.yaml", "mapping")
    ),
    Mistake(
        "a list as a key", written(lambda t: t + "[1, 2]: x\n"), ("study.yaml", "line", "quote it")
    ),
    Mistake(
        "an anchor and an alias",
        written(lambda t: t + "x: &a [1]\ny: *a\n"),
        ("study.yaml", "line", "write the value out"),
    ),
    Mistake(
        "a tag",
        written(lambda t: t + "x: !!python/name:os.system\n"),
        ("study.yaml", "line", "write the value out"),
    ),
    Mistake(
        "a date as a name",
        written(lambda t: t.replace("name: mine", "name: 2024-06-11")),
        ("study.yaml", "name", "quotes"),
    ),
    Mistake(
        "a number as a name",
        written(lambda t: t.replace("name: mine", "name: 1e5")),
        ("study.yaml", "name", "quotes"),
    ),
    Mistake(
        "JSON Lines in place of the study",
        written(lambda t: '{"text": "a"}\n{"text": "b"}\n'),
        ("study.yaml", "line 2"),
    ),
    Mistake(
        "a key of bytes beyond YAML",
        written(lambda t: t + "x: \x07\n"),
        ("study.yaml", "not valid YAML"),
    ),
]

OVERRIDES = [
    Mistake(
        "low above high",
        override("learning_rate", {"type": "float", "low": 1e-2, "high": 1e-4, "scale": "log"}),
        ("study.yaml", "space_overrides", "learning_rate", "low < high"),
    ),
    Mistake(
        "a wide range without a scale",
        override("learning_rate", {"type": "float", "low": 1e-5, "high": 1e-3}),
        ("study.yaml", "space_overrides", "learning_rate", "scale: log"),
    ),
    Mistake(
        "a log scale from 0",
        override("weight_decay", {"type": "float", "low": 0, "high": 0.1, "scale": "log"}),
        ("study.yaml", "space_overrides", "weight_decay", "low > 0"),
    ),
    Mistake(
        "a range without a type",
        override("learning_rate", {"low": 1e-4, "high": 1e-2, "scale": "log"}),
        ("study.yaml", "space_overrides", "learning_rate", "type"),
    ),
    Mistake(
        "a type that is none",
        override("learning_rate", {"type": "loguniform", "low": 1e-4, "high": 1e-2}),
        ("study.yaml", "space_overrides", "learning_rate", "'float'"),
    ),
    Mistake(
        "a list for a range",
        override("learning_rate", [1e-4, 1e-2]),
        ("study.yaml", "space_overrides", "learning_rate", "choices"),
    ),
    Mistake(
        "a range without an end",
        override("learning_rate", {"type": "float", "low": 1e-4}),
        ("study.yaml", "space_overrides", "learning_rate", "high", "required"),
    ),
    Mistake(
        "yes for a learning rate",
        override("learning_rate", True),
        ("study.yaml", "space_overrides", "learning_rate", "true and false"),
    ),
    Mistake(
        "text for a learning rate",
        override("learning_rate", "small"),
        ("study.yaml", "space_overrides", "learning_rate", "'small'"),
    ),
    Mistake(
        "a negative learning rate",
        override("learning_rate", -1e-4),
        ("study.yaml", "space_overrides", "learning_rate"),
    ),
    Mistake(
        "a hyperparameter misspelt",
        renamed("space_overrides.learning_rate", "learning_rte"),
        ("study.yaml", "space_overrides", "did you mean 'learning_rate'"),
    ),
    Mistake(
        "a scale misspelt",
        override("learning_rate", {"type": "float", "low": 1e-4, "high": 1e-2, "scale": "lg"}),
        ("study.yaml", "space_overrides", "learning_rate.", "scale", "'log'"),
    ),
    Mistake(
        "a key of a range misspelt",
        override("learning_rate", {"type": "float", "low": 1e-4, "hihg": 1e-2, "scale": "log"}),
        ("study.yaml", "space_overrides", "learning_rate", "hihg"),
    ),
    Mistake(
        "steps that lose their freedom",
        override("steps", {"type": "int", "low": 1, "high": 4}),
        ("study.yaml", "space_overrides", "steps", "free: true"),
    ),
    Mistake(
        "free steps of a decaying schedule",
        override("schedule", "cosine"),
        ("study.yaml", "space_overrides", "free: false"),
    ),
    Mistake("no steps", override("steps", 0), ("study.yaml", "space_overrides", "steps")),
    Mistake(
        "steps in fractions",
        override("steps", {"type": "float", "low": 1, "high": 4}),
        ("study.yaml", "space_overrides", "steps", "type: int"),
    ),
    Mistake(
        "a batch of nothing",
        override("batch_size", 0),
        ("study.yaml", "space_overrides", "batch_size"),
    ),
    Mistake(
        "a schedule misspelt",
        override("schedule", "cosin"),
        ("study.yaml", "space_overrides", "schedule", "'cosine'"),
    ),
    Mistake(
        "choices of nothing",
        override("learning_rate", {"type": "choice", "choices": []}),
        ("study.yaml", "space_overrides", "learning_rate", "choices"),
    ),
    Mistake(
        "choices that are text",
        override("learning_rate", {"type": "choice", "choices": ["low", "high"]}),
        ("study.yaml", "space_overrides", "learning_rate", "'low'"),
    ),
    Mistake(
        "the same choice twice",
        override("learning_rate", {"type": "choice", "choices": [1e-3, 1e-3]}),
        ("study.yaml", "space_overrides", "learning_rate", "differ"),
    ),
    Mistake(
        "a grid outside its range",
        override(
            "learning_rate",
            {"type": "float", "low": 1e-4, "high": 1e-2, "scale": "log", "grid": [1.0]},
        ),
        ("study.yaml", "space_overrides", "learning_rate", "grid"),
    ),
    Mistake(
        "free learning rates",
        override("learning_rate", {"type": "int", "low": 1, "high": 2, "free": True}),
        ("study.yaml", "space_overrides", "learning_rate", "only `steps`"),
    ),
    Mistake(
        "a condition on nothing",
        override(
            "weight_decay", {"type": "float", "low": 0, "high": 1, "when": {"optimizer": "sgd"}}
        ),
        ("study.yaml", "space_overrides", "weight_decay", "when"),
    ),
    Mistake(
        "what no method uses",
        override("beta", 0.1),
        ("study.yaml", "space_overrides.beta", "remove it"),
    ),
    Mistake(
        "infinite learning rates",
        override(
            "learning_rate", {"type": "float", "low": 1e-4, "high": float("inf"), "scale": "log"}
        ),
        ("study.yaml", "space_overrides", "learning_rate", "finite"),
    ),
    Mistake(
        "overrides as a list",
        key("space_overrides", [{"batch_size": 4}]),
        ("study.yaml", "space_overrides", "mapping"),
    ),
    Mistake(
        "null for a value",
        override("batch_size", None),
        ("study.yaml", "space_overrides", "batch_size"),
    ),
]

MISTAKES = [*YAML, *OVERRIDES]
