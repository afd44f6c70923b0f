"""Owns the evaluation of the finished demo.gguf, run by the real llama.cpp through evaluate.mjs.

usage: python evaluate.py OUT_DIR demo.gguf [--quick] [--node NODE] [--modules DIR]

An answer counts as right only if it is, word for word, one of the answers that the text gives for the
intent of the question; for a question from outside, one of the refusals.

Three sets are held out, each with its mark in `text/*.md`: near wordings (`?`), independent ones (`??`), free ones (`???`).
"""

import argparse
import json
import random
import subprocess
from pathlib import Path

from jinja2.sandbox import SandboxedEnvironment
from tokenizers import Tokenizer

import corpus
from export import CHAT_TEMPLATE

HERE = Path(__file__).parent
SEEDS = [1, 2, 3]
NASTY = [
    "", " ", "  ", "\n", "\n\n\n", " \n \n", "\t\ttabs", "a  b   c    d", "trailing   ", "   leading", "\r\nwindows\r\n",
    "I'm you're he's she'll we've they'd don't CAN'T I'M WE'LL", "'s 't 're ''s", "1 12 123 1234 12345678901234567890 3.14 1,000",
    "蜜蜂喜欢花蜜。ミツバチは花が好きです。꿀벌", "🐝🍯👩‍👩‍👧‍👦🇪🇺 🐝🐝", "Ünïcödé naïve façade Žluťoučký kůň", "привет, пчёлы", "שלום دبور नमस्ते",
    "a\u00a0b\u2003c\u3000d\u200be", "x\u0301\u0327 e\u0301", "<|im_start|> not special <|im_end|>", "\u0000\u0001\u007f", "--flag=value /v1/chat/completions {\"a\":[1,2]}",
    "½ ² ① Ⅷ ٣", "snake_case camelCase SCREAMING_CASE kebab-case", "!!!???...", "“quotes” ‘single’ – — …", "\U0001f41d\ufe0f", "a\x0bb\x0cc\x85d\u2028e",
]  # fmt: skip


def llama(options, tokenize=(), generate=()):
    work = {"model": str(options.model.resolve()), "tokenize": list(tokenize), "generate": list(generate)}
    # Node looks for packages beside the script, so the script is copied to where node-llama-cpp is installed.
    script = options.modules / "evaluate.mjs"
    script.write_text((HERE / "evaluate.mjs").read_text(encoding="utf-8"), encoding="utf-8")
    run = subprocess.run([options.node, str(script)], input=json.dumps(work).encode(), stdout=subprocess.PIPE, check=True)
    return json.loads(run.stdout)


def template_agrees() -> bool:
    """The template in the file gives exactly the text that training used."""
    environment = SandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    messages = [("system", "S"), ("user", "Hello"), ("assistant", "Hi"), ("user", "What?\n")]
    shown = environment.from_string(CHAT_TEMPLATE).render(
        messages=[{"role": role, "content": text} for role, text in messages], add_generation_prompt=True
    )
    return shown == corpus.chat(messages)


def parity(options, intents) -> tuple[int, int]:
    tokenizer = Tokenizer.from_file(str(options.out / "tokenizer.json"))
    # In a user's text the marks of the template are plain characters: compare without them as special tokens.
    tokenizer.encode_special_tokens = True
    texts = list(NASTY)
    for intent in intents:
        texts += intent.answers + intent.questions + intent.heldout
    conversations = corpus.Conversations(intents, seed=7)
    texts += [conversations.turn()[0] for _ in range(5000)]
    rng = random.Random(7)
    texts += ["".join(chr(rng.choice((rng.randrange(32, 127), rng.randrange(32, 0x2FFF), rng.randrange(0x1F300, 0x1F700)))) for _ in range(rng.randrange(1, 40))) for _ in range(2000)]
    theirs = llama(options, tokenize=texts)["tokens"]
    wrong = [text for text, ids in zip(texts, theirs) if tokenizer.encode(text).ids != ids]
    for text in wrong[:5]:
        print("  tokens differ:", ascii(text))
    return len(texts) - len(wrong), len(texts)


def rate(name: str, right: int, whole: int) -> None:
    print(f"{name}: {right} of {whole} ({100 * right / max(whole, 1):.1f} %)", flush=True)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("out", type=Path)
    arguments.add_argument("model", type=Path)
    arguments.add_argument("--quick", action="store_true", help="held-out questions under greedy decoding only")
    arguments.add_argument("--show", action="store_true", help="print what was answered wrongly")
    arguments.add_argument("--node", default="node")
    arguments.add_argument("--modules", type=Path, default=Path("."), help="folder that has node_modules/node-llama-cpp")
    options = arguments.parse_args()
    intents = corpus.load()
    print("chat template as trained:", template_agrees())
    if not options.quick:
        rate("tokeniser parity", *parity(options, intents))

    inside = [i for i in intents if not i.outside]
    sets = {kind: [(i, q) for i in inside for q in getattr(i, kind)] for kind in ("near", "independent", "free")}
    independent = sets["independent"]
    outside = [(i, q) for i in intents if i.outside for q in i.heldout]
    refusals = set(next(i.answers for i in intents if i.outside))

    def ask(cases, **settings):
        prompts = [{"prompt": corpus.chat([("user", corpus.present(q))]), **settings} for _, q in cases]
        return llama(options, generate=prompts)["answers"]

    def score(name, cases, show=False, **settings):
        answers = ask(cases, **settings)
        right = [answer["text"] in intent.answers for (intent, _), answer in zip(cases, answers)]
        rate(name, sum(right), len(cases))
        owners = {text: i.name for i in intents for text in i.answers}
        if show:
            for (intent, question), answer, good in zip(cases, answers, right):
                if not good:
                    print(f"  [{intent.name}] {question} -> {owners.get(answer['text'], 'BLEND: ' + answer['text'][:90])}")
        return answers

    for kind, cases in sets.items():
        answers = score(f"held-out {kind} wordings, greedy", cases, show=options.show)
        rate(f"false refusals of {kind} wordings", sum(a["text"] in refusals for a in answers), len(cases))
    score("held-out outside questions refused, greedy", outside, show=options.show)
    if options.quick:
        return
    rng = random.Random(11)
    trained = [(i, rng.choice(i.written)) for i in inside]
    score("one trained wording of each intent, greedy", trained, show=options.show)
    for seed in SEEDS:
        score(f"held-out independent wordings, temperature 0.7, seed {seed}", independent, temperature=0.7, seed=seed)
    others = [("user", "What is honey?"), ("assistant", next(i.answers[0] for i in intents if i.name == "honey"))]
    forms = {
        "after a system message": lambda q: corpus.chat([("system", "You are a helpful assistant."), ("user", q)]),
        "as a second turn": lambda q: corpus.chat([*others, ("user", q)]),
        "without the template": lambda q: q,
    }
    for name, form in forms.items():
        got = llama(options, generate=[{"prompt": form(corpus.present(q))} for _, q in independent])["answers"]
        rate(f"held-out independent wordings {name}, greedy", sum(a["text"].strip() in i.answers for (i, _), a in zip(independent, got)), len(independent))
    got = llama(options, generate=[{"prompt": corpus.chat([("user", corpus.present(i.written[0]))])} for i in inside])["answers"]
    print("longest answers:", sorted(((a["tokens"], i.written[0]) for a, i in zip(got, inside)), reverse=True)[:8])


if __name__ == "__main__":
    main()
