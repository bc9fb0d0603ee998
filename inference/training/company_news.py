"""Generated company announcements, labelled by what happened to the company. Our own, so free to train on and ship.

A model trained on tweets and market headlines calls formal news ("Operating profit totalled EUR 3.1 mn, compared with
EUR 4.4 mn a year earlier") neutral. These sentences are assembled from parts written for this project, about companies
that do not exist. How well they generalise is measured on handwritten sentences with other wording
(``tests/inference/training/company_news.jsonl``), none of which is trained on.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from earlybell.inference.training.data import Example

_NAMES = ("Aldvik", "Borealis Tools", "Cedarmark", "Dunhaven", "Elmira Foods", "Fjordline Paper", "Granholm", "Harvik",
          "Isoteq", "Jarnberg Steel", "Kestrel Systems", "Lumivo", "Marlowe Shipping", "Norrvind", "Ostrava Cement",
          "Pellworth", "Quarto Media", "Rautio", "Silvan Timber", "Tervonia", "Ulvsund", "Valmere", "Westrand",
          "Ylvaniemi", "Zephyr Lifts", "Orvo Telecom", "Hallgate Brewing", "Metsola Machines")  # fmt: skip
_FORMS = ("", "", " Oyj", " Corp", " plc", " AB", " Group", " Inc", " ASA")
_KINDS = ("Finnish", "Swedish", "Norwegian", "Danish", "British", "US", "German", "Nordic", "listed")
_TRADES = ("paper maker", "software company", "elevator manufacturer", "retailer", "shipping line", "steel producer",
           "food group", "telecoms operator", "engineering firm", "media group", "brewer", "construction company",
           "bank", "packaging maker", "electronics supplier")  # fmt: skip
_GOOD_WHEN_HIGH = ("Operating profit", "Net sales", "Net profit", "Revenue", "Turnover", "Pre-tax profit", "EBIT",
                   "EBITDA", "Earnings per share", "The order book", "Order intake", "Profit before taxes", "Sales",
                   "Cash flow from operations", "Net interest income", "The operating margin",
                   "Comparable sales", "Passenger numbers", "Deliveries", "Profit for the period")  # fmt: skip
_BAD_WHEN_HIGH = ("The operating loss", "The net loss", "The pre-tax loss", "Net debt", "Credit losses",
                  "Raw material costs", "The loss per share", "Loan losses", "Restructuring costs")  # fmt: skip
_UP = ("rose", "increased", "grew", "climbed", "went up", "advanced", "jumped", "was up")
_DOWN = ("fell", "decreased", "declined", "dropped", "slipped", "went down", "sank", "was down")
_WIDER = ("widened", "grew", "increased", "deepened", "rose")
_NARROWER = ("narrowed", "shrank", "decreased", "was reduced", "fell")
_PERIODS = ("in the first quarter", "in the second quarter of 2019", "in the third quarter", "in the fourth quarter",
            "in January-September", "in the first half of the year", "in 2016", "for the full year",
            "in the review period", "in the nine months to September")  # fmt: skip
_BEFORE = ("a year earlier", "in the corresponding period of the previous year", "in the year-ago period",
           "in the same period last year", "the year before", "a year ago")  # fmt: skip

_POSITIVE = (
    "{name} has won an order worth {money} from a customer in {place}.",
    "{name} has signed a {years}-year contract to supply {goods} to {place}; it is valued at {money}.",
    "{name} has been awarded a contract for {goods} in {place}, worth some {money}.",
    "{name} raised its full-year guidance after a strong quarter.",
    "{name} upgraded its outlook and now expects its operating profit to exceed last year's clearly.",
    "The board of {name} proposes to raise the dividend to {amount} per share.",
    "{name} strengthened its position in {place} and gained market share.",
    "{name} received approval to sell its {goods} in {place}, ahead of plan.",
    "{name} expects the agreement to bring annual savings of {money}.",
    "{name} swung to a profit of {money} from a loss {before}.",
    "Demand for {goods} has picked up, said the chief executive of {name}, and the order book is at a record.",
    "{name} will expand its plant in {place} to meet growing demand, creating {count} jobs.",
    "{name}'s result beat analysts' expectations.",
    "The new {goods} enable customers of {name} to cut costs considerably and to work faster.",
    "{name} delivers {goods} to {place} under an agreement signed today; the order will be booked this quarter.",
    "A customer in {place} has chosen {name} as its main supplier of {goods}.",
    "{name} and a customer in {place} have extended their cooperation on {goods} by {years} years.",
    "{name} sold its idle property in {place} and books a capital gain of {money}.",
    "{name} will buy back its own shares for up to {money}.",
    "{name} pays a special dividend of {amount} per share on top of the ordinary one.",
    "A rating agency improved its view of {name} to positive from stable.",
    "{name} won its dispute over {goods}; the claim of {money} against it was rejected.",
    "Sales of {goods} in {place} doubled, and {name} hires {count} people.",
    "{name} repaid debt of {money} ahead of schedule, which lowers its interest costs.",
    "{name} returns to profit after years of losses in {place}.",
    "The efficiency programme of {name} yields savings of {money}, more than was planned.",
    "{name} has been granted a patent for its {goods} in {place}.",
    "{name} forecasts that its net sales will grow and its profitability improve this year.",
    "{name} sees clear growth in {place} and adds a second production line for {goods}.",
    "With its {goods}, {name} has become the market leader in {place}.",
    "Analysts lifted their recommendation on {name} to buy.",
    "{name} carried {percent} more goods than a year ago and its vessels sail nearly full.",
    "The acquisition strengthens {name} in {place} and will add to earnings per share at once.",
    "Capacity utilisation at {name} rose and unit costs fell.",
    "{name} reports its best quarter ever.",
    "A settlement releases {name} from a claim of {money}.",
)
_NEGATIVE = (
    "{name} issued a profit warning and cut its guidance for the year.",
    "{name} will lay off {count} employees and close its plant in {place}.",
    "{name} is to begin negotiations with staff on reductions that affect {count} people.",
    "{name} lowered its outlook because of weak demand for {goods}.",
    "The board of {name} proposes that no dividend be paid.",
    "{name} booked a write-down of {money} on its business in {place}.",
    "{name} has lost a contract for {goods} worth {money}.",
    "{name} recalls {goods} after faults were found, and expects costs of {money}.",
    "{name} swung to a loss of {money} from a profit {before}.",
    "{name} is being investigated by the authorities in {place} over its pricing.",
    "{name}'s result fell short of analysts' expectations.",
    "Deliveries of {goods} are delayed, which will weigh on the result of {name}.",
    "{name} temporarily halts production in {place}, as orders have dried up.",
    "{name} filed for bankruptcy protection in {place}.",
    "A customer in {place} has withdrawn its order for {goods} from {name}.",
    "{name} was fined {money} by a court in {place}.",
    "{name} fails to reach an agreement with its lenders; its financing is at risk.",
    "{name} breaks the covenants of its loans after a weak year.",
    "A rating agency cut {name} to below investment grade.",
    "A rating agency changed its outlook on {name} to negative.",
    "An accident at the plant in {place} stops the output of {goods} at {name} for weeks.",
    "Strikes in {place} cost {name} {money} in lost sales.",
    "{name} pulls out of {place} after years of losses.",
    "Rising costs of raw materials squeezed the margins of {name}.",
    "{name} passes its dividend, as its cash is running low.",
    "{name} forecasts that its net sales will shrink and its profitability weaken this year.",
    "The regulator in {place} refused to approve the {goods} of {name}.",
    "Tests of new {goods} at {name} failed, and the project is given up.",
    "{name} carried {percent} less freight than a year ago.",
    "Competitors have taken market share from {name} in {place}.",
    "{name} makes provisions of {money} for doubtful receivables.",
    "Demand for {goods} has collapsed in {place}, says {name}.",
    "{name} puts {count} workers on short time.",
    "{name} reports its weakest quarter in ten years.",
    "Analysts lowered their recommendation on {name} to sell.",
    "The chief executive of {name} resigned after the accounts had to be corrected.",
    "A settlement in {place} costs {name} {money}.",
)
_NEUTRAL = (
    "{name} will publish its interim report on {day}.",
    "{name} has appointed a new chief financial officer, who takes up the post on {day}.",
    "The annual general meeting of {name} will be held on {day} in {place}.",
    "{name} makes {goods} and employs {count} people in {place}.",
    "The value of the deal was not disclosed.",
    "{name} is headquartered in {place} and its shares are listed there.",
    "{name} and its partner have agreed to study the market for {goods} in {place}.",
    "The company's share capital consists of {count} shares.",
    "{name} has transferred {count} of its own shares to the participants of its incentive plan.",
    "The plant in {place} will be built by {name} and is to be ready on {day}.",
    "{name} sells its {goods} through resellers in {place}.",
    "{name} has received a notification that a fund now holds {percent} of its shares.",
    "The transaction is subject to the approval of the authorities.",
    "{name}'s board has resolved on a new share issue programme for its key personnel.",
    "The acquisition concerns {goods} in {place}; the parties will not publish the price.",
    "{name} will move its head office to {place} on {day}.",
    "The prospectus of {name} is available on its website.",
    "{name} has {count} employees and operates in {place}, among other countries.",
    "The trading code of {name} changes on {day}.",
    "{name} presents its strategy at its capital markets day on {day}.",
    "The term of the loan is {years} years.",
    "The shop of {name} in {place} covers {count} square metres.",
    "{name} and its rivals take part in the trade fair in {place} on {day}.",
    "The chair of the board of {name} is stepping down as planned on {day}.",
    "{name} will start to report by region from {day} on.",
    "The {goods} business of {name} serves customers in {place}.",
    "{name} acquired own shares at an average price of {amount}.",
    "{name} has changed its name; the business continues as before.",
    "Negotiations between {name} and a partner in {place} go on.",
)
_PLACES = ("Estonia", "Brazil", "southern Sweden", "China", "the UK", "Poland", "Helsinki", "India", "Texas", "Norway",
           "Germany", "Latvia", "Chile", "the Netherlands", "Canada")  # fmt: skip
_GOODS = ("cranes", "paper machines", "mobile networks", "packaging board", "lifts", "dairy products", "software",
          "harvesters", "steel pipes", "tyres", "diagnostic tests", "office furniture", "engines", "sensors",
          "payment terminals")  # fmt: skip
_DAYS = ("3 February", "14 March", "28 April", "May 5", "17 June", "1 September", "October 24", "9 November")


def announcements(count: int, seed: int) -> list[Example]:
    """Return ``count`` announcements, a third per label, shuffled; the same seed gives the same list."""
    generator = random.Random(f"company-news:{seed}")
    makers: dict[str, Callable[[random.Random], str]] = {
        "positive": lambda rng: _figures(rng, better=True) if rng.random() < 0.6 else _event(rng, _POSITIVE),
        "negative": lambda rng: _figures(rng, better=False) if rng.random() < 0.6 else _event(rng, _NEGATIVE),
        "neutral": lambda rng: _bare_figure(rng) if rng.random() < 0.2 else _event(rng, _NEUTRAL),
    }
    labels = list(makers)
    examples = []
    for index in range(count):
        label = labels[index % 3]
        sentence = makers[label](generator)
        examples.append(Example(sentence[0].upper() + sentence[1:], label, "made"))
    generator.shuffle(examples)
    return examples


def _name(generator: random.Random) -> str:
    name = generator.choice(_NAMES) + generator.choice(_FORMS)
    if generator.random() < 0.25:
        return f"{generator.choice(_KINDS)} {generator.choice(_TRADES)} {name}"
    return name


def _event(generator: random.Random, sentences: tuple[str, ...]) -> str:
    return generator.choice(sentences).format(
        name=_name(generator),
        money=_money(generator, generator.uniform(1, 400)),
        amount=f"EUR {generator.uniform(0.1, 3):.2f}",
        place=generator.choice(_PLACES),
        goods=generator.choice(_GOODS),
        years=generator.choice(("two", "three", "five", "ten")),
        count=f"{generator.randint(12, 9000):,}",
        percent=f"{generator.uniform(3, 20):.2f} %",
        day=generator.choice(_DAYS),
        before=generator.choice(_BEFORE),
    )


def _money(generator: random.Random, millions: float) -> str:
    currency = generator.choice(("EUR", "EUR", "USD", "SEK", "GBP"))
    digits = f"{millions:.1f}" if millions < 100 else f"{millions:.0f}"
    return generator.choice((f"{currency} {digits} mn", f"{currency}{digits}m", f"{currency} {digits} million"))


def _bare_figure(generator: random.Random) -> str:
    """Return a figure with nothing to compare it to: neutral."""
    metric = generator.choice(("Net sales", "Revenue", "Turnover", "The number of employees"))
    if metric.startswith("The number"):
        return f"{metric} at {_name(generator)} was {generator.randint(40, 30_000):,} at the end of the year."
    return f"{metric} of {_name(generator)} {generator.choice(('totalled', 'were', 'amounted to'))} " + (
        f"{_money(generator, generator.uniform(5, 900))} {generator.choice(_PERIODS)}."
    )


def _figures(generator: random.Random, *, better: bool) -> str:
    """Return a figure that got better or worse: told by a verb, by two numbers alone, or by both."""
    bad_metric = generator.random() < 0.2
    metric = generator.choice(_BAD_WHEN_HIGH if bad_metric else _GOOD_WHEN_HIGH)
    rises = better != bad_metric
    before = generator.uniform(2, 600)
    change = generator.uniform(0.04, 0.6)
    after = before * (1 + change) if rises else before * (1 - change)
    currency = generator.choice(("EUR ", "EUR", "USD ", "SEK "))
    unit = generator.choice((" mn", " million", "m"))
    new, old = (f"{currency}{value:.1f}{unit}" for value in (after, before))
    verbs = (_WIDER if rises else _NARROWER) if bad_metric else (_UP if rises else _DOWN)
    verb, percent = generator.choice(verbs), f"{100 * change:.{generator.choice((0, 1))}f} %"
    period, earlier = generator.choice(_PERIODS), generator.choice(_BEFORE)
    inside = metric if metric[1].isupper() else metric[0].lower() + metric[1:]
    whose = f" of {_name(generator)}" if generator.random() < 0.6 else ""
    return generator.choice(
        (
            f"{metric}{whose} {verb} to {new} {period}, from {old} {earlier}.",
            f"{metric}{whose} {verb} by {percent} to {new} {period}.",
            f"{metric}{whose} totalled {new} {period}, compared with {old} {earlier}.",
            f"{metric}{whose} was {new}, {'up' if rises else 'down'} from {old} {earlier}.",
            f"{metric}{whose} {verb} {percent} {period}.",
            f"{metric}{whose} amounted to {new}, against {old} {earlier}.",
            f"{metric}{whose}: {new} ({old} {earlier}).",
            f"{metric}{whose} came to {new}; {earlier} it had been {old}.",
            f"{_name(generator)} reports {inside} of {new}, versus {old} {earlier}.",
            f"{period[0].upper()}{period[1:]}, {inside}{whose} {verb} to {new} from {old}.",
        )
    )
