"""Owns training: conversations in, weights out. Fixed seed, fixed number of steps, CPU only.

usage: python train.py OUT_DIR            the first stage: writes tokenizer.json and stage1.pt
       python train.py OUT_DIR --second   the second stage, on more text: writes model.pt

The weights written are a running average; they are written every 250 steps.
"""

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import nn

import corpus
import tokenizer as bpe
from model import Model, Shape

SEED = 20261121
BATCH_TOKENS = 2048
WIDTHS = (32, 48, 64, 80, 96, 128, 192, 256, 384, 512, 768, 1024)
# The first stage follows a schedule of 6000 steps and ends after 5000 of them.
STAGES = {
    "first": {"steps": 6000, "until": 5000, "peak": 1.6e-3, "decay": 0.25},
    "second": {"steps": 4500, "until": 4500, "peak": 1.2e-3, "decay": 0.5},
}
WARM_UP = 200
OPENING, OPENING_WEIGHT = 4, 4.0
GUESS_WEIGHT = 1.0
AVERAGE = 0.997
LIMIT = 1024


def encode(tokenizer, parts: list[tuple[str, str, int]]) -> tuple[list[int], list[float], list[int]]:
    """Token ids; for each the weight of its loss; and, where an answer is about to begin, its intent."""
    ids, weights, intents = [], [], []
    for asked, answer, intent in parts:
        # Each part is encoded alone, as a client would send it.
        question, answer = tokenizer.encode(asked).ids, tokenizer.encode(answer).ids
        ids += question + answer
        weights += [0.0] * len(question)
        weights += [OPENING_WEIGHT] * min(OPENING, len(answer)) + [1.0] * max(0, len(answer) - OPENING)
        intents += [-100] * (len(question) - 1) + [intent] + [-100] * len(answer)
    return ids[:LIMIT], weights[:LIMIT], intents[:LIMIT]


def batches(tokenizer, conversations: corpus.Conversations):
    """Batches of BATCH_TOKENS, each of examples of similar length.

    Lengths are rounded up and each length has one fixed number of rows: the CPU kernels are compiled anew
    for every shape they meet, and with free shapes that takes longer than the training itself.
    """
    waiting: dict[int, list] = {}
    while True:
        example = encode(tokenizer, next(conversations))
        width = next(width for width in WIDTHS if width >= len(example[0]))
        rows = waiting.setdefault(width, [])
        rows.append(example)
        if len(rows) == BATCH_TOKENS // width:
            tokens = torch.zeros(len(rows), width, dtype=torch.long)
            weights = torch.zeros(len(rows), width)
            intents = torch.full((len(rows), width), -100)
            for row, (ids, weight, intent) in enumerate(rows):
                tokens[row, : len(ids)] = torch.tensor(ids)
                weights[row, : len(ids)] = torch.tensor(weight)
                intents[row, : len(ids)] = torch.tensor(intent)
            rows.clear()
            yield tokens, weights, intents


def loss_of(model: Model, guess: nn.Linear, tokens, weights, intents) -> tuple[torch.Tensor, float, float]:
    """The loss to minimise; the plain loss of the answers' tokens; the share of intents guessed."""
    at = (weights[:, 1:] > 0).flatten().nonzero().squeeze(1)
    weights = weights[:, 1:].flatten()[at]
    # Rounded up, again for the sake of few shapes; the positions added have no weight.
    more = -len(at) % 512
    at, weights = F.pad(at, (0, more)), F.pad(weights, (0, more))
    with torch.autocast("cpu", torch.bfloat16):
        last, middle = model.hidden(tokens)
        logits = model.logits(last[:, :-1].flatten(0, 1)[at])
    losses = F.cross_entropy(logits.float(), tokens[:, 1:].flatten()[at], reduction="none")
    # A helper that is thrown away after training: name the intent from the state before the answer begins.
    # Without it the model first learns all answers by heart and only much later which one is wanted.
    known = intents.flatten() >= 0
    guesses = guess(F.rms_norm(middle.flatten(0, 1)[known].float(), (model.shape.width,)))
    wanted = intents.flatten()[known]
    loss = (losses * weights).sum() / weights.sum() + GUESS_WEIGHT * F.cross_entropy(guesses, wanted)
    return loss, losses.detach()[weights >= 1.0].mean().item(), (guesses.argmax(-1) == wanted).float().mean().item()


def rate(step: int, stage: dict) -> float:
    """The learning rate: up, level, and down to nearly nothing over the last part of the steps."""
    left = (stage["steps"] - step) / (stage["steps"] * stage["decay"])
    return stage["peak"] * max(0.01, min(1.0, (step + 1) / WARM_UP, left))


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--second", action="store_true")
    arguments.add_argument("--threads", type=int, default=2)
    options = arguments.parse_args()
    stage = STAGES["second" if options.second else "first"]
    target = options.out / ("model.pt" if options.second else "stage1.pt")
    torch.manual_seed(SEED)
    torch.set_num_threads(options.threads)

    if options.second:
        tokenizer = Tokenizer.from_file(str(options.out / "tokenizer.json"))
        saved = torch.load(options.out / "stage1.pt", weights_only=False)
        model = Model(saved["shape"])
        model.load_state_dict(saved["weights"])
    else:
        tokenizer = bpe.train(options.out / "tokenizer.json")
        model = Model(Shape(vocab=tokenizer.get_vocab_size()))
    average = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    conversations = corpus.Conversations(corpus.load(options.second), SEED + options.second, second=options.second)
    guess = nn.Linear(model.shape.width, conversations.kinds)
    matrices = [weight for weight in model.parameters() if weight.ndim == 2] + [guess.weight]
    others = [weight for weight in model.parameters() if weight.ndim != 2] + [guess.bias]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=stage["peak"], betas=(0.9, 0.98), fused=True,
    )  # fmt: skip
    print(f"{sum(w.numel() for w in model.parameters()):,} parameters", flush=True)

    source = batches(tokenizer, conversations)
    seen, begin, smooth = 0, time.monotonic(), [0.0, 0.0]
    for step in range(stage["until"]):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, stage)
        loss, own, right = loss_of(model, guess, *next(source))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            keep = min(AVERAGE, (step + 1) / (step + 10))
            for name, weight in model.named_parameters():
                average[name].lerp_(weight, 1 - keep)
        smooth = [own, right] if step == 0 else [0.98 * old + 0.02 * new for old, new in zip(smooth, (own, right))]
        seen += BATCH_TOKENS
        if step % 50 == 0 or step + 1 == stage["until"]:
            spent = time.monotonic() - begin
            print(f"step {step} of {stage['until']} answer loss {smooth[0]:.4f} intents guessed {smooth[1]:.3f} {seen / spent:,.0f} tokens/s {spent:.0f} s", flush=True)
        if step % 250 == 249 or step + 1 == stage["until"]:
            torch.save({"shape": model.shape, "weights": average, "step": step + 1}, target)


if __name__ == "__main__":
    main()
