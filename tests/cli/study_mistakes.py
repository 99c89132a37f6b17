"""Mistakes in the keys of a study file: values, and settings that exclude each other."""

from mistake import Mistake, both, key, keys, renamed, without

MISTAKES = [
    Mistake(
        "a section misspelt",
        renamed("search", "serch"),
        ("study.yaml", "serch", "did you mean 'search'"),
    ),
    Mistake(
        "a key misspelt in a section",
        renamed("model.source", "sorce"),
        ("study.yaml", "model.sorce", "did you mean 'source'"),
    ),
    Mistake("no model", without("model"), ("study.yaml", "model", "required")),
    Mistake("no data", without("data"), ("study.yaml", "data", "required")),
    Mistake(
        "no number of trials",
        without("search.trials_per_method"),
        ("study.yaml", "trials_per_method", "required unless"),
    ),
    Mistake("no split to unlearn", without("data.splits.forget"), ("study.yaml", "lacks forget")),
    Mistake(
        "a split misspelt",
        renamed("data.splits.forget", "forgett"),
        ("study.yaml", "data.splits.forgett", "did you mean 'forget'"),
    ),
    Mistake("a name with a slash", key("name", "my/study"), ("study.yaml", "name", "letters")),
    Mistake("a name with a space", key("name", "my study"), ("study.yaml", "name", "letters")),
    Mistake("a section as a list", key("search", ["random"]), ("study.yaml", "search", "mapping")),
    Mistake("a model as text", key("model", "model"), ("study.yaml", "model", "mapping")),
    Mistake(
        "methods as text", key("methods", "gradient_ascent"), ("study.yaml", "methods", "list")
    ),
    Mistake("no methods", key("methods", []), ("study.yaml", "methods", "list")),
    Mistake(
        "a method misspelt",
        key("methods", ["gradient_asent"]),
        ("study.yaml", "methods", "did you mean 'gradient_ascent'"),
    ),
    Mistake(
        "a method twice",
        key("methods", ["gradient_ascent"] * 2),
        ("study.yaml", "methods", "keep one"),
    ),
    Mistake(
        "a method that needs answers",
        key("methods", ["dpo"]),
        ("study.yaml", "methods: dpo", "prompt", "data.splits.forget"),
    ),
    Mistake(
        "a folder of spaces that is not there",
        key("spaces", "spaces"),
        ("study.yaml", "spaces", "no such folder"),
    ),
    Mistake(
        "two trials for text",
        key("search.trials_per_method", "two"),
        ("study.yaml", "trials_per_method", "'two'"),
    ),
    Mistake(
        "no trials",
        key("search.trials_per_method", 0),
        ("study.yaml", "trials_per_method", "greater than or equal to 1"),
    ),
    Mistake(
        "half a trial",
        key("search.trials_per_method", 2.5),
        ("study.yaml", "trials_per_method", "2.5"),
    ),
    Mistake(
        "more trials than fit",
        key("search.trials_per_method", 10**12),
        ("study.yaml", "trials_per_method", "less than or equal"),
    ),
    Mistake(
        "a sampler that is none",
        key("search.sampler", "bayes"),
        ("study.yaml", "search.sampler", "'tpe'"),
    ),
    Mistake(
        "a negative seed",
        key("search.trial_seeds", [-1]),
        ("study.yaml", "search.trial_seeds", "-1"),
    ),
    Mistake("a seed beyond 64 bits", key("search.seed", 2**63), ("study.yaml", "search.seed")),
    Mistake(
        "one seed that is not in a list",
        key("search.trial_seeds", 3),
        ("study.yaml", "search.trial_seeds", "3"),
    ),
    Mistake(
        "a scheduler that is none",
        key("search.scheduler", {"type": "hyperband"}),
        ("study.yaml", "search.scheduler.type", "'asha'"),
    ),
    Mistake(
        "a grace beyond the last step",
        key("search.scheduler", {"type": "asha", "grace_updates": 10}),
        ("study.yaml", "search.scheduler.grace_updates", "below"),
    ),
    Mistake(
        "a share above 1",
        key("search.quasi_random_share", 25),
        ("study.yaml", "search.quasi_random_share", "1"),
    ),
    Mistake(
        "a grid without values",
        both(key("search.sampler", "grid"), without("search.trials_per_method")),
        ("study.yaml", "learning_rate", "grid"),
    ),
    Mistake(
        "a grid with a number of trials",
        key("search.sampler", "grid"),
        ("study.yaml", "remove `trials_per_method`"),
    ),
    Mistake(
        "points for another method",
        key("search.warm_start", {"npo": [{"learning_rate": 1e-3}]}),
        ("study.yaml", "search.warm_start", "remove it"),
    ),
    Mistake(
        "a point outside the space",
        key("search.warm_start", {"gradient_ascent": [{"learning_rate": 1.0}]}),
        ("study.yaml", "search.warm_start", "learning_rate"),
    ),
    Mistake(
        "a metric misspelt",
        key("objective", {"minimise": "forget_gapp"}),
        ("objective.minimise", "did you mean 'forget_gap'"),
    ),
    Mistake(
        "a metric with its half",
        key("objective", {"minimise": "forget_gap_selection"}),
        ("study.yaml", "objective.minimise", "leave out"),
    ),
    Mistake(
        "two aims",
        key("objective", {"minimise": "forget_gap", "maximise": "retain_ppl"}),
        ("study.yaml", "objective", "give one of"),
    ),
    Mistake(
        "a constraint on no metric",
        key("objective", {"subject_to": {"retain_pl": 2}}),
        ("objective.subject_to", "did you mean 'retain_ppl'"),
    ),
    Mistake(
        "limits the wrong way round",
        key("objective", {"subject_to": {"retain_ppl": {"at_least": 3, "at_most": 2}}}),
        ("study.yaml", "objective.subject_to", "must not be above"),
    ),
    Mistake(
        "a negative weight", key("objective", {"retain": -1}), ("study.yaml", "objective.retain")
    ),
    Mistake(
        "evaluated at nothing",
        key("evaluation", {"batch_size": 8}),
        ("study.yaml", "evaluation", "every"),
    ),
    Mistake(
        "evaluated at update 0",
        key("evaluation.at", [0, 1]),
        ("study.yaml", "line 46", "evaluation.at", "from 1 on"),
    ),
    Mistake(
        "evaluated beyond all steps",
        key("evaluation.at", [100, 200]),
        ("evaluation.at", "100", "lower it"),
    ),
    Mistake(
        "a set that is no set",
        key("evaluation.sets", {"forget": {"path": "data/retain.jsonl"}}),
        ("study.yaml", "line 52", "sets.forget", "use another"),
    ),
    Mistake(
        "an lm-eval task misspelt",
        key("evaluation.tasks", ["arc_eazy"]),
        ("evaluation.tasks", "arc_eazy"),
    ),
    Mistake(
        "a batch of 0",
        key("evaluation.batch_size", 0),
        ("study.yaml", "evaluation.batch_size", "1"),
    ),
    Mistake(
        "a strength that is none",
        key("evaluation.strength", "strong"),
        ("study.yaml", "evaluation.strength", "'target'"),
    ),
    Mistake(
        "a dtype that is not offered",
        key("model.dtype", "float16"),
        ("study.yaml", "model.dtype", "'bfloat16'"),
    ),
    Mistake(
        "autocast on bfloat16",
        keys(model__dtype="bfloat16", model__autocast="bfloat16"),
        ("study.yaml", "autocast", "remove one"),
    ),
    Mistake(
        "LoRA of rank 0", key("model.lora", {"rank": 0}), ("study.yaml", "model.lora.rank", "1")
    ),
    Mistake(
        "an attention that is none",
        key("model.attention", "flash"),
        ("study.yaml", "model.attention", "'sdpa'"),
    ),
    Mistake(
        "sequences of one token",
        key("data.sequence_length", 1),
        ("study.yaml", "data.sequence_length"),
    ),
    Mistake(
        "sequences of zero tokens",
        key("data.sequence_length", 0),
        ("study.yaml", "data.sequence_length"),
    ),
    Mistake(
        "a layout that is none",
        key("data.layout", "packed"),
        ("study.yaml", "data.layout", "'pack'"),
    ),
    Mistake(
        "a demo and own splits", key("data.source", "demo:python"), ("study.yaml", "exactly one of")
    ),
    Mistake(
        "a split from two places",
        key("data.splits.forget.hub", "a/b"),
        ("study.yaml", "data.splits.forget", "exactly one"),
    ),
    Mistake(
        "a split of nothing", key("data.splits.forget", {}), ("study.yaml", "data.splits.forget")
    ),
    Mistake(
        "a split as text",
        key("data.splits.forget", "data/forget.jsonl"),
        ("study.yaml", "data.splits.forget", "mapping"),
    ),
    Mistake(
        "a prompt without an answer",
        key("data.splits.forget.prompt", "q"),
        ("study.yaml", "data.splits.forget", "answer"),
    ),
    Mistake(
        "messages without a template",
        key("data.splits.forget.messages", "m"),
        ("study.yaml", "chat_template"),
    ),
    Mistake(
        "a template that is none",
        key("data.chat_template", "llama3"),
        ("study.yaml", "chat_template", "tokenizer"),
    ),
    Mistake("no lanes", key("operations.lanes", 0), ("study.yaml", "operations.lanes")),
    Mistake(
        "all lanes", key("operations.lanes", "all"), ("study.yaml", "operations.lanes", "auto")
    ),
    Mistake(
        "GPUs that are not there",
        key("operations.gpus_per_worker", 1),
        ("operations.gpus_per_worker: 0",),
    ),
    Mistake(
        "liger without GPUs",
        key("operations.head", "liger"),
        ("study.yaml", "operations.head", "use `fused`"),
    ),
    Mistake(
        "shards of adapters",
        keys(operations__parallel="shard", model__lora={"rank": 4}),
        ("study.yaml", "operations.parallel", "use `replicate`"),
    ),
    Mistake(
        "a privileged port",
        key("operations.metrics_port", 80),
        ("study.yaml", "operations.metrics_port", "1024"),
    ),
    Mistake(
        "autoscaling without a limit",
        keys(operations__lanes="auto", operations__autoscaling=True),
        ("study.yaml", "operations", "max_lanes"),
    ),
    Mistake("truth for text", key("description", True), ("study.yaml", "description", "quotes")),
]
