"""Owns the tokenizer: a byte-level BPE with GPT-2's way of cutting text into words, trained on our text.

llama.cpp knows this cut as `tokenizer.ggml.pre = "gpt-2"`. All 256 bytes are in the vocabulary, so any
text can be encoded.
"""

import sys
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

import corpus

SPECIAL = [corpus.STOP, corpus.START, corpus.END]
VOCABULARY = 6144


def sentences(intents):
    for intent in intents:
        # Answers are repeated so that their words become single tokens before rare ones of the questions do.
        for answer in intent.answers if not intent.outside else intent.answers[:1]:
            for text in (answer, answer, answer):
                yield text
        for question in intent.questions:
            yield question
            yield corpus.present(question)
    for group in corpus.ALIKE:
        yield " ".join(group)
    for text in corpus.SYSTEM + corpus.BEFORE + corpus.AFTER:
        yield text
    yield "system\nuser\nassistant\n"


def train(path: Path) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        sentences(corpus.load()),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[AddedToken(name, special=True) for name in SPECIAL],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return tokenizer


if __name__ == "__main__":
    print(train(Path(sys.argv[1])).get_vocab_size(), "tokens")
