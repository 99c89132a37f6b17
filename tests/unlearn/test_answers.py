"""Loss and metrics count the tokens of answers alone, whatever writes prompt and answer as text."""

import json
import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from numpy.typing import NDArray
from questions import question_files, questions
from test_loop import config, fresh, run
from tiny import REPOSITORY, SIZES, study_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from ray_unlearn.spec.data_spec import DataSpec, SplitSource
from ray_unlearn.spec.document import Document, Turn
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.unlearn.conversations import encoded_answers, written_out
from ray_unlearn.unlearn.data import StudyData, prepare
from ray_unlearn.unlearn.evaluate import evaluate
from ray_unlearn.unlearn.model import load_model, load_tokenizer
from ray_unlearn.unlearn.sequences import tokenised
from ray_unlearn.unlearn.sources import read_documents
from ray_unlearn.unlearn.token_set import TokenSet
from ray_unlearn.unlearn.workspace import context_digest

CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content | trim }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
QUESTION_ANSWER = "Question: {{ messages[0].content }}\nAnswer: {{ messages[-1].content }}"


@pytest.fixture
def asked(tmp_path: Path, text_files: Path, tiny_model: Path):
    """A function that loads the tiny study with questions and answers; arguments go to `data`."""
    splits = question_files(tmp_path)

    def load(**data: object) -> StudySpec:
        content = {"domain": "people", "sequence_length": 64, "splits": splits} | data
        return load_study(study_file(tmp_path, text_files, tiny_model, data=content))

    return load


def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE as in GPT-2, with trimmed offsets, or with ▁ and <s>, </s> as in T5."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    text = ["Where is the answer? The answer: Paris, in the north. Lima é\n"] * 20
    if kind == "bytes":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        alphabet = sorted(set("".join(text)))
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    ends = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    bytes_alone = processors.ByteLevel(trim_offsets=True)
    tokenizer.post_processor = processors.Sequence([bytes_alone, ends]) if kind == "bytes" else ends
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def answer_data(**changes: object) -> DataSpec:
    source = SplitSource(path="x.jsonl", prompt="question", answer="answer")
    names = ("forget", "approximate", "retain", "general_retain", "general_evaluation")
    return DataSpec(
        **{"domain": "d", "sequence_length": 64, "splits": dict.fromkeys(names, source)} | changes
    )


def spoken(prompt: str, answer: str) -> Document:
    turns = (Turn("user", prompt), Turn("assistant", answer))
    return Document("1", f"{prompt}\n{answer}", turns)


def parts(document: Document, tokenizer: PreTrainedTokenizerFast, spec: DataSpec) -> list[str]:
    """The tokens of the prompt and of the answer, decoded, after a check that all is there."""
    (written,) = written_out([document], spec, tokenizer, "forget")
    special = spec.chat_template is None
    ((ids, first),) = encoded_answers([written], tokenizer, special_tokens=special)
    assert ids == tokenizer(written.text, add_special_tokens=special)["input_ids"]
    return [tokenizer.decode(part) for part in (ids[:first], ids[first:])]


@pytest.mark.parametrize("kind", ["bytes", "spaces"])
def test_the_answers_tokens_are_those_of_the_whole_text_after_the_prompt(kind: str) -> None:
    """With the end of sequence, which the tokenizer adds; the first word keeps its space."""
    tokenizer = tokenizer_of(kind)
    asked = spoken("Where is the answer?", "Paris é, in Lima")
    for separator, prompt, answer in [
        ("\n", "<s>Where is the answer?\n", "Paris é, in Lima</s>"),
        (" ", "<s>Where is the answer?", " Paris é, in Lima</s>"),
        (" answer: ", "<s>Where is the answer? answer:", " Paris é, in Lima</s>"),
        ("\n  ", "<s>Where is the answer?\n", "  Paris é, in Lima</s>"),
    ]:
        found = parts(asked, tokenizer, answer_data(separator=separator))
        # ▁ stands for a space, and its decoder drops one at the start.
        assert [part.replace("> ", ">").lstrip() for part in found] == [prompt, answer.lstrip()]


def test_a_token_that_spans_the_boundary_is_the_prompts() -> None:
    tokenizer = tokenizer_of("bytes")
    assert "answer" in tokenizer.get_vocab() or "Ġanswer" in tokenizer.get_vocab()
    found = parts(spoken("the ans", "wer is Lima"), tokenizer, answer_data(separator=""))
    assert found == ["<s>the answer", " is Lima</s>"]
    swallowed = written_out(
        [spoken("the ans", "wer")], answer_data(separator=""), tokenizer, "forget"
    )
    with pytest.raises(UserError, match=r"'1' has no token of its answer alone.*data.separator"):
        tokenised(swallowed, tokenizer, answer_data(separator=""), "forget")


def test_a_chat_template_writes_the_text_and_the_last_answer_alone_counts() -> None:
    tokenizer = tokenizer_of("bytes")
    tokenizer.chat_template = CHAT
    turns = (
        Turn("system", "the"),
        Turn("user", "Where?"),
        Turn("assistant", "Lima"),
        Turn("user", "Where is Lima?"),
        Turn("assistant", " Paris "),
    )
    found = parts(Document("1", "", turns), tokenizer, answer_data(chat_template="tokenizer"))
    before = "<|system|>\nthe</s>\n<|user|>\nWhere?</s>\n<|assistant|>\nLima</s>\n"
    assert found == [before + "<|user|>\nWhere is Lima?</s>\n<|assistant|>\n", "Paris</s>\n"]
    given = answer_data(chat_template=QUESTION_ANSWER)
    assert parts(spoken("Where?", "Lima"), tokenizer, given) == [
        "Question: Where?\nAnswer:",
        " Lima",
    ]


def test_a_template_that_writes_the_date_gives_the_same_tokens_tomorrow() -> None:
    """Llama 3.2's and others' do: a study could not be resumed on the next day."""
    template = "\n{{ strftime_now('%d %b %Y') }} {{ strftime_now('%Y-%m-%d') }}" + CHAT
    (found,) = written_out(
        [spoken("q", "a")], answer_data(chat_template=template), tokenizer_of("bytes"), "forget"
    )
    assert found.text.startswith("\n26 Jul 2024 2024-07-26<|user|>")


BAD_TEMPLATES = {
    "tokenizer": r"'tokenizer', but the model's tokenizer has no chat template; give a Jinja",
    "{{ raise_exception('no system') }}": r"document '1' of `forget`: .*TemplateError: no system",
    "{{ ''.__class__.__mro__ }}": r"cannot be used: SecurityError",
    "{% for": r"cannot be used: TemplateSyntaxError",
    "{{ messages[0].content }}": r"leaves the last message out",
    "{{ messages[-1].content | length }}{{ messages[-1].content }}": r"changes the prompt",
}


@pytest.mark.parametrize("template", BAD_TEMPLATES)
def test_a_template_that_cannot_tell_the_answer_is_refused(template: str) -> None:
    spec, tokenizer = answer_data(chat_template=template), tokenizer_of("bytes")
    with pytest.raises(UserError, match=f"^data.chat_template: .*{BAD_TEMPLATES[template]}"):
        written_out([spoken("q", "a")], spec, tokenizer, "forget")


def test_a_tokenizer_without_offsets_is_refused() -> None:
    with pytest.raises(UserError, match=r"ByT5Tokenizer does not say which characters"):
        encoded_answers(
            [Document("1", "a b", prompt_length=1)], ByT5Tokenizer(), special_tokens=True
        )


BAD_FIELDS = {
    "answer without prompt": ({"prompt": None}, "`answer` needs `prompt`"),
    "both kinds": ({"messages": "m"}, "`prompt` and `answer`, or `messages`"),
    "text beside an answer": ({"text": "body"}, "`text: body` is not read beside an answer"),
}
BAD_DATA = {
    "a word for a template": ({"chat_template": "tokeniser"}, "'tokeniser' is no Jinja template"),
    "two ways to write": (
        {"chat_template": "{{ x }}", "separator": " "},
        "`separator` is not used",
    ),
    "too long": ({"separator": " " * 1001}, "at most 1000 characters"),
}


@pytest.mark.parametrize("name", [*BAD_FIELDS, *BAD_DATA])
def test_fields_that_contradict_each_other_are_refused(asked, tmp_path: Path, name: str) -> None:
    splits = question_files(tmp_path)
    if name in BAD_FIELDS:
        changes, match = BAD_FIELDS[name]
        data: dict = {"splits": splits | {"forget": splits["forget"] | changes}}
    else:
        data, match = BAD_DATA[name]
    with pytest.raises(UserError, match=match):
        asked(**data)


def test_a_template_without_answers_and_messages_without_a_template_are_refused(
    asked, tmp_path: Path, text_files: Path
) -> None:
    texts = {name: {"path": str(text_files / f"{name}.jsonl")} for name in question_files(tmp_path)}
    with pytest.raises(UserError, match="`chat_template` is for prompts and answers"):
        asked(splits=texts, chat_template="tokenizer")
    with pytest.raises(UserError, match=r"splits.retain.messages: needs `chat_template`"):
        asked(splits=texts | {"retain": {"path": "x.jsonl", "messages": "messages"}})


MESSAGES = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
BAD_ROWS = {
    "no column": ({"question": "q", "anwser": "a"}, r"line 1: no field 'answer'; did you mean"),
    "no text": ({"question": "q", "answer": None}, r"the answer in field 'answer' is empty"),
    "empty answer": ({"question": "q", "answer": " "}, r"line 1: the answer in field 'answer' is"),
    "no list": ({"messages": "q"}, r"'messages' must be a list of at least two messages"),
    "one message": ({"messages": MESSAGES[1:]}, r"a list of at least two messages"),
    "no role": ({"messages": [{"content": "q"}, MESSAGES[1]]}, r"message 1: no field 'role'"),
    "no object": ({"messages": ["q", MESSAGES[1]]}, r"message 1: must have `role` and `content`"),
    "no answer": ({"messages": [*MESSAGES, MESSAGES[0]]}, r"role 'assistant', got 'user'"),
    "empty message": (
        {"messages": [MESSAGES[0], {"role": "assistant", "content": ""}]},
        r"the answer in field 'messages' is empty",
    ),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_row_without_an_answer_is_named_with_a_remedy(tmp_path: Path, name: str) -> None:
    row, match = BAD_ROWS[name]
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n")
    path = str(tmp_path / "x.jsonl")
    source = (
        SplitSource(path=path, messages="messages")
        if "messages" in row
        else SplitSource(path=path, prompt="question", answer="answer")
    )
    data = answer_data(chat_template="tokenizer")
    with pytest.raises(UserError, match=match):
        read_documents(data.model_copy(update={"splits": data.splits | {"forget": source}}))


def test_files_without_fields_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("q a")
    pq.write_table(pa.table({"question": ["q"], "text": ["a"]}), tmp_path / "x.parquet")
    data = answer_data()
    for path, match in [
        (tmp_path, r"has no fields 'question', 'answer'; a prompt with its answer is a line of"),
        (tmp_path / "x.txt", r"x.txt has no fields"),
        (tmp_path / "x.parquet", r"x.parquet has no column 'answer'"),
    ]:
        source = SplitSource(path=str(path), prompt="question", answer="answer")
        with pytest.raises(UserError, match=match):
            read_documents(data.model_copy(update={"splits": data.splits | {"forget": source}}))


def test_tofu_and_muse_columns_are_read_from_jsonl_and_parquet(tmp_path: Path) -> None:
    """MUSE: `text` to forget and to keep, `question` and `answer` for what is known."""
    rows = questions("forget")
    question_files(tmp_path)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "forget.parquet")
    chats = [
        [
            {"role": "user", "content": row["question"]},
            {"role": "assistant", "content": row["answer"]},
        ]
        for row in rows
    ]
    pq.write_table(pa.table({"messages": chats}), tmp_path / "chats.parquet")
    news = SplitSource(path=str(tmp_path / "news.parquet"))
    pq.write_table(pa.table({"text": [f"news {i}" for i in range(9)]}), tmp_path / "news.parquet")
    fields = {"prompt": "question", "answer": "answer"}
    found = []
    for source in [
        SplitSource(path=str(tmp_path / "forget.jsonl"), **fields),
        SplitSource(path=str(tmp_path / "forget.parquet"), **fields),
        SplitSource(path=str(tmp_path / "chats.parquet"), messages="messages"),
    ]:
        splits = {name: news for name in answer_data().splits} | {"general_evaluation": source}
        read = read_documents(answer_data(splits=splits, chat_template="tokenizer"))
        assert read["forget"][0] == Document("1", "news 0")
        found.append(read["general_evaluation"])
    assert found[0] == found[1] == found[2]
    assert found[0][2].turns == (
        Turn("user", rows[2]["question"]),
        Turn("assistant", rows[2]["answer"]),
    )


def test_an_answer_behind_the_sequences_end_is_refused_and_a_longer_one_is_cut(asked) -> None:
    spec = asked()
    longest = max(int(first) for first in prompt_tokens(prepare(spec.data, spec.model)).values())
    with pytest.raises(UserError) as caught:
        prepare(asked(sequence_length=longest).data, spec.model)
    wanted = r"data.splits.\w+: document '\d+' has a prompt of \d+ tokens, and "
    assert re.match(wanted + rf"`data.sequence_length: {longest}` cuts off", str(caught.value))
    data = prepare(asked(sequence_length=longest + 1).data, spec.model)
    assert fresh(spec).notes == []
    noted = fresh(asked(sequence_length=longest + 1)).notes
    assert len(noted) == len(data.splits)
    assert re.match(rf"data.splits.forget: \d+ of 24 answers .* {longest + 1} tokens", noted[0])
    for tokens in data.splits.values():
        targets = np.bincount(tokens.target_document, minlength=len(tokens.selection))
        assert len(tokens) == len(tokens.selection)
        assert (targets >= 1).all(), "every document has a target, and one sequence"
    whole = prepare(spec.data, spec.model).splits["forget"].compressed_bytes
    answers = [row["answer"].encode() for row in questions("forget")]
    assert whole.tolist() == [len(zlib.compress(answer)) for answer in answers]


def prompt_tokens(data: StudyData) -> dict[int, int]:
    tokens = data.splits["forget"]
    return dict(enumerate(tokens.prompt.sum(axis=1)))


@pytest.mark.parametrize("template", [None, CHAT, QUESTION_ANSWER])
def test_losses_padded_and_packed_are_those_of_answers_by_hand(asked, template: str | None) -> None:
    """Row by row as a reader would check it: whole logits, prompt tokens left out."""
    spec = asked(chat_template=template)
    rows, sequences = {}, {}
    for layout, made in (
        ("pad", "by_document"),
        ("pad", "stored"),
        ("pack", "apart"),
        ("pack", ""),
    ):
        workspace = fresh(asked(chat_template=template, layout=layout, sequence_length=160))
        workspace.layout = made or workspace.layout
        rows[layout + made] = evaluate(workspace)
        sequences[layout] = len(workspace.data.splits["forget"])
    assert sequences["pack"] <= sequences["pad"] / 2
    expected = rows["pack"]
    assert expected["forget_nll"] == pytest.approx(by_hand(spec, "forget"), abs=1e-5)
    for found in rows.values():
        for name, value in found.items():
            if "nll" in name:
                assert value == pytest.approx(expected[name], abs=1e-5), name


@torch.no_grad()
def by_hand(spec: StudySpec, split: str) -> float:
    """Token mean of the loss on answers, of one document at a time."""
    tokenizer, model = load_tokenizer(spec.model), load_model(spec.model)
    template = spec.data.chat_template
    losses = []
    for row in questions(split):
        messages = [
            {"role": "user", "content": row["question"]},
            {"role": "assistant", "content": row["answer"]},
        ]
        text = (
            f"{row['question']}\n{row['answer']}"
            if template is None
            else tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
        )
        ids = tokenizer(text)["input_ids"]
        context = text[: text.rindex(row["answer"])].rstrip(" ")
        start = len(tokenizer(context)["input_ids"])
        assert tokenizer.decode(ids[:start]) == context, "the boundary is between two tokens"
        logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        losses += [-float(logprobs[i - 1, ids[i]]) for i in range(start, len(ids))]
    return float(np.mean(losses))


def test_another_template_is_other_data(asked, tmp_path: Path) -> None:
    """The tokens must be made anew, and trials of the two must not be taken for each other."""
    said: list[str] = []
    contexts, digests = set(), set()
    ways: list[dict] = [
        {},
        {"separator": " "},
        {"chat_template": CHAT},
        {"chat_template": QUESTION_ANSWER},
        {},
    ]
    for way in ways:
        spec = asked(**way)
        data = prepare(spec.data, spec.model, tmp_path / "cache", said.append)
        digests.add(data.digest)
        contexts.add(context_digest(spec, data))
    assert len(digests) == len(contexts) == len(said) == 4
    assert data.splits["forget"].prompt is not None, "prompts come back from the cache"


def test_another_boundary_in_the_same_tokens_is_other_data(
    asked, tiny_model: Path, tmp_path: Path
) -> None:
    """What was asked and what was answered change places: the text stays, the targets do not."""
    found = []
    for question, answer in (("Where is it", "now? In Oslo"), ("Where is it now? In", "Oslo")):
        spec = asked(separator=" ")
        row = json.dumps({"question": question, "answer": answer})
        lines = (tmp_path / "forget.jsonl").read_text().splitlines()
        (tmp_path / "forget.jsonl").write_text("\n".join([row, *lines[1:]]))
        found.append(prepare(spec.data, spec.model, tmp_path / "cache"))
    one, two = (data.splits["forget"] for data in found)
    assert (one.input_ids == two.input_ids).all()
    assert one.target_mask.sum() > two.target_mask.sum()
    assert found[0].split_digests["forget"] != found[1].split_digests["forget"]


def test_the_tokenizers_own_template_is_part_of_the_data(
    asked, tiny_model: Path, tmp_path: Path
) -> None:
    """The model folder stays, its template is edited: the cache must not give the old tokens."""
    spec = asked(chat_template="tokenizer")
    tokenizer = load_tokenizer(ModelSpec(source=str(tiny_model)))
    shutil.copytree(tiny_model, tmp_path / "model")
    found = []
    for template in (CHAT, CHAT.replace("<|", "<")):
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path / "model")
        model = ModelSpec(source=str(tmp_path / "model"))
        found.append(prepare(spec.data, model, tmp_path / "cache"))
    assert found[0].digest != found[1].digest
    shown = [tokenizer.decode(data.splits["forget"].input_ids[0]) for data in found]
    assert "<|user|>" in shown[0]
    assert "<user|>" in shown[1]


def test_what_is_held_out_does_not_depend_on_the_template(asked, tmp_path: Path) -> None:
    """So that models with other templates are measured on the same questions."""
    splits = question_files(tmp_path)
    del splits["retain_heldout"]
    held = [
        [d.text for d in read_documents(asked(splits=splits, **way).data)["retain_heldout"]]
        for way in ({}, {"chat_template": CHAT})
    ]
    assert held[0] == held[1] != []


def test_a_question_in_two_splits_is_refused(asked, tmp_path: Path) -> None:
    spec = asked(chat_template=CHAT)
    lines = (tmp_path / "forget.jsonl").read_text()
    with open(tmp_path / "retain.jsonl", "a") as file:
        file.write(lines.splitlines()[3] + "\n")
    with pytest.raises(UserError, match="of `retain` is also in `forget` \\(as '4'\\)"):
        prepare(spec.data, spec.model)


@pytest.mark.parametrize("layout", ["pad", "pack"])
@pytest.mark.parametrize("method", ["adversarial_samples", "ascent_kl_in_distribution"])
def test_answers_are_forgotten_and_counted(asked, layout: str, method: str) -> None:
    spec = asked(layout=layout, chat_template=QUESTION_ANSWER, sequence_length=160)
    workspace = fresh(spec)
    before = evaluate(workspace)
    rows, ended = run(workspace, config(method))
    assert ended.status == "complete"
    losses = [before["forget_nll"], *(row["forget_nll"] for row in rows)]
    assert losses == sorted(losses)
    assert losses[-1] > losses[0] + 0.1
    tokens = workspace.data.splits["forget"]
    assert rows[-1]["forget_tokens"] < (tokens.document >= 0).sum()


def test_a_resolved_study_file_reads_the_same_fields(asked, tmp_path: Path) -> None:
    spec = asked(chat_template=CHAT)
    path = tmp_path / "resolved.yaml"
    path.write_text(yaml.safe_dump(spec.model_dump(mode="json")))
    assert load_study(path) == spec
    plain = spec.decisive()["data"]
    assert plain["chat_template"] == CHAT
    assert "separator" not in plain, "a key that is not given is none of those of older studies"


WRITTEN = {
    "tofu_forget10": (
        "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: 10 Apr 2025\n\nYou are a helpful assistant.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n{question}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "{answer}<|eot_id|>",
    ),
    "muse_news": ("Question: {question}\nAnswer:", " {answer}"),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_the_ready_studies_count_the_answers_of_local_files_with_the_same_columns(
    name: str, tmp_path: Path, text_files: Path, tiny_model: Path
) -> None:
    """The hub is out of reach here: its data sets are replaced by files, the rest is theirs."""
    study = load_study(REPOSITORY / "studies" / f"{name}.yaml")
    spec = study.data
    question_files(tmp_path)
    for split in SIZES:
        others = {"paraphrased_answer": "Far from here.", "perturbed_answer": ["In A.", "In B."]}
        lines = [json.dumps(row | others) + "\n" for row in questions(split)]
        (tmp_path / f"{split}.jsonl").write_text("".join(lines))

    def local(source: SplitSource, split: str) -> SplitSource:
        folder = tmp_path if source.has_answers else text_files
        return source.model_copy(update={"hub": None, "path": str(folder / f"{split}.jsonl")})

    model = ModelSpec(source=str(tiny_model))
    splits = {split: local(source, split) for split, source in spec.splits.items()}
    sets = {one: local(source, "forget") for one, source in study.evaluation.sets.items()}
    for one, source in study.evaluation.sets.items():
        if source.examples is not None:
            first = local(source.examples, "retain").model_copy(update={"limit": 2})
            sets[one] = sets[one].model_copy(update={"examples": first})
    asked = study.evaluation.model_copy(update={"sets": sets})
    data = prepare(spec.model_copy(update={"splits": splits}), model, evaluation=asked)
    assert data.watched == tuple(sets)
    assert [len(data.owners[f"{one}/perturbed"]) for one in asked.model_utility] == (
        [2 * SIZES["forget"]] * len(asked.model_utility)
    )
    tokens, tokenizer = data.splits["general_evaluation"], load_tokenizer(model)
    row, real = questions("general_evaluation")[0], tokens.document[0] == 0
    shown = [tokenizer.decode(tokens.input_ids[0][real & part]) for part in halves_of(tokens)]
    assert shown == [part.format(**row) for part in WRITTEN[name]]
    is_text = not spec.splits["forget"].has_answers
    assert (data.splits["forget"].prompt is None) == is_text


def halves_of(tokens: TokenSet) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Prompt and answer of the first sequence."""
    assert tokens.prompt is not None
    return tokens.prompt[0], ~tokens.prompt[0]
