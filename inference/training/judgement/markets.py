"""Turning points, rivals, inputs and their users, analysts, and the economy."""

from __future__ import annotations

import random

from earlybell.inference.training.judgement.clauses import clause, verb_phrases
from earlybell.inference.training.judgement.figures import Group
from earlybell.inference.training.judgement.lexicon import lines, pairs, section
from earlybell.inference.training.judgement.words import fill

_ASSETS = section("markets", "assets")
_TURNS = pairs("markets", "turns")
_COMPANY_TURNS = pairs("markets", "company_turns")


def turns(rng: random.Random) -> Group:
    """Return a pair about what ends and what begins."""
    good, bad = rng.choice(_TURNS if rng.random() < 0.6 else _COMPANY_TURNS)
    asset = rng.choice(_ASSETS)
    x = rng.choice(("sales", "orders", "profits", "margins", "volumes", "bookings", "deliveries", "prices"))
    group = list(zip((1, -1), fill(rng, [good, bad], a=asset, x=x), strict=True))
    if (
        "{a}" in good and asset.endswith(("shares", "stocks", "markets", "Treasuries", "caps", "futures", "miners"))
    ) or ("{a}" in good and asset.startswith("shares")):
        group = [(sign, _plural(text)) for sign, text in group]
    return group


_SINGULARS = frozenset(section("markets", "singular verbs"))


def _plural(text: str) -> str:
    return " ".join(_verb_plural(word) if word in _SINGULARS else word for word in text.split(" "))


_RIVAL_PAIRS = pairs("markets", "rival_pairs")
_RIVAL = ("rival", "competitor", "archrival", "bigger rival", "main competitor", "smaller rival")


def rivals(rng: random.Random) -> Group:
    """Return a pair: what is bad for a rival is good for the company, and the reverse."""
    if rng.random() < 0.7:
        good, bad = rng.choice(_RIVAL_PAIRS)
        return list(zip((1, -1), fill(rng, [good, bad]), strict=True))
    word = rng.choice(_RIVAL)
    shape = rng.choice(
        (
            "{n} {move} as {rival} {r} {event}",
            "{n} {move} after {rival} {event}",
            "{n} {move} when {rival} {r} {event}",
            "{rival} {event}, {n} {move}",
        )
    )
    ups = rng.choice(("gains", "rises", "benefits", "jumps", "profits", "rallies"))
    downs = rng.choice(("drops", "falls", "suffers", "slides", "slips", "tumbles"))
    bad_events = (
        "recalls {g}",
        "halts production",
        "cuts outlook",
        "loses licence",
        "files for bankruptcy",
        "closes {pl} plant",
        "delays launch of {g}",
        "fails in trial",
        "hit by strike",
        "raises prices",
    )
    good_events = (
        "launches cheaper {g}",
        "slashes prices",
        "wins {m} contract",
        "gets FDA approval",
        "expands into {pl}",
        "cuts its fees to zero",
        "unveils better {g}",
        "opens {k2} stores nearby",
        "raises {m}",
        "gets state aid",
    )
    texts = [
        shape.replace("{move}", move).replace("{event}", rng.choice(events)).replace("{rival}", word)
        for move, events in ((ups, bad_events), (downs, good_events))
    ]
    return list(zip((1, -1), fill(rng, texts), strict=True))


_RISES = section("markets", "rises")
_FALLS = section("markets", "falls")


def inputs(rng: random.Random) -> Group:
    """Return a pair: a price moves up and down, for who pays it or for who earns it."""
    what, users, producers = (part.strip() for part in rng.choice(lines("commodities")).split("|"))
    pays = rng.random() < 0.6
    who = rng.choice([name.strip() for name in (users if pays else producers).split(";")])
    price = (
        f"{what} prices"
        if what
        in (
            "chip",
            "memory chip",
            "power",
            "electricity",
            "freight",
            "wage",
            "steel",
            "paper",
            "milk",
            "feed",
            "diesel",
            "lumber",
            "cement",
            "natural gas",
            "jet fuel",
            "plastic resin",
            "palm oil",
        )
        or rng.random() < 0.4
        else what
    )
    price = price.replace("wage prices", "wages").replace(
        "freight prices", rng.choice(("freight rates", "freight prices"))
    )
    singular = not price.endswith(("prices", "rates", "wages"))
    singular_who = "{n}" in who
    shape = rng.choice(
        (
            "{who} {gain} as {what} {move}",
            "{who} {gain} as {what} {move}",
            "{what} {move}, {who} {gain}",
            "{who} {gain} after {what} {move}",
            "{adjective} {what} {helps} {who}",
            "{adjective} {what} {helps} {who}",
            "{who} {feel} {adjective} {what}",
            "{adjective} {what} set to {help} {who}",
            "{who} {feel} as {what} {move}",
            "{what} {move}, {helping} {who}",
            "{adjective} {what} {helps} margins at {who}",
        )
    )
    drafts = []
    seed = rng.random()
    for rises in (True, False):
        state = random.Random(seed)
        good = rises != pays
        move = state.choice(_RISES if rises else _FALLS)
        gain = state.choice(
            ("gain", "rise", "rally", "climb", "jump", "soar", "advance", "cheer")
            if good
            else ("fall", "drop", "slide", "sink", "tumble", "slump", "retreat", "suffer")
        )
        verb = state.choice(
            ("help", "boost", "lift", "cheer", "buoy", "support")
            if good
            else ("hurt", "squeeze", "hit", "weigh on", "dent", "pressure")
        )
        feel = (
            state.choice(
                ("benefit from", "profit from", "welcome")
                if good
                else ("suffer from", "struggle with", "are squeezed by")
            )
            if "{feel} {adj" in shape
            else state.choice(
                ("breathe easier", "get relief", "see margins widen")
                if good
                else ("feel the pinch", "are squeezed", "see margins shrink")
            )
        )
        adjective = state.choice(
            ("higher", "rising", "dearer", "soaring", "record", "surging")
            if rises
            else ("lower", "falling", "cheaper", "tumbling", "sliding", "weaker")
        )
        if not singular:
            move = _verb_plural(move)
        if singular_who:
            gain, feel = _verb_singular(gain), _verb_singular(feel)
        text = shape.format(
            who=who,
            what=price,
            move=move,
            gain=gain,
            adjective=adjective,
            help=verb,
            helps=_verb_singular(verb) if singular else verb,
            helping={
                "help": "helping",
                "boost": "boosting",
                "lift": "lifting",
                "cheer": "cheering",
                "buoy": "buoying",
                "support": "supporting",
                "hurt": "hurting",
                "squeeze": "squeezing",
                "hit": "hitting",
                "weigh on": "weighing on",
                "dent": "denting",
                "pressure": "pressuring",
            }[verb],
            feel=feel,
        )
        drafts.append((1 if good else -1, text))
    texts = fill(rng, [text for _, text in drafts])
    return [(sign, text) for (sign, _), text in zip(drafts, texts, strict=True)]


def _verb_plural(verb: str) -> str:
    first, _, rest = verb.partition(" ")
    plural = {"rallies": "rally", "leaps": "leap"}.get(first, first[:-1])
    return f"{plural} {rest}".strip()


def _verb_singular(verb: str) -> str:
    first, _, rest = verb.partition(" ")
    singular = {"rally": "rallies", "are": "is"}.get(first, first + ("es" if first.endswith(("sh", "ch")) else "s"))
    return f"{singular} {rest}".strip()


_CURRENCY = pairs("markets", "currency")

_ANALYST_PAIRS = pairs("markets", "analyst_pairs")
_ANALYST_NEUTRAL = section("markets", "analyst_neutral")


def analysts(rng: random.Random) -> Group:
    """Return a pair of opposite views, or a neutral one."""
    low = rng.randint(3, 400)
    values = {
        "a": str(low),
        "b": str(low + max(1, round(low * rng.uniform(0.03, 0.5)))),
        "a0": str(low * 5),
        "b0": str(low * 5),
    }
    if rng.random() < 0.2:
        return [(0, fill(rng, [rng.choice(_ANALYST_NEUTRAL)], **values)[0])]
    good, bad = rng.choice(_ANALYST_PAIRS)
    return list(zip((1, -1), fill(rng, [good, bad], **values), strict=True))


_ECONOMY_PAIRS = pairs("markets", "economy_pairs")


def economy(rng: random.Random) -> Group:
    """Return a pair about markets, central banks and the economy."""
    good, bad = rng.choice(_ECONOMY_PAIRS if rng.random() < 0.75 else _CURRENCY)
    values = {
        "f": rng.choice(("inflation", "trade dispute", "energy crisis")),
        "cur": rng.choice(("yen", "euro", "pound", "dollar", "won", "franc", "rupee")),
    }
    return list(zip((1, -1), fill(rng, [good, bad], **values), strict=True))


def reasons(rng: random.Random) -> Group:
    """Return a pair: a move of the shares with a clause that explains it."""
    good, bad = clause(rng, 1), clause(rng, -1)
    shape = rng.choice(
        (
            "{n} shares {move} as {why}",
            "{n} {move} after {why}",
            "{why}, sending {n} {way}",
            "{n} {move} on news {why}",
            "{n} {move}: {why}",
            "{why}: {n} {move}",
            "{n} to {v} as {why}",
        )
    )
    drafts = []
    for why, move, way, verb in (
        (good, rng.choice(("rise", "jump", "climb", "soar")), "higher", rng.choice(verb_phrases(1))),
        (bad, rng.choice(("fall", "drop", "slide", "sink")), "lower", rng.choice(verb_phrases(-1))),
    ):
        agreeing = move if "shares" in shape else f"{move}s"
        drafts.append(
            shape.replace("{why}", why).replace("{move}", agreeing).replace("{way}", way).replace("{v}", verb)
        )
    return list(zip((1, -1), fill(rng, drafts), strict=True))
