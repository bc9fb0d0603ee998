"""Compare the figures of a headline with those that were expected, or with those of the period before.

A small encoder reads "1.31" as pieces of a number and cannot subtract. So the comparison is made here, by rules, and
its result is read with the text, in words that the model knows: "Q2 EPS $1.42 vs $1.31 expected" is read as if it ended
in "beats estimates". Where the rules are not certain, nothing is added. Part of a model: see `Config.figures`.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace

#: What is added, by the sign of the comparison.
WORDS = {
    1: ". Results beat expectations; shares surge",
    0: " in line with estimates",
    -1: ". Results miss expectations; shares plunge",
}
#: Characters that are looked at: a headline's.
LONGEST = 300

_SCALES = {
    "k": 1e3, "thousand": 1e3, "lakh": 1e5, "lakhs": 1e5, "m": 1e6, "mn": 1e6, "mln": 1e6, "mio": 1e6, "million": 1e6,
    "cr": 1e7, "crore": 1e7, "crores": 1e7, "b": 1e9, "bn": 1e9, "bln": 1e9, "billion": 1e9, "tn": 1e12,
    "trillion": 1e12,
}  # fmt: skip
_CENTS = {"c", "cents", "cent", "p", "pence"}
_PERCENT = {"%", "pct", "percent", "per cent"}
_CURRENCY = r"(?:(?:US|C|A|HK|S|NZ)?[$€£¥₹]|USD|EUR|GBP|SEK|DKK|NOK|CHF|JPY|CAD|AUD|INR|Rs\.?)"
_UNIT = (
    r"%|per ?cent\b|pct\b|cents?\b|pence\b|thousand\b|lakhs?\b|million\b|crores?\b|billion\b|trillion\b|"
    r"mln\b|mio\b|mn\b|bln\b|bn\b|tn\b|cr\b|[kmbcp]\b"
)
_VALUE = r"\d[\d,]*(?:\.\d+)?|\.\d+"
_AMOUNT = re.compile(
    rf"(?<![\w.&-])(?P<sign>[-−(]\s?|minus\s)?(?P<currency>{_CURRENCY})?\s?(?P<inner>[-−(]\s?)?(?P<value>{_VALUE})"
    rf"(?:\s?(?P<unit>{_UNIT}))?"
    # A range, as guidance is given.
    rf"(?:\s?[-–]\s?{_CURRENCY}?\s?(?P<value2>{_VALUE})(?:\s?(?P<unit2>{_UNIT}))?)?",
    re.IGNORECASE,
)
#: Without a unit or a currency only these are figures; others are quarters, days, ranks, names.
_PLAIN = re.compile(r"\d{1,3}(?:,\d{3})+|\d*\.\d+")
#: Two figures: few headlines have as many.
_TWO = re.compile(r"\d[\d.,]*[^\d.,]\D*\d")


def _words(pattern: str) -> re.Pattern[str]:
    """Compile alternatives, separated by white space or lines; a tilde is a space."""
    return re.compile(rf"\b(?:{'|'.join(pattern.split()).replace('~', ' ')})\b", re.IGNORECASE)


# What stands between two figures, or behind the second, if the first is held against it.
_EXPECTED = _words(
    r"""est ests exp estimates? estimated expect\w* consensus cons forecast\w* view street analysts? economists seen
    looked~for looking~for called~for polls? survey predicted projected projections? modell?ed guided whisper factset
    refinitiv zacks streetaccount feared pencilled~in investors markets?"""
)
_EARLIER = _words(
    r"""year[-~](?:ago|earlier|before) a~year~(?:ago|earlier|before) last~year prior prev previous(?:ly)? earlier
    preceding same~(?:quarter|period) year~before (?:quarter|month)~before last~(?:quarter|month) year~back
    start~of~(?:the~)?year yoy y/y"""
)
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_PERIOD = rf"(?:q[1-4]|h[12]|fy|{_MONTH}|\d{{1,2}} {_MONTH}|year-end)? ?(?:20\d\d)?"
_BARE_EARLIER = re.compile(rf"\s*\((?:loss|profit) of\s*[^\d]{{0,6}}|\W*after\W*|\s*\({_PERIOD}: ?", re.IGNORECASE)
#: "61,000 were expected; 118,000 were created": what was expected stands first.
_EXPECTED_FIRST = re.compile(
    r"\b(?:was|were|had been|called for|looked for) ?(?:expected|forecast|predicted|seen|estimated)?\s*[;,]",
    re.IGNORECASE,
)
#: Behind the first figure: it is a difference ("beats estimates by $0.09", "$20 million better than"), or the expected
#: one ("tops the $1.12 view with $1.20").
_DIFFERENCE = re.compile(
    r".*\bby\W*$|\s*(?:better|worse|short|shy|north|south)\b|.*(?<!compare )(?<!compare[sd] )(?<!line )\bwith\W*$",
    re.IGNORECASE,
)
_RANGE = re.compile(r"\brang(?:e[sd]?|ing) from\s*$", re.IGNORECASE)
_AGAINST = _words(
    r"vs v versus against compare[sd]?~(?:with|to) from than after~an? below above missing beating topping"
)
# What is measured: more of it is good, or bad.
_GOOD = _words(
    r"""eps earnings earn(?:ed|s) ma(?:de|kes) revenues? sales (?<!staff~)turnover profits? (?<!cost/)incomes? ebitd?a?
    ebit pat pbt nim fcf revpar nrr takings equity~ratio load~factor cet1 tier~1~ratio maus? daus? shipped employment
    openings like-for-likes? pumps produced wholesales throughput (?:operating|pretax)~result result~before~tax margins?
    dividends? deliver(?:y|ies|s|ed) orders? bookings subscribers? payrolls? pmi gdp growth production output nii ffo
    funds~from (?<!cost~)guidance outlook shipments? users backlog occupancy traffic cash~flow premiums assets deposits
    starts permits confidence sentiment exports comps? comparable net roe arr aum inflows jobs hiring additions adds
    surplus passengers? volumes? utili[sz]ation"""
)
_BAD = _words(
    r"""(?<!weight~)loss(?:es)? lost loses unemployment jobless claims inflation cpi ppi pce costs? expenses? debt churn
    defaults? delinquenc(?:y|ies) charge-offs? write-?(?:offs?|downs?) vacanc(?:y|ies) provisions? burn bad~loans? npas?
    deficits? outflows layoffs? impairments? npl combined~ratio bankruptcies foreclosures cancellations recalls leverage
    overrun staff~turnover cost~guidance (?:account|trade|budget|funding|pension)~gap aisc loan-to-value ltv complaints?
    borrowing stage~3~ratio redemptions opex gearing hicp ipca claimant~count"""
)
#: Of these words those that an estimate may repeat; another one begins a new figure.
_REPEATED = {"growth", "net", "earnings", "profit", "profits", "loss", "losses", "income", "eps", "output"}
#: What is compared is not how a company or an economy does.
_PRICE = _words(r"target price shares?~(?:at|to|trade|close) stock yield index points? bid offer")
_LOSS, _PROFIT = _words("loss"), _words("profit")
_UP = _words(
    r"""up rises? rose grew grows? climb(?:s|ed)? gain(?:s|ed)? increase[sd]? jump(?:s|ed)? growth advanced? higher
    surge[sd]?"""
)
_DOWN = _words(
    r"""down falls? fell drop(?:s|ped)? declin(?:e[sd]?) slip(?:s|ped)? decrease[sd]? shr[iau]nk\w* slid\w* lower
    contract(?:s|ed|ion) plunge[sd]? lost tumble[sd]? off"""
)
_LEVEL = re.compile(r"\b(?:to|at|of|from)\s*$", re.IGNORECASE)
_TO = re.compile(r"(?<!compared )(?<!compares )\bto\b", re.IGNORECASE)
_NEXT_SENTENCE = re.compile(r"(?<!est)(?<!exp)(?<!vs)(?<!prev)\. ", re.IGNORECASE)
_NEXT_CLAUSE = re.compile(r"[;.] |, (?!expected|est)")
_NOTHING = re.compile(r"(?:,? (?:a|per)(?: diluted)? share)?[\s,(:;]*(?:with |where )?", re.IGNORECASE)
#: Characters between the two figures, before the first and behind the second that may say what they are. Near ones need
#: fewer words that say that they are compared.
_GAP, _NEAR, _PREFIX, _BEHIND = 60, 25, 60, 45


@dataclass(frozen=True, slots=True)
class _Amount:
    start: int
    end: int
    value: float  # the middle of a range
    scale: float  # of the unit
    kind: str  # "percent", "cents" or "": money and counts
    plain: bool  # neither a unit nor a currency


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two figures that a headline compares, and the words around them."""

    now: _Amount
    other: _Amount
    prefix: str
    gap: str
    behind: str

    def sign(self) -> int | None:
        """Return the sign of the first against the second; None if it is not certain."""
        metrics = [(match.end(), 1) for match in _GOOD.finditer(self.prefix)]
        metrics += [(match.end(), -1) for match in _BAD.finditer(self.prefix)]
        repeated = {match[0].lower() for words in (_GOOD, _BAD) for match in words.finditer(self.gap)}
        if not metrics:  # "13% fall in sales"
            metrics = [(-match.start(), 1) for match in _GOOD.finditer(self.gap)]
            metrics += [(-match.start(), -1) for match in _BAD.finditer(self.gap)]
        elif repeated - _REPEATED:
            return None
        if not metrics or _PRICE.search(self.prefix + self.gap):
            return None
        better = max(metrics)[1]
        if self._changes_sides(better):
            return better if _PROFIT.search(self.prefix) or _LOSS.search(self.prefix) else None
        return self._difference(better)

    def _changes_sides(self, better: int) -> bool:
        """Whether one is a profit and the other a loss."""
        if better > 0:
            return bool(_LOSS.search(self.gap + self.behind))
        return bool(_PROFIT.search(self.gap) and not _LOSS.search(self.gap))

    def _difference(self, better: int) -> int | None:
        values = _aligned(self.now, self.other)
        if values is None:
            return None
        reported, known = values
        if self.now.kind == "percent" and not _LEVEL.search(self.prefix):
            moved = re.match(r"\s*\w+", self.gap)
            rest = self.gap[moved.end() :] if moved else self.gap
            direction = _direction(self.prefix, _direction(moved[0] if moved else "", 1))
            # A sign of its own says all.
            reported = reported * (direction if reported > 0 else 1)
            known = known * (_direction(rest, direction) if known > 0 else 1)
        if reported == known:
            return 0 if _EXPECTED.search(self.gap) or _EXPECTED.search(self.behind) else None
        return better if reported > known else -better


def compared(text: str) -> int | None:
    """Return 1, 0 or -1 if a figure is better than, as good as or worse than another; None if that is not certain."""
    text = text[:LONGEST]
    if not _TWO.search(text):
        return None
    amounts = _amounts(text)
    signs, since = set(), 0
    for index, (now, other) in enumerate(itertools.pairwise(amounts)):
        until = amounts[index + 2].start if index + 2 < len(amounts) else len(text)
        pair = _pair(text, since, now, other, until)
        signs.add(pair.sign() if pair else None)
        since = now.end
    signs.discard(None)
    return signs.pop() if len(signs) == 1 else None


def with_verdict(text: str) -> str:
    """Return the text with the verdict on its figures behind it, if there is one."""
    sign = compared(text)
    return text if sign is None else text + WORDS[sign]


def _amounts(text: str) -> list[_Amount]:
    amounts = []
    for match in _AMOUNT.finditer(text):
        unit, unit2, currency = ((match[name] or "").lower() for name in ("unit", "unit2", "currency"))
        plain = not (unit or unit2 or currency)
        if plain and (not _PLAIN.fullmatch(match["value"]) or re.match(r"[\w-]", text[match.end() :])):
            continue
        scale = _SCALES.get(unit or unit2, 1.0)
        value = float(match["value"].replace(",", "")) * scale
        if match["value2"]:
            value = (value + float(match["value2"].replace(",", "")) * _SCALES.get(unit2 or unit, 1.0)) / 2
        sign = match["sign"] or match["inner"] or ""
        # A parenthesis is a minus around a figure, not before words.
        if sign and ("(" not in sign or text[match.end() : match.end() + 1] == ")"):
            value = -value
        kind = "percent" if unit in _PERCENT else "cents" if unit in _CENTS else ""
        amounts.append(_Amount(match.start(), match.end(), value, scale, kind, plain))
    return amounts


def _pair(text: str, since: int, now: _Amount, other: _Amount, until: int) -> _Pair | None:
    """Return two figures that follow one another, if the words around them compare them."""
    prefix, gap = text[max(since, now.start - _PREFIX) : now.start], text[now.end : other.start]
    behind = _NEXT_CLAUSE.split(text[other.end : min(until, other.end + _BEHIND)])[0]
    if gap.strip().lower() == "to" and re.search(r"\bfrom\s*$", prefix, re.IGNORECASE) and not _RANGE.search(prefix):
        return _Pair(other, now, prefix, gap, behind)  # "from 5% to 4%"
    if _bracketed(text, now, other):
        value = other.value if re.search("[-−]", text[other.start : other.end]) else abs(other.value)
        return _Pair(now, replace(other, value=value), prefix, gap, "")
    if _DIFFERENCE.match(gap):
        return None
    if _EXPECTED_FIRST.search(gap):
        return _Pair(other, now, prefix, gap, "")
    if len(gap) > _GAP or _NEXT_SENTENCE.search(gap) or _TO.search(gap) or not _compares(gap, behind):
        return None
    return _Pair(now, other, prefix, gap, behind)


def _bracketed(text: str, now: _Amount, other: _Amount) -> bool:
    """Whether the second figure stands in brackets behind the first, as reports give that of the period before."""
    first, second = text[now.start : now.end].strip(), text[other.start : other.end].strip()
    if not second.startswith("(") or first.startswith("(") or text[other.end : other.end + 1] != ")":
        return False
    currency = re.search(_CURRENCY, second, re.IGNORECASE)
    alike = now.kind == other.kind or other.plain
    return (
        alike
        and (currency is None or currency[0].lower() in first.lower())
        and bool(re.fullmatch(r"\s*(?:M?[A-Z]{3})?\s*", text[now.end : other.start]))
    )


def _compares(gap: str, behind: str) -> bool:
    """Whether the words between two figures, or behind them, say that the first is held against the second."""
    if _EXPECTED.search(gap) or _EARLIER.search(gap) or _BARE_EARLIER.fullmatch(gap):
        return True
    named = bool(_EXPECTED.search(behind) or _EARLIER.search(behind))
    if ";" in gap:
        return False
    if _AGAINST.search(gap):
        return named or len(gap) < _NEAR
    return named and bool(_NOTHING.fullmatch(gap))


def _aligned(now: _Amount, other: _Amount) -> tuple[float, float] | None:
    """Return both values in one unit; None if they cannot be compared."""
    scale = max(now.scale, other.scale)
    first, second = (of.value * (scale / of.scale if of.plain else 1.0) for of in (now, other))
    if now.kind != other.kind and not (now.plain or other.plain):
        if {now.kind, other.kind} != {"", "cents"}:
            return None
        first, second = (value / 100 if of.kind else value for value, of in ((first, now), (second, other)))
    if first * second > 0 and now.kind != "percent" and not 1 / 50 < first / second < 50:
        return None  # more likely units that were misread
    return first, second


def _direction(words: str, default: int) -> int:
    """Return 1 if the last of the words that say where a figure moved is up, -1 if it is down."""
    up = max((match.end() for match in _UP.finditer(words)), default=0)
    down = max((match.end() for match in _DOWN.finditer(words)), default=0)
    return default if up == down else 1 if up > down else -1
