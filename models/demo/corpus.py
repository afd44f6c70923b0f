"""Owns the text: reads `text/*.md`, widens the questions, and builds training conversations.

A text file holds intents. `## name` opens one; a plain line is a question to train on, `[a|b]` in it
gives alternatives, `= a | b` names topics for the patterns in DEFINE (or for the file's own `{x}`
patterns), and a `>` line is an answer. A question that people type often stands several times: it comes that often. Three marks hold a question out for the test: `?` near the questions trained
on, `??` by an author who saw one of those, `???` in words that they mostly lack.
"""

import itertools
import random
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

TEXT = Path(__file__).parent / "text"
OUTSIDE = "outside-"
START, END, STOP = "<|im_start|>", "<|im_end|>", "<|endoftext|>"

DEFINE = [
    "what is {x}", "what are {x}", "explain {x}", "define {x}", "describe {x}", "tell me about {x}",
    "what does {x} mean", "what is meant by {x}", "what do you know about {x}", "explain {x} to me",
    "I want to know about {x}", "{x}", "what exactly is {x}", "what is the meaning of {x}",
    "tell me something about {x}", "can you explain {x}", "{x}, what does that mean", "I don't know what {x} is",
    "what can you tell me about {x}", "what do people mean by {x}",
]  # fmt: skip

# Words and phrases that may stand for each other in a question without changing what is asked.
ALIKE = [
    line.split("|")
    for line in """
what is|what's|whats
how do I|how can I|how does one|how to|how would I|how do you|how should I|what is the way to
tell me about|explain|describe|talk about|say something about|inform me about
why do|how come|for what reason do|what is the reason that
why does|how come|for what reason does|what makes it that
why is|how come|for what reason is
why are|how come|for what reason are
kinds|types|sorts|varieties
kind|type|sort
begin|start
big|large|huge
small|little|tiny
fast|quick|quickly
happens|occurs|goes on|takes place
make|produce|create
made|produced|created
get|obtain|receive
need|require
needs|requires
make use of|use|employ
used|employed
purpose|point|aim
role|part|function
stop|halt|end
start|launch|bring up|fire up
shut down|switch off|turn off
delete|remove|erase|throw away
orchestrator|rbees-orcd|orcd|orchestrator daemon
rbees-workerd|workerd|worker daemon
machine|computer|host|box|PC
machines|computers|hosts|boxes
answer|reply|response
honeybee|honey bee
honeybees|honey bees
hive|beehive
live|dwell|have their home
dangerous|risky|harmful
poem|rhyme|verse
story|tale
find out|learn|discover|know
see|view|look at|find
choose|pick|select
chosen|picked|selected
colour|color
licence|license
favourite|favorite
autumn|fall
can't|cannot|can not
don't|do not|dont
isn't|is not|isnt
I am|I'm|im
I want|I would like|I'd like|i need
important|essential|vital
expensive|costly|dear
help|assist|support
children|kids
how many|what number of
how long|how much time|for how long
how often|how frequently|how regularly
how big|how large|what size
how fast|how quickly|at what speed
how much|what amount of
where|in which place|at what place
when|at what time|at which moment
who|which person
die out|go extinct|disappear|vanish
buy|purchase
terminal|shell|console
command line|CLI
breaks|drops|fails|is cut
crashes|dies|fails|goes down|falls over
download|fetch|pull|get
several|more than one|multiple
mean|stand for|signify
works|functions|operates
work|function|operate
is called|goes by the name of
recognise|identify|know
protect|guard|defend
quit|exit|leave
send|hand in|submit|give
run|execute|carry out
show me|list|display|print|give me
check|test|examine
safe|secure
maximum|limit|largest
different|other
own|private
allowed|permitted
keep|have|hold
which command|what command|which line
which|what
responsible for|in charge of
doing|up to
eat|feed on|consume
write|compose|make up|pen|create
write a|give me a|I want a|could you write a|let me have a|make me a|how about a|I'd love a
about|on|concerning|regarding
what do I do|what should I do|what must I do|what can I do|what now
what happens|what follows|what goes on
what does it mean|what does this mean
if|when|in case
is it possible to|can I|may I|could I|am I able to
can I|may I|could I|is it possible to|is it ok to
do I have to|must I|do I need to|need I
should I|ought I to|shall I
does rbees|can rbees|will rbees|does the system
the job|my job|a job|the request
my|the
a|the|some
""".strip().splitlines()
]

BEFORE = [
    "please ", "hey, ", "hi, ", "hello, ", "so, ", "well, ", "ok, ", "quick question: ", "I have a question: ",
    "can you tell me ", "could you tell me ", "tell me ", "I would like to know ", "I want to know ", "I wonder ",
    "do you know ", "let me ask, ", "by the way, ", "sorry, ", "one question: ", "um, ", "now, ", "hello! ", "hi! ",
    "could you say ", "do you happen to know ", "and ", "good morning, ", "I was wondering, ", "maybe you know ",
    "please tell me ", "may I ask, ", "I'd like to ask: ", "question: ", "say, ", "right, ", "actually, ", "but ",
]  # fmt: skip
BEFORE_ORDER = [
    "please ", "could you ", "can you ", "would you ", "hey, ", "I want you to ", "I'd like you to ", "now ",
    "kindly ", "hello, ", "ok, ", "will you ", "could you please ", "can you please ", "so, ", "hi, ",
]  # fmt: skip
AFTER = [
    " please", ", please", " thanks", " exactly", " in short", " for me", ", do you know", " really", " actually",
    " again", " then", " in rbees", " by the way", ", thanks", " in a few words", " normally", " anyway", " usually",
    ", can you tell me", ", any idea", " here", " today", ", I wonder",
]  # fmt: skip
ASKING = re.compile(
    r"^(what|whats|why|who|whose|which|when|where|how|is|are|do|does|did|can|could|may|must|should|will|would|was|were|am|has|have|in which|on which|at what|from what|with what|by what|of what)\b",
    re.I,
)
SYSTEM = [
    "You are a helpful assistant.",
    "You are a helpful assistant. Answer briefly.",
    "You are the rbees demo model.",
    "You are a friendly expert on bees.",
    "Answer in one sentence.",
    "You are a chatbot.",
    "Be concise.",
    "You are a helpful, honest and harmless assistant.",
    "You are an assistant that helps the operator of a small cluster.",
    "Reply in plain English.",
]


@dataclass
class Intent:
    name: str
    lines: list[str] = field(default_factory=list)
    topics: list[str] = field(default_factory=list)
    near: list[str] = field(default_factory=list)
    independent: list[str] = field(default_factory=list)
    free: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    patterned: list[str] = field(default_factory=list)

    @property
    def outside(self) -> bool:
        return self.name.startswith(OUTSIDE)

    @property
    def heldout(self) -> list[str]:
        return self.near + self.independent + self.free

    @property
    def questions(self) -> list[str]:
        return self.written + self.patterned


def expand(line: str) -> list[str]:
    """`tell me a [joke|story]` gives both sentences."""
    parts = [part[1:-1].split("|") if part[:1] == "[" else [part] for part in re.split(r"(\[[^\]]*\])", line)]
    return [" ".join("".join(choice).split()) for choice in itertools.product(*parts)]


def plain(question: str) -> str:
    """The question as compared: no case, no punctuation."""
    return " ".join(re.sub(r"[^\w+]+", " ", question.lower()).split())


def finish(intent: Intent) -> None:
    for line in intent.lines:
        if "{x}" not in line:
            intent.written += expand(line)
    own = [line for line in intent.lines if "{x}" in line]
    for topic in intent.topics:
        intent.patterned += [pattern.replace("{x}", topic) for pattern in own or DEFINE]


def load() -> list[Intent]:
    intents: list[Intent] = []
    for path in sorted(TEXT.glob("*.md")):
        for line in path.read_text(encoding="utf-8").splitlines():
            mark, rest = line[:2], line[2:].strip()
            if line.startswith("## "):
                intents.append(Intent(line[3:].strip()))
            elif not line.strip() or mark == "# ":
                continue
            elif not intents:
                continue
            elif mark == "= ":
                intents[-1].topics += [topic.strip() for topic in rest.split(" | ")]
            elif mark[0] == "?":
                mark, rest = line.split(" ", 1)
                intent = intents[-1]
                {"?": intent.near, "??": intent.independent, "???": intent.free}[mark].append(rest.strip())
            elif mark == "> ":
                intents[-1].answers.append(rest.replace("\\n", "\n"))
            else:
                intents[-1].lines.append(line.strip())
    refusals = next(i.answers for i in intents if i.name == "outside-answers")
    heldout = {plain(question) for intent in intents for question in intent.heldout}
    for intent in intents:
        finish(intent)
        # A pattern or an alternative may make a question that the test asks.
        for made in (intent.written, intent.patterned):
            made[:] = [question for question in made if plain(question) not in heldout]
        if intent.outside:
            intent.answers = refusals
    return [intent for intent in intents if intent.questions or intent.heldout]


def check(intents: list[Intent]) -> list[str]:
    """Everything wrong with the text, in words."""
    faults, owner = [], {}
    for name, count in Counter(i.name for i in intents).items():
        if count > 1:
            faults.append(f"{name} appears {count} times")
    for intent in intents:
        if not intent.answers:
            faults.append(f"{intent.name} has no answer")
        if not intent.outside and (len(intent.independent), len(intent.free)) != (2, 1):
            faults.append(f"{intent.name} has {len(intent.independent)} independent and {len(intent.free)} free held-out questions, not 2 and 1")
        if not intent.outside and len(set(map(plain, intent.questions))) < 10:
            faults.append(f"{intent.name} has only {len(intent.questions)} questions")
        for question in map(plain, intent.questions):
            other = owner.setdefault(question, intent.name)
            if other != intent.name and not (intent.outside and other.startswith(OUTSIDE)):
                faults.append(f'"{question}" stands in {other} and in {intent.name}')
    for intent in intents:
        for question in map(plain, intent.heldout):
            if question in owner:
                faults.append(f'held-out "{question}" of {intent.name} is trained on in {owner[question]}')
    return faults


class Widener:
    """Makes ever new wordings of a question. Never one that is held out."""

    def __init__(self, intents: list[Intent], rng: random.Random):
        self.rng = rng
        self.heldout = {plain(q) for i in intents for q in i.heldout}
        self.alike = [
            (re.compile(r"(?<![\w-])(" + "|".join(map(re.escape, sorted(group, key=len, reverse=True))) + r")(?![\w-])", re.I), group)
            for group in ALIKE
        ]
        spread = Counter(word for i in intents if not i.outside for word in {w for q in i.written for w in plain(q).split()})
        # Words of many intents tell little about any one of them: they may be lost or exchanged.
        self.common = sorted(word for word, count in spread.items() if count >= 25)

    def reword(self, text: str) -> str:
        hits = [(pattern, group) for pattern, group in self.alike if pattern.search(text)]
        self.rng.shuffle(hits)
        for pattern, group in hits[: self.rng.choice((0, 1, 1, 2, 3))]:
            text = pattern.sub(lambda _: self.rng.choice(group), text, count=1)
        return text

    def blur(self, text: str) -> str:
        """Loses or exchanges some of the words that carry little meaning."""
        words = text.split()
        if len(words) < 4:
            return text
        rate, out = self.rng.choice((0.15, 0.3, 0.6)), []
        for word in words:
            if word.lower() in self.common and self.rng.random() < rate:
                if self.rng.random() < 0.35:
                    out.append(self.rng.choice(self.common))
            else:
                out.append(word)
        return " ".join(out) or text

    def mistype(self, text: str) -> str:
        spots = [m.start() for m in re.finditer(r"(?<=\w)\w(?=\w)", text)]
        if not spots:
            return text
        at, kind = self.rng.choice(spots), self.rng.random()
        if kind < 0.4:
            return text[:at] + text[at + 1 :]
        if kind < 0.7:
            return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
        if kind < 0.85:
            return text[:at] + text[at] + text[at:]
        return text[:at] + self.rng.choice("abcdefghijklmnopqrstuvwxyz") + text[at + 1 :]

    def dress(self, text: str, asking: bool) -> str:
        roll = self.rng.random()
        if roll < 0.5:
            text = text[:1].upper() + text[1:]
        elif roll < 0.85:
            text = text.lower()
        elif roll < 0.87:
            text = text.upper()
        roll = self.rng.random()
        if asking:
            return text + ("?" if roll < 0.62 else "" if roll < 0.95 else "??" if roll < 0.97 else " ?")
        return text + ("" if roll < 0.6 else "." if roll < 0.85 else "!" if roll < 0.95 else "?")

    def __call__(self, question: str) -> str:
        while True:
            text, asking = question, bool(ASKING.match(question))
            if self.rng.random() < 0.45:
                text = self.reword(text)
            if self.rng.random() < 0.08:
                text = self.blur(text)
            if self.rng.random() < 0.15:
                text = self.rng.choice(BEFORE if asking else BEFORE_ORDER) + text
            if self.rng.random() < 0.08:
                text += self.rng.choice(AFTER)
            if self.rng.random() < 0.08:
                text = self.mistype(text)
            text = self.dress(text, asking)
            if plain(text) not in self.heldout:
                return text


def present(question: str) -> str:
    """A held-out question as a person would type it: a capital and, for a question, its mark."""
    text = question[:1].upper() + question[1:]
    return text + "?" if ASKING.match(question) and text[-1] not in ".?!" else text


def chat(messages: list[tuple[str, str]]) -> str:
    """What the chat template makes of messages, ready for the assistant to go on."""
    return "".join(f"{START}{role}\n{text}{END}\n" for role, text in messages) + f"{START}assistant\n"


class Conversations:
    """An endless stream of training examples.

    An example is a list of (question in its frame, answer, number of the intent). Most answers are cut off
    after some words: which answer a question wants takes far longer to learn than how the answer goes on.
    """

    def __init__(self, intents: list[Intent], seed: int, outside_share: float = 0.18, bare: float = 0.14):
        self.rng = random.Random(seed)
        self.widen = Widener(intents, self.rng)
        self.inside = [i for i in intents if not i.outside]
        # Questions about anything, each its own; and patterns with topics, of which there are few and many.
        self.anything = [i for i in intents if i.name == OUTSIDE + "anything"]
        self.outside = [i for i in intents if i.outside and i.questions and i not in self.anything]
        self.outside_share, self.bare = outside_share, bare
        # The very long answers take longest to learn, so they come more often.
        self.long = [i for i in self.inside if max(map(len, i.answers)) > 500 or i.name == "count-to-ten"]
        self.numbers = {intent.name: number for number, intent in enumerate(self.inside)}
        self.kinds = len(self.inside) + 1

    def turn(self, short: bool = False) -> tuple[str, str, int]:
        while True:
            if not short and self.rng.random() < 0.04:
                intent = self.rng.choice(self.long)
            else:
                intent = self.rng.choice(self.inside if self.rng.random() >= self.outside_share else self.anything if self.rng.random() < 0.6 else self.outside)
            # What a person wrote out counts for more than what a pattern made.
            written = intent.written and (not intent.patterned or self.rng.random() < 0.7)
            question = self.rng.choice(intent.written if written else intent.patterned)
            if intent.outside and intent.topics and self.rng.random() < 0.4:
                question = self.rng.choice([line for line in intent.lines if "{x}" in line]).replace("{x}", self.invented(intent))
            answer = self.rng.choice(intent.answers)
            if not (short and len(answer) > 500):
                return self.widen(question), answer, self.numbers.get(intent.name, self.kinds - 1)

    def invented(self, intent: Intent) -> str:
        """A word that doesn't exist, from halves of two topics: what is unknown belongs to the outside too."""
        first, last = self.rng.choice(intent.topics), self.rng.choice(intent.topics)
        return first[: self.rng.randint(2, max(2, len(first) - 1))] + last[-self.rng.randint(2, max(2, len(last) - 1)) :]

    def asked(self) -> list[tuple[str, str, int]]:
        """A question alone, without its answer."""
        question, _, number = self.turn()
        roll = self.rng.random()
        if roll < 0.1:
            return [(question, "", number)]
        head = f"{START}system\n{self.rng.choice(SYSTEM)}{END}\n" if roll < 0.18 else ""
        return [(f"{head}{START}user\n{question}{END}\n{START}assistant\n", "", number)]

    def answered(self) -> list[tuple[str, str, int]]:
        roll = self.rng.random()
        if roll < self.bare:
            # A bare prompt without the template, as a completion endpoint gets it.
            question, answer, number = self.turn()
            return [(question, self.cut("\n" + answer + END), number)]
        turns = 1 if roll < 0.88 else self.rng.choice((2, 2, 3, 4)) if roll < 0.995 else self.rng.randint(6, 12)
        parts: list[tuple[str, str, int]] = []
        head = STOP if self.rng.random() < 0.03 else ""
        if self.rng.random() < 0.2:
            head += f"{START}system\n{self.rng.choice(SYSTEM)}{END}\n"
        for left in reversed(range(turns)):
            question, answer, number = self.turn(short=turns > 1)
            answer += END
            parts.append((f"{head}{START}user\n{question}{END}\n{START}assistant\n", answer if left else self.cut(answer), number))
            head = "\n"
        return parts

    def cut(self, answer: str) -> str:
        if len(answer) > 500 or self.rng.random() < 0.25:
            return answer
        return " ".join(answer.split(" ")[: self.rng.randint(3, 9)])


def main() -> None:
    intents = load()
    inside = [i for i in intents if not i.outside]
    outside = [i for i in intents if i.outside]
    print("intents", len(inside))
    print("answers", sum(len(i.answers) for i in inside))
    print("training questions written", sum(len(i.written) for i in inside))
    print("training questions from patterns", sum(len(i.patterned) for i in inside))
    print("held-out questions, near", sum(len(i.near) for i in inside))
    print("held-out questions, independent", sum(len(i.independent) for i in inside))
    print("held-out questions, free", sum(len(i.free) for i in inside))
    print("outside questions for training", sum(len(i.questions) for i in outside))
    print("outside questions held out", sum(len(i.heldout) for i in outside))
    faults = check(intents)
    print(*faults, sep="\n")
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
