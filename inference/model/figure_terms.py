"""The words that say what the figures of a headline are, which of them are compared, and when that is not certain.

Vocabulary for `figures`, which decides. Each list holds a form only if it means one thing in headlines of every source.
"""

from __future__ import annotations

import re

SCALES = {
    "k": 1e3, "thousand": 1e3, "lakh": 1e5, "lakhs": 1e5, "m": 1e6, "mn": 1e6, "mln": 1e6, "mio": 1e6, "million": 1e6,
    "cr": 1e7, "crore": 1e7, "crores": 1e7, "mil": 1e6, "b": 1e9, "bn": 1e9, "bln": 1e9, "billion": 1e9, "tn": 1e12,
    "trillion": 1e12,
}  # fmt: skip
#: Units that only figures of the same kind are compared in; all others are of money and counts.
KINDS = {
    **dict.fromkeys(("c", "cents", "cent", "p", "pence"), "cents"),
    **dict.fromkeys(("%", "pct", "percent", "per cent"), "percent"),
    **dict.fromkeys(("bps", "bp", "basis points", "points", "pts", "percentage points"), "points"),
}
CURRENCY = (
    r"(?:(?:US|C|A|HK|S|NZ)?[$€£¥₹]|"
    r"(?:USD|EUR|GBP|SEK|DKK|NOK|CHF|JPY|CAD|AUD|INR|M(?:EUR|SEK|NOK|DKK)(?=\s?\d)|Rs\.?|RMB?|R(?=\d)|Y(?=\d)))"
)
UNIT = (
    r"%|per ?cent\b|pct\b|cents?\b|pence\b|thousand\b|lakhs?\b|million\b|crores?\b|billion\b|trillion\b|bps?\b|"
    r"(?:basis |percentage )?points\b|pts\b|mln\b|mio\b|mil\b|mn\b|bln\b|bn\b|tn\b|cr\b|[kmbcp](?=e?\b)"
)
VALUE = r"\d+(?:,\d+)*(?:\.\d+)?|\.\d+"
AMOUNT = re.compile(
    rf"(?<![\w.&-])(?P<sign>[-−+(]\s?|minus\s)?(?P<currency>{CURRENCY})?\s?(?P<inner>[-−(]\s?)?(?P<value>{VALUE})"
    rf"(?:(?:\s|-(?=cent|mil|bil|per|cro|lakh))?(?P<unit>{UNIT}))?(?P<estimate>e\b)?"
    # A range, as guidance is given.
    rf"(?:\s?[-–]\s?{CURRENCY}?\s?(?P<value2>{VALUE})(?:\s?(?P<unit2>{UNIT}))?)?",
    re.IGNORECASE,
)
#: Without a unit or a currency only these are figures; others are quarters, days, ranks, names.
PLAIN = re.compile(r"\d{1,3}(?:,\d{3})+|\d*\.\d+")
#: Two figures: few headlines have as many.
TWO = re.compile(r"\d[\d.,]*[^\d.,]\D*\d")


def _words(pattern: str) -> re.Pattern[str]:
    """Compile alternatives, separated by white space or lines; a tilde is a space."""
    return re.compile(rf"\b(?:{'|'.join(pattern.split()).replace('~', ' ')})\b", re.IGNORECASE)


# What stands between two figures, or behind the second, if the first is held against it.
EXPECTED = _words(
    r"""est ests exp estimates? estimated expect\w* consensus cons forecast\w* fcasts? f'cast view street analysts?
    economists seen looked~for looking~for called~for polls? survey predicted projected projections? modell?ed
    guided whisper factset refinitiv zacks streetaccount lseg ibes visible~alpha feared pencilled~in wanted
    warned~of investors markets?(?!~cap) guess(?:ed)? braced~for hopes? hoped bank(?:ed|ing)~on count(?:ed|ing)~on
    desks brokers counting~on had~in~mind penciled~in budgeted sell~side"""
)
EARLIER = _words(
    r"""year[-~](?:ago|earlier|before) a~year~(?:ago|earlier|before)
    last~year prior prev previous(?:ly)? earlier preceding
    same~(?:quarter|period) year~before (?:quarter|month)~before last~(?:quarter|month) year~back
    start~of~(?:the~)?year yoy y/y qoq q/q last~(?:half|season|week|time|spring|summer|autumn|winter|christmas)
    (?:half|season|week)~(?:before|earlier) (?:weeks|months|quarter|quarters|years)~(?:ago|back|before|earlier)
    one~before half~before comparison~period
    pcp last~time month~ago once used~to having~been
    sequentially (?:months|week|the~one|quarter|year)~before one~month~earlier last~(?:year-end|sale|count|reading)
    last~(?:january|february|march|april|june|july|august|september|october|november|december)"""
)
MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
PERIOD = rf"(?:q[1-4]|[1-4]q|h[12]|[12]h|fy|{MONTH}|\d{{1,2}} {MONTH}|year-end)? ?(?:(?:fy)?\d\d|(?:fy)?20\d\d)?"
BARE_EARLIER = re.compile(
    rf"\s*\((?:loss|profit) of\s*[^\d]{{0,6}}|\W*(?:after|follows)\W*|\s*\({PERIOD}: ?|[,;] (?:it )?was\s*(?:at\s*)?",
    re.IGNORECASE,
)
#: Behind a figure: it is what "after" takes off, not the figure before.
TAKEN_OFF = re.compile(
    r"\s*(?:in |of )?(?:[\w-]+ )?(?:charges?|costs?|write|hit|gains?|fines?|tax(?:es)?|items?|one-off|impairment|sale|"
    r"deal)",
    re.IGNORECASE,
)
#: "61,000 were expected; 118,000 were created": what was expected stands first.
EXPECTED_FIRST = re.compile(
    r"\b(?:was|were|had been|called for|looked for) ?(?:expected|forecast|predicted|seen|estimated)?\s*[;,]|"
    r"[;,:]\s*actual\b|\b(?:a year (?:ago|earlier)|last year)[;,:.] (?:this (?:time|year)|now)\b|"
    r"\blast \w+, (?:are|is)\b",
    re.IGNORECASE,
)
#: Behind the first figure: it is a difference ("beats estimates by $0.09", "$20 million better than"), or the expected
#: one ("tops the $1.12 view with $1.20").
DIFFERENCE = re.compile(
    r".*\bby\W*$|\s*(?:better|worse|short|shy|north|south)\b|.*(?<!compare )(?<!compare[sd] )(?<!line )\bwith\W*$",
    re.IGNORECASE,
)
#: The difference itself is given: "beats by $0.09", "12% below consensus". The first says how good it is, the
#: second only where the figure lies.
BY = re.compile(
    r"\b(?:(?P<beat>beat(?:s|ing)?|top(?:s|ped|ping)?|exceed(?:s|ed|ing)?|surpass(?:es|ed|ing)?)|"
    r"(?P<miss>miss(?:es|ed|ing)?|trail(?:s|ed|ing)?|lag(?:s|ged)?))"
    r"(?: (?:the )?(?:analysts?'?|street|consensus|estimates?|views?|forecasts?|expectations?)){0,2} by\W*$",
    re.IGNORECASE,
)
BEYOND = re.compile(
    r"\s*(?:(?P<more>above|ahead of|north of|more than|higher than|over)|"
    r"(?P<less>below|short of|shy of|south of|less than|lower than|under)|"
    r"(?P<better>better than)|(?P<worse>worse than))\s(?:the |our |what |its |company |market |mean ){0,2}"
    r"(?:analysts?|wall st|street|consensus|estimates?|views?|forecasts?|expect|economists|poll|guidance)|"
    r"\s(?P<more2>above|ahead)$|\s(?P<less2>below|short)$",
    re.IGNORECASE,
)
#: Words that speak for a good or a bad surprise: a verdict that they contradict is withheld.
MOVES_UP = r"(?:rises?|rose|jumps?|soars?|surges?|climbs?|gains?|up)"
MOVES_DOWN = r"(?:falls?|fell|drops?|slides?|plunges?|sinks?|slumps?|tumbles?|dips?|slips?|slipped|eases?|down)"
BEAT = _words(
    rf"""beats? beating beaten tops topped topping exceed\w* surpass\w* (?:raises|lifts|hikes|boosts)
    above~(?:estimates|expectations|forecasts?|consensus) better[-~]than (?:shares?|stock)~{MOVES_UP}"""
)
MISS = _words(
    rf"""miss(?:es|ed|ing)? lags? trails? shy~of falls?~short disappoint\w* warns? withdraws
    (?:cuts?|lowers?|trims?|slashes)~(?:[\w-]+~){{0,6}}(?:guidance|outlook|forecasts?|views?|targets?)
    below~(?:estimates|expectations|forecasts?|consensus) worse[-~]than (?:shares?|stock)~{MOVES_DOWN}"""
)
#: A clause that may weigh more than a comparison with the period before.
HOWEVER = _words("but despite although though yet however even~as")
#: Behind a figure that says by how much its metric rose or fell.
ON_THE_YEAR = re.compile(
    r"[\s,(]*(?:yoy|y/y|y-o-y|yr/yr|year[- ](?:on|over)[- ]year|on (?:the |a )?year|"
    r"(?:from|on|compared (?:with|to)|versus|vs\.?|than) (?:the |a )?(?:same (?:period|quarter) )?"
    r"(?:last year|year (?:ago|earlier|before)|year-ago|prior[- ]year|previous year))\b",
    re.IGNORECASE,
)
#: A year's change of these is a level, neither good nor bad.
RATES = _words("gdp cpi ppi pce hicp inflation growth prices? wages?")
#: Between two figures: what belongs to the first ends here.
CLOSED = re.compile(r";|\),? ")
#: The period that a rate covers.
RATE_OF = re.compile(r"\s*\(?([mqy](?:/|o)[mqy]|year[- ]on[- ]year|on the (?:year|month|quarter))\b", re.IGNORECASE)
#: What was known stands first: "Analysts looked for $330m; Acme made $361m".
SAID_FIRST = re.compile(
    r"(?:^|[:.;] )(?:the )?(?:[\w']+ ){0,2}"
    r"(?:analysts|street|consensus|economists|forecasts?|estimates?|expected|wanted)\b"
    r"(?: (?:had|was|were|called|looked|looking|pencilled|expected|wanted|modell?ed|seen|forecast|predicted)\b|:)"
    r"[^.;%\d]*$",
    re.IGNORECASE,
)
THEN_CAME = re.compile(
    r"[;,.:]?.*\b(?:made|makes|reports?|reported|delivers?|delivered|posts?|posted|earned|earns|came in|got|had|actual|"
    r"reality|lost|loses|shipped|printed)\b",
    re.IGNORECASE,
)
RANGE = re.compile(r"\brang(?:e[sd]?|ing) from\s*$", re.IGNORECASE)
AGAINST = _words(
    r"""vs v v/s versus against compare[sd]?~(?:with|to) from than after~an? below above missing beating topping missed
    misses instead~of where beats? tops topped exceed(?:s|ed|ing) surpass(?:es|ed|ing) short~of ahead~of shy~of"""
)
# What is measured: more of it is good, or bad.
GOOD = _words(
    r"""eps heps (?<!/)shr dps (?<!hourly~)earnings earn(?:ed|s) ma(?:de|kes) (?<!non-)revenues? (?<!non-)revs?
    (?<!of~)(?<!per~)sales (?<!staff~)turnover profits? (?<!cost[-/])(?<!cost-to-)incomes? ebitd?a? ebit pat pbt nim
    fcf revpar nrr takings equity~ratio load~factor cet1 tier~1~ratio maus? daus? shipped employment openings
    like-for-likes? pumps produced wholesales throughput (?:operating|pretax)~result result~before~tax margins?
    dividends? payout (?<!failed~)deliver(?:y|ies|s|ed) (?<!per~)orders? (?<!cancelled~)bookings subscribers?
    payrolls? pmi gdp growth production output nii ffo funds~from (?<!cost~)guidance outlook shipments? users backlog
    occupancy traffic (?:cash~flow|nfp|ism|ifo|zew|tankan|philly~fed|philadelphia~fed|empire~state|barometer) premiums
    (?<!contract~)assets deposits noi arpu roce rote book-to-bill nav
    (?:equity|solvency(?:~ii)?|casa|interest)~(?:cover|ratio) charter~rates uptime punctuality savings memberships?
    members admissions enrolment scripts prescriptions capacity~factor renewals availability retention
    collection~efficiency tangible~book take~rate royalt(?:y|ies) same-store pay~out starts permits confidence
    return~on~(?:equity|capital|assets|tangible~equity) (?:tender~|order~|deal~)?pipeline d[ei]spatch(?:es|ed)?
    registrations hauled carried handled remittances footfall visits visitors viewers downloads sign-?ups attendance
    audience box~office (?:coverage|current|capital|liquidity~coverage|fill)~(?:ratio|rate) headroom
    on-time~(?:rate|arrivals) net~promoter~score nps satisfaction placements enrolments reservations contracted
    hash~rate re-?letting~spread sentiment exports comps? comparable net roe arr aum inflows? jobs hiring additions
    adds surplus passengers? volumes? utili[sz]ation"""
)
BAD = _words(
    r"""(?<!weight~)(?<!profit/)loss(?:es)? lost loses unemployment jobless claims inflation cpi ppi pce costs?
    expenses? debt churn defaults? delinquenc(?:y|ies) charge-offs? write-?(?:offs?|downs?) vacanc(?:y|ies)
    provisions? burn bad~loans? npas? deficits? outflows? layoffs? charge-offs?~rate
    inventor(?:y|ies)[-/~](?:to[-/~])?sales discount~(?:of~[\w~]+~)?to~(?:its~|the~)?(?:nav|net~asset~value|book)
    nav~discount impairments? combined~ratio bankruptcies foreclosures repossession~orders? cancellations recalls
    leverage overrun staff~turnover cost~guidance (?:account|trade|budget|funding|pension)~gap aisc loan-to-value ltv
    complaints? borrowing stage~3~(?:ratio|loans) redemptions opex gearing hicp ipca claimant~count npls? gnpa
    slippages arrears non-performing~loans(?:~ratio)? bad~debts? non-accruals cost[-/](?:to-)?income(?:~ratio)?
    attrition outages? downtime scrap~rate rejects overdue lapse~rate lost-time (?:fuel|interest)~bill cancelled
    delays? accidents? jobless~rate prices~paid cost~per~[\w]+ (?:costs?|expenses)~ratio loss~ratio
    (?:default|cancellation|vacancy|injury|delinquency)~rate days~sales~outstanding failed~deliveries
    (?:inventory|receivables?|debtor|stock|working~capital)~days days~of~(?:stock|supply|inventory) injur(?:y|ies)
    incidents fatalities insolvencies (?:business|corporate)~failures breaches spoilage shrinkage waiting~times?
    turnaround~time idle~fleet short~interest thefts? curtailed~hours (?:working~)?days~lost defects? warranty~claims
    non-revenue~water working~capital cost~of~risk"""
)
#: Of these words those that an estimate may repeat; another one begins a new figure.
REPEATED = {"growth", "net", "earnings", "profit", "profits", "loss", "losses", "income", "eps", "output"}
#: What is compared is not how a company or an economy does.
PRICE = _words(
    r"""target price shares?~(?:at|to|trade|close) stock yield
    (?<!fed~)(?<!confidence~)(?<!sentiment~)(?<!manufacturing~)(?<!climate~)(?<!services~)index (?<!basis~)points?
    bid offer pt mc market~cap valued p/e multiple (?:average|hourly|weekly)~earnings (?:wages?|pay)~growth
    range"""
)
LOSS, PROFIT, SIDE = _words("loss"), _words("profit"), _words("loss profit")
#: Behind a figure: which side it is on.
SIDE_OF = re.compile(r"^\s*(?:net |pre-?tax |operating |attributable )?(?:loss|profit)\b", re.IGNORECASE)
UP = _words(
    r"""up adds? added rises? rose grew grows? climb(?:s|ed)? gain(?:s|ed)? increase[sd]? jump(?:s|ed)? growth advanced?
    higher surge[sd]?"""
)
DOWN = _words(
    r"""down falls? fell drop(?:s|ped)? declin(?:e[sd]?) slip(?:s|ped)? decrease[sd]? shr[iau]nk\w* slid\w* lower
    contract(?:s|ed|ion) plunge[sd]? lost tumble[sd]? narrow(?:s|ed)? (?<!charge-)(?<!write-)off sheds? shed loses
    dip(?:s|ped)? eas(?:es?|ed) slump(?:s|ed)?"""
)
#: Before a count: so many fewer.
FEWER = re.compile(r"\b(?:sheds?|loses?|lost|cuts?|axe[sd]?)\s*$", re.IGNORECASE)
LOSES_LESS = re.compile(r"\b(?:sheds?|loses?|lost|cuts?) (?:far |many |much )?(?:fewer|less|more)\b", re.IGNORECASE)
#: Before a figure that is held against what was expected: it can only be earnings per share.
EARNINGS = re.compile(
    r"(?:\$[A-Z]{1,5}\)?|\b(?:Q[1-4]|[1-4]Q)(?: ?(?:FY)?'?(?:20)?\d\d)?)[\s:,-]*(?:printed|prints)?[\s:,-]*$"
)
LEVEL = re.compile(r"\b(?:to|at|of|from|below|above|under|over)\s*$", re.IGNORECASE)
TO = re.compile(r"(?<!compared )(?<!compares )\b(?:in)?to\b", re.IGNORECASE)
NEXT_SENTENCE = re.compile(
    r"(?<!est)(?<!exp)(?<!vs)(?<!prev)(?<!cons)(?<!rev)(?<!adj)(?<!Rs)\.\s",
    re.IGNORECASE,
)
NEXT_CLAUSE = re.compile(r"[;.] |, (?!expected|est)")
NOTHING = re.compile(
    r"(?:,? (?:a|per)(?: diluted)? share|(?: (?!and|to|or|in|for|of)[a-z-]+){1,2}(?=[,;(]))?[\s,(:;]*(?:with |where )?",
    re.IGNORECASE,
)
#: Before the ends of a range.
GUIDED = _words(r"sees expects? forecasts? guid\w+ outlook targets? projects prior view")
#: Behind the first figure: what was counted ("adds 412,000 phone customers, ...").
COUNTED = re.compile(
    r"(?: (?!vs|v|from|against|than)[a-z-]+){1,3}(?=[,;(]| vs| v | against| from| compared)", re.IGNORECASE
)
#: The figure that is compared is a movement itself: "a gain of 15,000", "1.5 million fall".
MOVEMENT = _words("(?:gain|rise|increase|fall|drop|decline|decrease)(?:~of)?")
#: ... before the first ("a decline of 2.9%"), and behind the second.
FALL_OF = re.compile(
    r"\b(?:(?:fall|drop|decline|decrease|slump|contraction)(?: in [^;,]{1,40})? "
    r"(?:of|(?:eases|slows|narrows|moderates|deepens|widens|worsens|accelerates|quickens) to)|"
    r"(?:fall|fell|drop|dropped|decline|declined|shr[aiu]nk)s? by|"
    r"(?:dent|trim|cut|reduce|lower|slashe)s? [^;,]{1,40} by)\s*$",
    re.IGNORECASE,
)
MOVED = re.compile(r"\s*(?:gain|rise|increase|growth|higher|fall|drop|decline|decrease|lower)\b", re.IGNORECASE)
#: Between two figures: they are levels, whichever way it moved.
MOVED_FROM = re.compile(
    rf"\b(?:{MOVES_UP}|{MOVES_DOWN}|higher|lower|improv\w+|worsen\w+|widen\w+|narrow\w+) from\s*$",
    re.IGNORECASE,
)
#: Before the first figure: a forecast, so that a comparison with the past tells nothing new.
AWAITED = re.compile(
    r"\b(?:est\.?|estimates?|expected|seen|consensus|likely|poll|preview|"
    r"(?:analysts?|street|economists) (?:expects?|sees?))"
    r"(?: to)?(?: (?:earn|post|report|show|be|have|of|at|an?|eps|earnings|profit))*[\s:]*$",
    re.IGNORECASE,
)
#: Before a whole number that is a figure, although it has no unit.
NAMED_LINK = r"(?:\W+(?:at|of|to|is|was|were|had|been|for|a|an|rate|ratio|index|score|loss))*[\s:,(+-]*$"

NAMED = re.compile(rf"(?:{GOOD.pattern}|{BAD.pattern}|{EXPECTED.pattern}|\bactual){NAMED_LINK}", re.IGNORECASE)
#: ... and behind: neither a date nor a duration.
NO_FIGURE = re.compile(
    rf"[\w./-]|\s?(?:days?|weeks?|months?|years?|quarters?|analysts?|{MONTH}|\d|st|nd|th)\b|,\d", re.IGNORECASE
)

#: A metric that rose or fell without being compared: a mixed headline, if it moved the other way.
OTHER_METRIC = re.compile(
    r"\b(?:(?P<good>sales|revenues?|revs?|profits?|earnings|eps|income|ebitda|margins?)|loss(?:es)?|costs?) "
    r"(?:(?P<up>up|rises?|rose|grows?|grew|jumps?|increased?)|down|falls?|fell|drops?|dropped|slips?|slipped|declined?)\b"
    r"(?![^;,]{0,12}\.\s)",  # what a sentence of its own says is apart
    re.IGNORECASE,
)
#: One of them stands in every headline that compares figures. Looking for them is quicker than looking for figures.
HINTS = (
    " vs", " v ", " v/s", "versus", "against", "compar", "from", " than ", " est", "(est", "expect", "cons", "cast",
    "view", "street", "analyst", "econom", "poll", "survey", "year", "yoy", "y/y", "yr/yr", "prior", "prev", "last ",
    "earl", "after", " was", " were", "seen", "below", "above", "zacks", "guid", "project", "ahead", "tops",
    "whisper", "beat", "miss", "q/q", "qoq", " ago", "before", "model", "factset", "fear", "period", "sequential",
    "trail", "lags", "lagg", "exceed", "surpass", "market", " where ", "instead", "broker", "budget", "desks", "sell",
    "pencil", "counting",
)  # fmt: skip
IN_BRACKETS = re.compile(r"\((?!20\d\d\))[^()]{0,20}\d[^()]{0,12}\)")
