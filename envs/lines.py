"""The language of Instruction: words, sentences, and lines of token ids (paper, section 5.1, after LIGHT).

A line is one sentence of a small grammar.  What is told and what is chatter share their words: every word of an
instruction or an encounter stands in chatter too, and only the form of the sentence tells them apart.

A token is a word's place in `VOCABULARY`; token 0 fills up a line to `LINE_WIDTH`.
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np

LINE_WIDTH = 14
"""Tokens of a line."""

CHARACTERS = "butler cook gardener knight jester priest smith miller tailor guard queen farmer".split()
ACTIONS = (
    "sweep the hall, ring the bell, feed the horses, light the fire, draw the water, bake the bread, polish the armor, "
    "lock the gate, read the scroll, mend the roof, count the coins, pick the apples"
).split(", ")

INSTRUCTIONS = (
    "tell the {character} to {verb} the {thing}",
    "please tell the {character} to {verb} the {thing} today",
    "go to the {character} and say {verb} the {thing}",
)
ENCOUNTERS = ("you meet the {character}", "you come to the {character} now", "here is the {character}")
CHATTER = (
    "never tell the {character} to {verb} the {thing}",
    "people say the {character} will {verb} the {thing} {when}",
    "the {character} likes to {verb} the {thing} {when}",
    "the {character} has no wish to {verb} the {thing}",
    "did the {character} {verb} the {thing} {when}",
    "to {verb} the {thing} is {quality} work says the {character}",
    "here is the place where the {character} will {verb} the {thing}",
    "you hear that the {character} and the {other} {verb} the {thing}",
    "the {character} is too {quality} to {verb} the {thing} now",
    "if you meet the {other} please say the {character} is {quality}",
    "the {other} and the {character} meet in the {place} {when}",
    "now the {character} and the {other} go to the {place}",
    "you come to the {place} and the {character} is not here",
    "today the {character} says the {thing} is {quality}",
    "the {quality} {object} in the {place} is older than the {character}",
    "a {quality} {object} lies in the {place}",
    "the {weather} over the {place} is {quality} {when}",
    "someone left the {object} and the {second} in the {place}",
    "{when} the {place} was full of {weather} and {quality} people",
    "the {object} of the {other} is {quality} and the {second} is {quality}",
    "you walk through the {quality} {place} and see the {object}",
    "there is {weather} over the {place} and over the {other}",
    "once the {place} had a {quality} {object} and a {second}",
    "what a {quality} {object} the {other} has {when}",
)
PLACES = (
    "abbey alley arch armory attic bakery balcony barn barracks bath bazaar bridge brook camp canal castle cave "
    "cellar chamber chapel cliff cloister corridor cottage courtyard crypt dairy dock dungeon farmhouse field ford "
    "forest forge fountain garden grove harbor hill hut inn island kitchen lake library lighthouse market marsh "
    "meadow mill moat monastery mountain nursery orchard palace pantry parlor pasture path pier plaza pond port "
    "quarry river road ruin shed shore shrine stable stairway stream street swamp tavern temple tent tower tunnel "
    "valley vault village vineyard wall wardrobe well wharf windmill workshop yard"
).split()
OBJECTS = (
    "amulet anchor anvil arrow axe bag banner barrel basket bench blanket boot bottle bowl box bracelet broom brush "
    "bucket button cabinet candle cane cape carpet cart chain chair chalice chest chisel cloak clock coat comb "
    "compass crate crown cup curtain dagger desk dice dress drum feather flag flask flute fork glove goblet hammer "
    "harp hat helmet hook horn jar jug kettle key knife ladder lamp lantern letter loom lute map mask mirror mug "
    "nail necklace needle net oar oven painting paper pillow pin pipe pitcher plate plow pot quill rake ring robe "
    "rope rug saddle sack saw scarf shield shovel sickle sieve spade spear spoon staff statue stool sword table "
    "tapestry thread tile torch towel tray trumpet trunk vase veil violin wagon wand wheel whistle wreath"
).split()
QUALITIES = (
    "ancient angry bitter black blue bold brave brief bright broken busy calm careful cheap clean clever cold "
    "common crooked cruel curious damp dark dear deep dirty dull dusty early empty faint fair false famous fat "
    "fierce fine firm flat fragile fresh friendly funny gentle glad golden grand gray great green happy hard heavy "
    "hidden high hollow honest hot huge humble idle jolly keen kind large lazy light little lively lonely long loud "
    "low lucky mad merry mild modest muddy narrow neat new noble noisy odd old pale patient plain polite poor proud "
    "pure quick quiet rare red rich ripe rotten rough round rude sad safe secret sharp short shy silent silver "
    "simple slow small smooth soft solid sour steep sticky strange strong sweet swift tall tame tender thick thin "
    "tiny tired tough ugly vain vast warm weak wet white wicked wide wild wise wooden yellow young"
).split()
WEATHERS = (
    "breeze cloud dew drizzle dust fog frost hail haze mist moonlight rain shade smoke snow storm sunlight thunder wind"
).split()
TIMES = (
    "again always daily forever gladly lately later nightly often rarely seldom someday sometimes soon tomorrow "
    "tonight twice weekly yearly yesterday"
).split()

_CHOICES = {
    "place": PLACES,
    "object": OBJECTS,
    "second": OBJECTS,
    "quality": QUALITIES,
    "weather": WEATHERS,
    "when": TIMES,
}
_SLOTS = ("character", "other", "verb", "thing", *_CHOICES)


def _vocabulary() -> list[str]:
    fixed = " ".join((*INSTRUCTIONS, *ENCOUNTERS, *CHATTER, *ACTIONS)).split()
    words = [*fixed, *CHARACTERS, *(word for words in _CHOICES.values() for word in words)]
    return ["", *sorted({word for word in words if not word.startswith("{")})]


VOCABULARY = _vocabulary()
"""Word of each token; that of 0 is empty."""
_TOKENS = {word: token for token, word in enumerate(VOCABULARY)}
CHARACTER_TOKENS = np.array([_TOKENS[character] for character in CHARACTERS], dtype=np.int16)
VERB_TOKENS, THING_TOKENS = (
    np.array([_TOKENS[action.split()[place]] for action in ACTIONS], dtype=np.int16) for place in (0, 2)
)

_CHOICE_SIZES = np.array([len(words) for words in _CHOICES.values()])
_CHOICE_TOKENS = np.zeros((len(_CHOICES), _CHOICE_SIZES.max()), dtype=np.int16)
for _row, _words in zip(_CHOICE_TOKENS, _CHOICES.values(), strict=True):
    _row[: len(_words)] = [_TOKENS[word] for word in _words]


class Kind(IntEnum):
    """What a line is."""

    CHATTER = 0
    INSTRUCTION = 1
    ENCOUNTER = 2


_SENTENCES = {Kind.CHATTER: CHATTER, Kind.INSTRUCTION: INSTRUCTIONS, Kind.ENCOUNTER: ENCOUNTERS}
_COUNTS = np.array([len(sentences) for sentences in _SENTENCES.values()])
_FIRST = np.cumsum(_COUNTS) - _COUNTS


def _compile() -> np.ndarray:
    """All sentences as token lines [N, LINE_WIDTH] in which slot k is written as -1 - k."""
    sentences = [sentence for group in _SENTENCES.values() for sentence in group]
    lines = np.zeros((len(sentences), LINE_WIDTH), dtype=np.int16)
    for line, sentence in zip(lines, sentences, strict=True):
        for place, word in enumerate(sentence.split()):
            line[place] = -1 - _SLOTS.index(word[1:-1]) if word.startswith("{") else _TOKENS[word]
    return lines


_FORMS = _compile()


def draw_lines(
    kinds: np.ndarray, characters: np.ndarray, others: np.ndarray, actions: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Random lines of these kinds, token ids int16 [N, LINE_WIDTH].

    `kinds` are those of `Kind`, `characters`, `others` and `actions` places in CHARACTERS and ACTIONS, [N] each.
    """
    words = np.empty((len(kinds), len(_SLOTS)), dtype=np.int16)
    words[:, 0], words[:, 1] = CHARACTER_TOKENS[characters], CHARACTER_TOKENS[others]
    words[:, 2], words[:, 3] = VERB_TOKENS[actions], THING_TOKENS[actions]
    drawn = random.random((len(kinds), len(_CHOICES) + 1))
    chosen = (drawn[:, 1:] * _CHOICE_SIZES).astype(np.int64)
    words[:, 4:] = _CHOICE_TOKENS[np.arange(len(_CHOICES)), chosen]
    lines = _FORMS[_FIRST[kinds] + (drawn[:, 0] * _COUNTS[kinds]).astype(np.int64)]
    filled = np.take_along_axis(words, np.maximum(-1 - lines, 0), axis=1)
    return np.where(lines < 0, filled, lines)


class Reading(NamedTuple):
    """What some lines ask; arrays are [N]."""

    instructed: np.ndarray
    """The character of an instruction, -1 for other lines."""
    action: np.ndarray
    """The action of an instruction, -1 for other lines."""
    met: np.ndarray
    """The character of an encounter, -1 for other lines."""


def read_lines(lines: np.ndarray) -> Reading:
    """Tell instructions and encounters from chatter, by the form of the sentence; lines are [N, LINE_WIDTH]."""
    instructed, action, met = (np.full(len(lines), -1) for _ in range(3))
    for form in _forms(Kind.INSTRUCTION):
        rows = _of_form(lines, form)
        instructed[rows] = _places(CHARACTER_TOKENS, lines[rows][:, _slot_place(form, "character")])
        action[rows] = _places(VERB_TOKENS, lines[rows][:, _slot_place(form, "verb")])
    for form in _forms(Kind.ENCOUNTER):
        rows = _of_form(lines, form)
        met[rows] = _places(CHARACTER_TOKENS, lines[rows][:, _slot_place(form, "character")])
    return Reading(instructed, action, met)


def _forms(kind: Kind) -> np.ndarray:
    return _FORMS[_FIRST[kind] : _FIRST[kind] + _COUNTS[kind]]


def _of_form(lines: np.ndarray, form: np.ndarray) -> np.ndarray:
    return np.flatnonzero(((lines == form) | (form < 0)).all(1))


def _slot_place(form: np.ndarray, name: str) -> int:
    return int(np.flatnonzero(form == -1 - _SLOTS.index(name))[0])


def _places(tokens: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The place of each wanted token among `tokens`."""
    return (tokens == wanted[:, None]).argmax(1)


def decode(line: np.ndarray) -> str:
    """A line of token ids as text."""
    return " ".join(VOCABULARY[token] for token in line if token)
