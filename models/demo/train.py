"""Owns training: conversations in, weights out. Fixed seeds, fixed numbers of steps, CPU only.

usage: python train.py OUT_DIR ROUND    the first round writes tokenizer.json and round1.pt, each further one goes on from
                                        the weights of the one before

The weights written are a running average; they are written every 250 steps.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import nn

import corpus
import tokenizer as bpe
from model import Model, Shape

SEED = 20261121
BATCH_TOKENS = 3072
WIDTHS = (16, 20, 24, 32, 48, 64, 80, 96, 128, 192, 256, 384, 512, 768, 1024)


@dataclass(frozen=True)
class Round:
    """In the first `asking` steps it is only learned which answer is wanted, from questions alone; then the answers too."""

    asking: int
    steps: int
    peak_rate: float
    # The share of the steps over which the rate falls to nearly nothing.
    decay: float
    # The share of the questions that come without the chat template, as a completion endpoint gets them.
    bare: float = 0.14


ROUNDS = (
    Round(4_000, 9_000, 1.8e-3, 0.5),
    Round(700, 3_500, 1e-3, 0.8),
    Round(300, 3_300, 1e-3, 0.9, bare=0.28),
    Round(200, 1_500, 5e-4, 0.9, bare=0.2),
)
WARM_UP = 200
OPENING, OPENING_WEIGHT = 4, 4.0
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


def batches(tokenizer, example_of):
    """Batches of BATCH_TOKENS, each of examples of similar length.

    Lengths are rounded up and each length has one fixed number of rows: the CPU kernels are compiled anew
    for every shape they meet, and with free shapes that takes longer than the training itself.
    """
    waiting: dict[int, list] = {}
    while True:
        example = encode(tokenizer, example_of())
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


class Guessers(nn.Module):
    """Helpers that are thrown away after training: they name the intent of a question that is about to be answered.

    Without them the model learns all answers by heart first and only much later which one is wanted. They look at the mean
    of the question's embeddings, so that words with the same meaning come to lie together; at the middle of the network; and
    at its end, where the answer begins.
    """

    def __init__(self, width: int, kinds: int):
        super().__init__()
        self.width = width
        self.mean, self.middle, self.end = (nn.Linear(width, kinds) for _ in range(3))

    def forward(self, model: Model, tokens, intents, last, middle, alone: bool) -> tuple[torch.Tensor, float]:
        """The loss; the share of intents that the state at the end tells. `alone`: each row is one question."""
        known = intents.flatten() >= 0
        wanted = intents.flatten()[known]
        states = [(self.middle, middle.flatten(0, 1)[known]), (self.end, last.flatten(0, 1)[known])]
        if alone:
            inside = (torch.arange(tokens.shape[1]) <= (intents >= 0).int().argmax(1, keepdim=True)).float().unsqueeze(-1)
            states.append((self.mean, (model.token_embd(tokens) * inside).sum(1) / inside.sum(1)))
        guesses = [part(F.rms_norm(state.float(), (self.width,))) for part, state in states]
        right = (guesses[1].argmax(-1) == wanted).float().mean().item()
        return sum(F.cross_entropy(guess, wanted) for guess in guesses), right


def loss_of(model: Model, guessers: Guessers, tokens, weights, intents, asking: bool) -> tuple[torch.Tensor, float, float]:
    """The loss to minimise; the plain loss of the answers' tokens; the share of intents guessed."""
    with torch.autocast("cpu", torch.bfloat16):
        last, middle = model.hidden(tokens)
    loss, right = guessers(model, tokens, intents, last, middle, alone=asking)
    if asking:
        return loss, 0.0, right
    at = (weights[:, 1:] > 0).flatten().nonzero().squeeze(1)
    weights = weights[:, 1:].flatten()[at]
    # Rounded up, for the sake of few shapes; the positions added have no weight.
    more = -len(at) % 512
    at, weights = F.pad(at, (0, more)), F.pad(weights, (0, more))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.logits(last[:, :-1].flatten(0, 1)[at])
    losses = F.cross_entropy(logits.float(), tokens[:, 1:].flatten()[at], reduction="none")
    return loss + (losses * weights).sum() / weights.sum(), losses.detach()[weights >= 1.0].mean().item(), right


def rate(step: int, now: Round) -> float:
    """The learning rate: up, level, and down to nearly nothing over the last part of the steps."""
    left = (now.steps - step) / (now.steps * now.decay)
    return now.peak_rate * max(0.01, min(1.0, (step + 1) / WARM_UP, left))


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("out", type=Path)
    arguments.add_argument("round", type=int, choices=range(1, len(ROUNDS) + 1))
    arguments.add_argument("--threads", type=int, default=2)
    options = arguments.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(options.threads)

    now = ROUNDS[options.round - 1]
    if options.round > 1:
        tokenizer = Tokenizer.from_file(str(options.out / "tokenizer.json"))
        saved = torch.load(options.out / f"round{options.round - 1}.pt", weights_only=False)
        model = Model(saved["shape"])
        model.load_state_dict(saved["weights"])
    else:
        tokenizer = bpe.train(options.out / "tokenizer.json")
        model = Model(Shape(vocab=tokenizer.get_vocab_size()))
    average = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    conversations = corpus.Conversations(corpus.load(), SEED + options.round - 1, bare=now.bare)
    guessers = Guessers(model.shape.width, conversations.kinds)
    trained = [*model.parameters(), *guessers.parameters()]
    matrices, others = [w for w in trained if w.ndim == 2], [w for w in trained if w.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=now.peak_rate, betas=(0.9, 0.98), fused=True,
    )  # fmt: skip
    print(f"{sum(w.numel() for w in model.parameters()):,} parameters", flush=True)

    asking, answering = batches(tokenizer, conversations.asked), batches(tokenizer, conversations.answered)
    seen, begin, smooth = 0, time.monotonic(), [0.0, 0.0]
    for step in range(now.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, now)
        alone = step < now.asking
        loss, own, right = loss_of(model, guessers, *next(asking if alone else answering), asking=alone)
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
        if step % 50 == 0 or step + 1 == now.steps:
            spent = time.monotonic() - begin
            print(f"step {step} of {now.steps} answer loss {smooth[0]:.4f} intents guessed {smooth[1]:.3f} {seen / spent:,.0f} tokens/s {spent:.0f} s", flush=True)
        if step % 250 == 249 or step + 1 == now.steps:
            torch.save({"shape": model.shape, "weights": average, "step": step + 1}, options.out / f"round{options.round}.pt")


if __name__ == "__main__":
    main()
