"""Things and their directions, expectations, negation and its scope, concessions: what follows from grammar alone."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from earlybell.inference.training.judgement.figures import Group
from earlybell.inference.training.judgement.lexicon import lines, options, pairs, section
from earlybell.inference.training.judgement.words import company, fill, percent


@dataclass(frozen=True, slots=True)
class Thing:
    """Something of which more is good (``sign`` +1) or bad (-1)."""

    phrase: str
    sign: int
    plural: bool
    of_company: bool


@dataclass(frozen=True, slots=True)
class Direction:
    """A verb of movement: up (+1) or down (-1)."""

    sign: int
    strength: int
    singular: str
    plural: str
    past: str

    def of(self, thing: Thing, past: bool) -> str:
        """Return the verb as it agrees with ``thing``."""
        return self.past if past else self.plural if thing.plural else self.singular


@cache
def things() -> tuple[Thing, ...]:
    """Return the lexicon's things."""
    read = []
    for line in lines("things"):
        head, _, rest = line.partition("|")
        sign, number, kind = head.split()
        read += [Thing(phrase, 1 if sign == "+" else -1, number == "p", kind == "c") for phrase in options(rest)]
    return tuple(read)


@cache
def directions(sign: int) -> tuple[Direction, ...]:
    """Return the verbs that go up (+1) or down (-1)."""
    read = []
    for line in lines("directions"):
        head, _, rest = line.partition("|")
        name, strength = head.split()
        if (name == "up") == (sign > 0):
            read += [Direction(sign, int(strength), *phrase.split("/")) for phrase in options(rest)]
    return tuple(read)


@cache
def facts(sign: int) -> tuple[str, ...]:
    """Return noun phrases for good (+1) or bad (-1) things that may happen to a company."""
    return _signed("facts", sign)


@cache
def verb_phrases(sign: int) -> tuple[str, ...]:
    """Return infinitives for what a company may do, good (+1) or bad (-1) for its holders."""
    return _signed("verb_phrases", sign)


def _signed(name: str, sign: int) -> tuple[str, ...]:
    return tuple(phrase for line in lines(name) if (line[0] == "+") == (sign > 0) for phrase in options(line[1:]))


#: What goes with an amount, so that "grows 5% to $3 million" may be written.
_PLACES = section("clauses", "places")
_NOUNS = {1: section("clauses", "nouns up"), -1: section("clauses", "nouns down")}
_TRANSITIVE = {1: section("clauses", "transitive up"), -1: section("clauses", "transitive down")}
_EXTREMES = {1: section("clauses", "extremes up"), -1: section("clauses", "extremes down")}
_COUNTRIES = (*section("clauses", "countries"), "")


def moves(rng: random.Random) -> Group:
    """Return a pair: one thing going up and down, or a good and a bad thing going the same way."""
    thing = rng.choice(things())
    past = rng.random() < 0.3
    shape = rng.choice(_COMPANY_SHAPES if thing.of_company else _ECONOMY_SHAPES)
    where = rng.choice(_PLACES) if rng.random() < 0.25 else ""
    amount = f" {rng.choice(('by ', '', ''))}{percent(rng)}" if rng.random() < 0.25 else ""
    strength = rng.choice((1, 2, 2, 2, 2, 3, 3))
    name, country = company(rng), rng.choice(_COUNTRIES)
    if thing.of_company and "{thing}" in shape and rng.random() < 0.06:
        country = ""
    other = rng.choice([same for same in things() if same.sign != thing.sign and same.of_company == thing.of_company])
    first = rng.choice((1, -1))

    def sentence(thing: Thing, sign: int, state: random.Random) -> str:
        verb = state.choice([verb for verb in directions(sign) if verb.strength == strength]).of(thing, past)
        if amount and not any(
            word in verb for word in ("is ", "double", "triple", "halve", "record", "wiped", "vanish", "pace")
        ):
            verb += amount
        text = shape.format(
            n="{n}", thing=thing.phrase, bare=thing.phrase.removeprefix("the ").removeprefix("its "),
            verb=verb, noun=state.choice(_NOUNS[sign]), transitive=state.choice(_TRANSITIVE[sign]),
            extreme=state.choice(_EXTREMES[sign]), amount=percent_text, country=country,
            be="are" if thing.plural else "is", higher="higher" if sign > 0 else "lower",
            more=("more" if sign > 0 else "fewer") if thing.plural else ("more" if sign > 0 else "less"),
            goods="{goods}",
        )  # fmt: skip
        return f"{text} {where}" if where else text

    percent_text = percent(rng)
    seed = rng.random()
    if rng.random() < 0.75:
        drafts = [(thing.sign * sign, sentence(thing, sign, random.Random(seed))) for sign in (first, -first)]
    else:
        drafts = [(each.sign * first, sentence(each, first, random.Random(seed))) for each in (thing, other)]
    texts = fill(rng, [" ".join(text.split()) for _, text in drafts], n=name)
    return [(sign, text) for (sign, _), text in zip(drafts, texts, strict=True)]


_COMPANY_SHAPES = section("clauses", "company_shapes")
_ECONOMY_SHAPES = section("clauses", "economy_shapes")

#: Less or more than expected. {verb} moves the thing; {less} is how the comparison is put.
_LESS = section("clauses", "less")
_MORE = section("clauses", "more")
_COMPARISONS = {True: section("clauses", "company_comparisons"), False: section("clauses", "economy_comparisons")}
#: How large a rise or fall was: the smaller first.
_SIZES = pairs("clauses", "sizes")
_SIZE_THAN = section("clauses", "size_than")
_SIZE_SHAPES = {True: section("clauses", "company_size_shapes"), False: section("clauses", "economy_size_shapes")}
#: Where a thing now stands: the lower first.
_LEVELS = pairs("clauses", "levels")
_LEVEL_THAN = section("clauses", "level_than")
_LEVEL_NOUNS = section("clauses", "level_nouns")
_LEVEL_SHAPES = {True: section("clauses", "company_level_shapes"), False: section("clauses", "economy_level_shapes")}


def against_expectation(rng: random.Random) -> Group:
    """Return a pair: a thing moves less and more than expected. Only the comparison counts."""
    thing = rng.choice(things())
    sign = rng.choice((1, -1))
    verb = rng.choice([verb for verb in directions(sign) if verb.strength == 2]).of(thing, rng.random() < 0.3)
    bare = thing.phrase.removeprefix("the ")
    draw = rng.random()
    country = rng.choice(_COUNTRIES) + " " if not thing.of_company else ""
    at = rng.choice((" at {n}", " at {n}", "")) if thing.of_company else ""
    if draw < 0.45:
        index = rng.randrange(len(_LESS))
        shape = rng.choice(_COMPARISONS[thing.of_company])
        pair = [
            shape.format(country=country, bare=bare, verb=verb, less=less[index], at=at, n="{n}")
            for less in (_LESS, _MORE)
        ]
        signs = [-thing.sign * sign, thing.sign * sign]
    elif draw < 0.7:
        noun = rng.choice(_NOUNS[sign])
        smaller, larger = rng.choice(_SIZES)
        than = rng.choice(_SIZE_THAN)
        shape = rng.choice(_SIZE_SHAPES[thing.of_company])
        pair = [
            shape.format(size=size, than=than, noun=noun, country=country, bare=bare, at=at, n="{n}")
            for size in (smaller, larger)
        ]
        signs = [-thing.sign * sign, thing.sign * sign]
    else:
        than = rng.choice(_LEVEL_THAN)
        be = "are" if thing.plural else "is"
        low, high = rng.choice(_LEVELS)
        glue = " " if low in ("below", "undershoots", "comes in below") else " than "
        link = "" if low in ("undershoots", "comes in below") else f"{be} "
        if thing.plural:
            low, high = (word.replace("shoots", "shoot").replace("comes", "come") for word in (low, high))
        if glue == " " and than not in ("estimates", "the consensus"):  # a noun is needed
            than = rng.choice(_LEVEL_NOUNS)
        shape = rng.choice(_LEVEL_SHAPES[thing.of_company])
        pair = [
            shape.format(size=size, than=than, glue=glue, link=link, country=country, bare=bare, at=at, n="{n}")
            for size in (low, high)
        ]
        signs = [-thing.sign, thing.sign]
    return list(zip(signs, fill(rng, [" ".join(text.split()) for text in pair]), strict=True))


_BEATS = pairs("clauses", "beats")
_BEATEN = section("clauses", "beaten")


def beats(rng: random.Random) -> Group:
    """Return a pair in ready words: better and worse than expected."""
    good, bad = rng.choice(_BEATS)
    x = rng.choice(_BEATEN)
    return list(zip((1, -1), fill(rng, [good, bad], x=x, c=f"$0.{rng.randint(1, 40):02d}"), strict=True))


_BAD_AVERTED = section("clauses", "bad_averted")
_BAD_REAL = section("clauses", "bad_real")
_GOOD_REAL = section("clauses", "good_real")
_GOOD_DENIED = section("clauses", "good_denied")


def facts_denied(rng: random.Random) -> Group:
    """Return a pair: something bad, or good, that happens to a company and that does not."""
    sign = rng.choice((1, -1))
    fact = rng.choice(facts(sign))
    bare = fact.removeprefix("a ").removeprefix("an ")
    real, denied = (_GOOD_REAL, _GOOD_DENIED) if sign > 0 else (_BAD_REAL, _BAD_AVERTED)
    shapes = [rng.choice(real), rng.choice(denied)]
    texts = fill(rng, [shape.replace("{f}", fact).replace("{b}", bare).replace("{s}", bare) for shape in shapes])
    return list(zip((sign, -sign), texts, strict=True))


_CAN = section("clauses", "can")
_CANNOT = section("clauses", "cannot")
_MUST = section("clauses", "must")
_NEED_NOT = section("clauses", "need_not")


def abilities(rng: random.Random) -> Group:
    """Return a pair: a company that can or cannot do something good, or must or need not do something bad."""
    sign = rng.choice((1, -1))
    verb = rng.choice(verb_phrases(sign))
    shapes = [rng.choice(_CAN), rng.choice(_CANNOT)] if sign > 0 else [rng.choice(_NEED_NOT), rng.choice(_MUST)]
    return list(zip((1, -1), fill(rng, [shape.replace("{v}", verb) for shape in shapes]), strict=True))


def clause(rng: random.Random, sign: int) -> str:
    """Return a short clause about a company, good or bad for its holders."""
    draw = rng.random()
    if draw < 0.6:
        thing = rng.choice([thing for thing in things() if thing.of_company and len(thing.phrase) < 22])
        verb = rng.choice([verb for verb in directions(sign * thing.sign) if verb.strength != 1]).of(thing, False)
        return f"{thing.phrase.removeprefix('the ').removeprefix('its ')} {verb}"
    if draw < 0.8:
        return rng.choice({1: _SHORT_GOOD, -1: _SHORT_BAD}[sign])
    fact = rng.choice(facts(sign))
    return f"{'hopes' if sign > 0 else 'fears'} of {fact} grow"


_SHORT_GOOD = section("clauses", "short_good")
_SHORT_BAD = section("clauses", "short_bad")
_OUTLOOK_GOOD = section("clauses", "outlook_good")
_OUTLOOK_BAD = section("clauses", "outlook_bad")
_OUTLOOK_CONCESSIONS = section("clauses", "outlook_concessions")
_SHARE_MOVES = pairs("clauses", "share_moves")
_SHARE_CONCESSIONS = section("clauses", "share_concessions")
_CONCEDED_GOOD = section("clauses", "conceded_good")
_CONCEDED_BAD = section("clauses", "conceded_bad")
_NOUN_CONCESSIONS = section("clauses", "noun_concessions")
_READY_CONCESSIONS = pairs("clauses", "ready_concessions")


def concessions(rng: random.Random) -> Group:
    """Return a pair: a main clause and a concession, exchanged. The main clause, or the future, counts."""
    name = company(rng)
    draw = rng.random()
    if draw < 0.4:
        good, bad = clause(rng, 1), clause(rng, -1)
        future_good, future_bad = rng.choice(_OUTLOOK_GOOD), rng.choice(_OUTLOOK_BAD)
        shape = rng.choice(_OUTLOOK_CONCESSIONS)
        drafts = [
            (1, shape.replace("{past}", bad).replace("{future}", future_good)),
            (-1, shape.replace("{past}", good).replace("{future}", future_bad)),
        ]
    elif draw < 0.6:
        good, bad = clause(rng, 1), clause(rng, -1)
        up, down = rng.choice(_SHARE_MOVES)
        shape = rng.choice(_SHARE_CONCESSIONS)
        drafts = [
            (1, shape.replace("{past}", bad).replace("{move}", up)),
            (-1, shape.replace("{past}", good).replace("{move}", down)),
        ]
    elif draw < 0.8:
        noun_good = rng.choice(_CONCEDED_GOOD)
        noun_bad = rng.choice(_CONCEDED_BAD)
        good, bad = clause(rng, 1), clause(rng, -1)
        good, bad = (rng.choice(_OUTLOOK_GOOD), rng.choice(_OUTLOOK_BAD)) if rng.random() < 0.5 else (good, bad)
        shape = rng.choice(_NOUN_CONCESSIONS)
        if shape.startswith("for all"):
            noun_good, noun_bad = (noun.removeprefix("a ").removeprefix("an ") for noun in (noun_good, noun_bad))
        drafts = [
            (1, shape.replace("{past}", noun_bad).replace("{main}", good)),
            (-1, shape.replace("{past}", noun_good).replace("{main}", bad)),
        ]
    else:
        drafts = list(zip((1, -1), rng.choice(_READY_CONCESSIONS), strict=True))
    texts = fill(rng, [text for _, text in drafts], n=name)
    return [(sign, text) for (sign, _), text in zip(drafts, texts, strict=True)]


_SCOPE_PAIRS = pairs("clauses", "scope_pairs")


def scopes(rng: random.Random) -> Group:
    """Return a pair whose label turns on what a negation covers."""
    good, bad = rng.choice(_SCOPE_PAIRS)
    bad_fact, good_fact = rng.choice(facts(-1)), rng.choice(facts(1))
    values = {"B": bad_fact, "G": good_fact, "b": bad_fact, "g0": good_fact}
    for key in ("b", "g0"):
        values[key] = values[key].removeprefix("a ").removeprefix("an ")
    return list(zip((1, -1), fill(rng, [good, bad], **values), strict=True))
