"""Words and signs that stand at a number: currencies, units, magnitudes."""

from __future__ import annotations

import re

CURRENCY = r"(?:(?:US|AU|CA|NZ|HK|A|C|R|S)?\$|[€£¥₹₽₩₺₫₴₪฿₱₦]|(?:USD|EUR|GBP|INR|CHF|JPY|CNY|AUD|CAD)\b|Rs\.?)"

SYMBOLS = (
    "km/h kmh kph mph m/s ft/s km cm mm nm µm um dm m ft yd mi kg mg µg g lbs lb oz ml mL cl dl dL kL l L kHz MHz GHz Hz ms ns µs secs sec s mins min hrs hr "
    "h days day d kJ MJ J kWh MWh Wh kW MW GW W kV mV V mA A kPa hPa MPa Pa bar kN N mol dB kB KB MB GB TB kbit Mbit Gbit px pt ha rad deg eV keV MeV "
    "GeV kcal cal Ω kΩ °C °F °K ° ℃ pp pcs USD EUR GBP yrs yr kn"
)
ATTACHED = re.compile(
    rf"(?:{'|'.join(re.escape(one) for one in sorted(SYMBOLS.split(), key=len, reverse=True))})(?:/[A-Za-zµ]{{1,4}})?(?:\^?-?\d(?!\d))?(?![^\W_])"
)
"""Units that may stand at a number without a blank. 42x, 42i and 42ish are not the number 42."""

COMPOUND = tuple(
    frozenset(family.split())
    for family in (
        "h hr hrs hour hours m min mins minute minutes s sec secs second seconds d day days week weeks month months year years",
        "ft foot feet in inch inches ' \" yd yard yards mile miles km m cm mm metre metres meter meters",
        "lb lbs pound pounds oz ounce ounces stone kg g",
        "euro euros dollar dollars cent cents pound pounds pence € $",
        "gallon gallons quart quarts pint pints cup cups l ml",
    )
)
"""Units that are said one after the other: 5 feet 3 inches is neither 5 nor 3."""

MAGNITUDES = {
    **dict.fromkeys(("hundred", "hundreds", "hundert", "cent", "cientos"), 10**2),
    **dict.fromkeys(("thousand", "thousands", "tausend", "tsd", "mille", "тысяч", "тысячи", "тыс"), 10**3),
    **dict.fromkeys(
        ("million", "millions", "mn", "mln", "mio", "millionen", "millones", "millón", "milhões", "milioni", "миллион", "миллионов", "млн"),
        10**6,
    ),
    **dict.fromkeys(("billion", "billions", "bn", "milliarden", "milliarde", "mrd", "milliard", "milliards", "миллиардов", "млрд"), 10**9),
    **dict.fromkeys(("trillion", "trillions", "tn"), 10**12),
    **dict.fromkeys(("quadrillion", "quadrillions"), 10**15),
    **dict.fromkeys(("dozen", "dozens", "dutzend"), 12),
    **dict.fromkeys(("lakh", "lakhs", "लाख"), 10**5),
    **dict.fromkeys(("crore", "crores", "करोड़"), 10**7),
}  # fmt: skip
del MAGNITUDES["cent"]
VAGUE = frozenset(
    [
        "mil",
        "billionen",
        "billones",
        "trillionen",
        "trillones",
        "quintillion",
        "sextillion",
        "septillion",
        "octillion",
        "zillion",
        "gazillion",
        "googol",
        "score",
        "gross",
        "hundredth",
        "hundredths",
        "thousandth",
        "thousandths",
        "millionth",
        "millionths",
        "billionth",
        "squared",
        "cubed",
        "factorial",
        "ish",
        "prime-ish",
        "fold",
    ]
)
"""Words that change a number, but not in one way that is sure."""

MAGNITUDE = re.compile(
    rf"(?i)(?:-|\s{{0,2}})({'|'.join(sorted(map(re.escape, MAGNITUDES), key=len, reverse=True))})(?![^\W_])\.?(?=\W|\Z)"
)
LETTERS = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "bn": 10**9, "mn": 10**6}
LETTER = re.compile(r"(k|K|M|B|bn|mn|m|b|T|G)(?![^\W_])(?!\^)")
"""Letters for a magnitude, without a blank: 42k is 42,000, and 42 K are kelvins."""

HAN = {
    "十": 10,
    "百": 100,
    "千": 10**3,
    "万": 10**4,
    "萬": 10**4,
    "億": 10**8,
    "亿": 10**8,
    "兆": 10**12,
    "만": 10**4,
    "억": 10**8,
}
HAN_MAGNITUDE = re.compile(rf" ?([{''.join(HAN)}])")

PERCENT = re.compile(r"(?i)\s?%(?! ?[\d(])|[ -](?:percent|per cent|pct|prozent|pour cent|por ciento)(?![^\W_])")
