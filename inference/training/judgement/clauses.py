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
_COUNTRIES = (
    "US",
    "German",
    "UK",
    "Chinese",
    "Japanese",
    "Indian",
    "euro zone",
    "French",
    "Spanish",
    "Canadian",
    "Brazilian",
    "Italian",
    "Australian",
    "Korean",
    "Turkish",
    "",
)


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
        shape = rng.choice(
            (
                "{country}{bare} {verb} {less}{at}",
                "{n}'s {bare} {verb} {less}" if thing.of_company else "{country}{bare} {verb} {less}",
                "{country}{bare} {verb} {less}, data show" if not thing.of_company else "{n} says {bare} {verb} {less}",
            )
        )
        pair = [
            shape.format(country=country, bare=bare, verb=verb, less=less[index], at=at, n="{n}")
            for less in (_LESS, _MORE)
        ]
        signs = [-thing.sign * sign, thing.sign * sign]
    elif draw < 0.7:
        noun = rng.choice(_NOUNS[sign])
        smaller, larger = rng.choice(
            (
                ("smaller", "bigger"),
                ("smaller", "larger"),
                ("milder", "sharper"),
                ("weaker", "stronger"),
                ("slower", "faster"),
                ("lighter", "heavier"),
            )
        )
        than = rng.choice(("expected", "forecast", "feared", "predicted", "anticipated"))
        shape = rng.choice(
            (
                "{size}-than-{than} {noun} in {country}{bare}{at}",
                "{country}{bare}: {noun} {size} than {than}{at}",
                "{noun} in {country}{bare} {size} than {than}{at}",
                "{n} reports {size} than {than} {noun} in {bare}"
                if thing.of_company
                else "{noun} in {country}{bare} was {size} than {than}",
            )
        )
        pair = [
            shape.format(size=size, than=than, noun=noun, country=country, bare=bare, at=at, n="{n}")
            for size in (smaller, larger)
        ]
        signs = [-thing.sign * sign, thing.sign * sign]
    else:
        than = rng.choice(
            (
                "expected",
                "forecast",
                "analysts expected",
                "estimates",
                "the consensus",
                "predicted",
                "economists had forecast",
                "Wall Street expected",
                "feared",
                "hoped",
            )
        )
        be = "are" if thing.plural else "is"
        low, high = rng.choice(
            (
                ("lower", "higher"),
                ("below", "above"),
                ("less", "more"),
                ("smaller", "bigger"),
                ("undershoots", "overshoots"),
                ("comes in below", "comes in above"),
            )
        )
        glue = " " if low in ("below", "undershoots", "comes in below") else " than "
        link = "" if low in ("undershoots", "comes in below") else f"{be} "
        if thing.plural:
            low, high = (word.replace("shoots", "shoot").replace("comes", "come") for word in (low, high))
        if glue == " " and than in (
            "expected",
            "forecast",
            "predicted",
            "feared",
            "hoped",
            "analysts expected",
            "economists had forecast",
            "Wall Street expected",
        ):
            than = rng.choice(("forecasts", "expectations", "consensus", "estimates", "what analysts expected"))
        shape = rng.choice(
            (
                "{country}{bare}{at} {link}{size}{glue}{than}",
                "{n}: {bare} {link}{size}{glue}{than}"
                if thing.of_company
                else "{country}{bare} {link}{size}{glue}{than}",
            )
        )
        pair = [
            shape.format(size=size, than=than, glue=glue, link=link, country=country, bare=bare, at=at, n="{n}")
            for size in (low, high)
        ]
        signs = [-thing.sign, thing.sign]
    return list(zip(signs, fill(rng, [" ".join(text.split()) for text in pair]), strict=True))


_BEATS = pairs("clauses", "beats")


def beats(rng: random.Random) -> Group:
    """Return a pair in ready words: better and worse than expected."""
    good, bad = rng.choice(_BEATS)
    x = rng.choice(("profit", "sales", "revenue", "earnings", "margin", "subscriber", "order", "cash flow", "growth"))
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


def concessions(rng: random.Random) -> Group:
    """Return a pair: a main clause and a concession, exchanged. The main clause, or the future, counts."""
    name = company(rng)
    draw = rng.random()
    if draw < 0.4:
        good, bad = clause(rng, 1), clause(rng, -1)
        future_good, future_bad = rng.choice(_OUTLOOK_GOOD), rng.choice(_OUTLOOK_BAD)
        shape = rng.choice(
            (
                "{n} {future} even as {past}",
                "{past} but {n} {future}",
                "{n}: {past}, but {future}",
                "although {past}, {n} {future}",
                "{past} at {n}, yet the company {future}",
                "{n} {future} despite news that {past}",
                "{n} {past}, {future}",
                "{past}; {n} {future}",
                "{n} {future} though {past}",
                "{n} {future} after {past}",
                "while {past}, {n} {future}",
                "{past}, however {n} {future}",
            )
        )
        drafts = [
            (1, shape.replace("{past}", bad).replace("{future}", future_good)),
            (-1, shape.replace("{past}", good).replace("{future}", future_bad)),
        ]
    elif draw < 0.6:
        good, bad = clause(rng, 1), clause(rng, -1)
        up, down = rng.choice(
            (
                ("shares rise", "shares fall"),
                ("stock jumps", "stock drops"),
                ("shares gain", "shares slide"),
                ("stock climbs", "stock sinks"),
                ("shares rally", "shares tumble"),
            )
        )
        shape = rng.choice(
            (
                "{n} {move} even as {past}",
                "{n} {move} although {past}",
                "{past} but {n} {move}",
                "{n} {move} even though {past}",
                "{past}, yet {n} {move}",
            )
        )
        drafts = [
            (1, shape.replace("{past}", bad).replace("{move}", up)),
            (-1, shape.replace("{past}", good).replace("{move}", down)),
        ]
    elif draw < 0.8:
        noun_good = rng.choice(
            (
                "record sales",
                "higher profit",
                "strong demand",
                "a sales jump",
                "a good quarter",
                "rising orders",
                "cost cuts",
                "a big contract",
                "an earnings beat",
                "strong growth",
                "a tax cut",
            )
        )
        noun_bad = rng.choice(
            (
                "weak sales",
                "lower profit",
                "soft demand",
                "a sales slump",
                "a poor quarter",
                "falling orders",
                "rising costs",
                "a lost contract",
                "an earnings miss",
                "slow growth",
                "a tax rise",
            )
        )
        good, bad = clause(rng, 1), clause(rng, -1)
        good, bad = (rng.choice(_OUTLOOK_GOOD), rng.choice(_OUTLOOK_BAD)) if rng.random() < 0.5 else (good, bad)
        shape = rng.choice(
            (
                "despite {past}, {n} {main}",
                "{n} {main} despite {past}",
                "{n} {main} in spite of {past}",
                "{past} notwithstanding, {n} {main}",
                "for all its {past}, {n} {main}",
            )
        )
        if shape.startswith("for all"):
            noun_good, noun_bad = (noun.removeprefix("a ").removeprefix("an ") for noun in (noun_good, noun_bad))
        drafts = [
            (1, shape.replace("{past}", noun_bad).replace("{main}", good)),
            (-1, shape.replace("{past}", noun_good).replace("{main}", bad)),
        ]
    else:
        drafts = list(
            zip(
                (1, -1),
                rng.choice(
                    (
                        ("{n} misses estimates but raises outlook", "{n} beats estimates but cuts outlook"),
                        ("{n} shrugs off weak quarter, lifts forecast", "{n} spoils strong quarter with weak forecast"),
                        ("weak quarter, bright outlook at {n}", "strong quarter, dim outlook at {n}"),
                        (
                            "{n} rises as upbeat outlook outweighs earnings miss",
                            "{n} falls as downbeat outlook outweighs earnings beat",
                        ),
                        ("{n} revenue light, but guidance well above", "{n} revenue strong, but guidance well below"),
                        (
                            "first half was poor, {n} sees much better second",
                            "first half was good, {n} sees much worse second",
                        ),
                        ("{n} EPS misses, raises FY view", "{n} EPS beats, lowers FY view"),
                        ("not enough bad news to dent {n}'s outlook", "not enough good news to rescue {n}'s outlook"),
                        ("{n} keeps targets despite {m} charge", "{n} drops targets despite {m} gain"),
                    )
                ),
                strict=True,
            )
        )
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
