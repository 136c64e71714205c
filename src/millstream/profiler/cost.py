"""What do the model calls cost? Tokens times the prices of a dated table; unknown is unknown, never 0.

A call is priced by its model's name as it is, else without the date at its end (`gpt-4o-2024-08-06` is a
`gpt-4o`), and never by a name that is only similar. Cached tokens cost what the table says, and what other
input costs where it says nothing. What the table's note leaves out is not in the cost. A call that an
evaluation answered from its cache costs nothing.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import date
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated, Any, Final, TypeGuard

import msgspec
import numpy as np

from millstream.deliver.plugins import available, load_entry_point
from millstream.errors import ConfigError
from millstream.profiler import estimate
from millstream.profiler.estimate import Floats
from millstream.profiler.groups import of_models
from millstream.profiler.requests import requests
from millstream.profiler.results import Statistic
from millstream.span import Span, Status
from millstream.store.table import MOST_TOKENS, STATUS_CODE, Bools, Ints, SpanTable, is_cached, model_of

GROUP: Final = "millstream.prices"
MILLION: Final = 1e6
MODEL_UNKNOWN: Final = "no price for the model"
OPEN: Final = "the call did not end"
FAILED: Final = "the call failed and tells no usage"
INPUT_UNKNOWN: Final = "input_tokens unknown"
OUTPUT_UNKNOWN: Final = "output_tokens unknown"
CACHE_ABOVE_INPUT: Final = "more cache_read_tokens than input_tokens"
_DATED: Final = re.compile(
    r"(?P<model>.+?)(-20\d\d-(0[1-9]|1[0-2])-[0-3]\d|[-@]20\d\d(0[1-9]|1[0-2])[0-3]\d)"
)

_ERROR: Final = STATUS_CODE[Status.ERROR.value]

Amount = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class LongPrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Prices of a call with more than `input_tokens`, for all of its tokens."""

    input_tokens: int
    input: Amount
    output: Amount
    cache_read: Amount | None = None


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Prices of one model, per million tokens.

    Attributes:
        cache_read: null: cached tokens cost what other input costs.
        above: where long prompts cost more.
        sources: in how many places the price was found.
        date: of the table that it is from, ISO.
        source: likewise.
    """

    input: Amount
    output: Amount
    cache_read: Amount | None = None
    above: LongPrice | None = None
    sources: int | None = None
    date: str = ""
    source: str = ""


class PriceTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Prices by model, all in one currency (ISO 4217)."""

    currency: Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")]
    date: Annotated[str, msgspec.Meta(pattern=r"^20\d\d-\d\d-\d\d$")]
    models: dict[str, Price]
    source: str = ""
    note: str = ""

    def match(self, model: str) -> str | None:
        """The name that a model has here: its own, or without the date at its end; None without a price."""
        if model in self.models:
            return model
        dated = _DATED.fullmatch(model)
        return dated["model"] if dated and dated["model"] in self.models else None


class ModelCost(msgspec.Struct, frozen=True):
    """The calls of one model.

    Attributes:
        name: the model.
        priced_as: its name in the table, null without a price.
        price: what the table says.
        calls: all LLM calls.
        priced: those that have a cost.
        cost: of these together, null when there is none.
        cost_per_call: the mean of those that were sent, and its Student t interval.
        unpriced: the others, by reason.
        cached: calls that an evaluation answered from its cache: they are priced, at 0.
        saved: what these would have cost: at least so much; null when that is known of none.
        saved_unpriced: those of which it is not known.
    """

    name: str
    priced_as: str | None
    price: Price | None
    calls: int
    priced: int
    cost: float | None
    cost_per_call: Statistic
    unpriced: dict[str, int]
    cached: int = 0
    saved: float | None = 0.0
    saved_unpriced: int = 0


class Cost(msgspec.Struct, frozen=True):
    """What the LLM calls cost.

    Attributes:
        total: of the priced calls: at least so much; null when there are calls and none is priced.
        unpriced: calls that have no cost, by reason.
        cache_unknown: priced calls that do not tell their cached tokens: they cost at most so much.
        requests: requests whose LLM calls are all priced.
        requests_unpriced: the other requests.
        cost_per_request: the mean over `requests` and its Student t interval.
        cached: calls that an evaluation answered from its cache: they are priced, at 0.
        saved: what these would have cost: at least so much; null when that is known of none.
        saved_unpriced: those of which it is not known.
    """

    currency: str
    date: str
    source: str
    note: str
    calls: int
    priced: int
    total: float | None
    unpriced: dict[str, int]
    cache_unknown: int
    requests: int
    requests_unpriced: int
    cost_per_request: Statistic
    models: list[ModelCost]
    cached: int = 0
    saved: float | None = 0.0
    saved_unpriced: int = 0


def price_table(users: Path | Mapping[str, Any] | None = None) -> PriceTable:
    """Our prices, over them those of installed packages, over these the user's own.

    Tables in another currency than the last are left out, for prices are not converted.

    Args:
        users: a file of JSON, YAML or TOML in the form of our `prices.json`, or what would be in it.

    Raises:
        ConfigError: a file or an entry point of the group `millstream.prices` is wrong.
    """
    tables = [_file(Path(__file__).with_name("prices.json"))]
    tables += [_plugin(point) for point in available(GROUP).values()]
    if users is not None:
        tables.append(_file(users) if isinstance(users, Path) else _read(users, "the price table"))
    last = tables[-1]
    models = {
        name: msgspec.structs.replace(
            price, date=price.date or table.date, source=price.source or table.source
        )
        for table in tables
        if table.currency == last.currency
        for name, price in table.models.items()
    }
    return msgspec.structs.replace(last, models=models)


def cost(table: SpanTable, prices: PriceTable) -> Cost:
    """The cost of the LLM calls.

    Args:
        table: the spans.
        prices: from `price_table`.
    """
    amount = np.full(len(table), np.nan)
    rows = np.flatnonzero(table.model >= 0)
    models = [_model(table, name, members, prices, amount) for name, members in of_models(table)]
    has_price = ~np.isnan(amount[rows])
    priced = rows[has_price]
    recorded = requests(table).recorded
    whole = recorded.copy()
    whole[table.trace[rows[~has_price]]] = False
    per_request: Floats = np.zeros(len(table.trace_ids))
    np.add.at(per_request, table.trace[priced], amount[priced])
    unpriced: dict[str, int] = {}
    for model in models:
        for reason, count in model.unpriced.items():
            unpriced[reason] = unpriced.get(reason, 0) + count
    return Cost(
        currency=prices.currency,
        date=prices.date,
        source=prices.source,
        note=prices.note,
        calls=len(rows),
        priced=len(priced),
        total=float(amount[priced].sum()) if len(priced) or not len(rows) else None,
        unpriced=unpriced,
        cache_unknown=int(((table.cache_read_tokens[priced] < 0) & ~table.cached[priced]).sum()),
        requests=int(whole.sum()),
        requests_unpriced=int(recorded.sum() - whole.sum()),
        cost_per_request=estimate.mean(per_request[whole]),
        models=sorted(models, key=lambda model: (-(model.cost or 0.0), model.name)),
        cached=sum(model.cached for model in models),
        saved=_sum_of_known(model.saved for model in models if model.cached),
        saved_unpriced=sum(model.saved_unpriced for model in models),
    )


def cost_of_call(span: Span, prices: PriceTable) -> float | None:
    """What one model call cost, as `cost` says it; `None` where that is unknown."""
    if is_cached(span):
        return 0.0
    model = model_of(span)
    priced_as = None if model is None else prices.match(model)
    if priced_as is None or span.usage is None:
        return None
    came_in, went_out = span.usage.input_tokens, span.usage.output_tokens
    if not (_is_possible(came_in) and _is_possible(went_out)):
        return None
    cached = span.usage.cache_read_tokens
    cached = cached if _is_possible(cached) else 0
    if cached > came_in:
        return None
    price = prices.models[priced_as]
    above = price.above
    applies = price if above is None or came_in <= above.input_tokens else above
    return _sum_of_one(applies, came_in - cached, cached, went_out)


def _is_possible(count: int | None) -> TypeGuard[int]:
    return count is not None and 0 <= count <= MOST_TOKENS


def request_costs(table: SpanTable, prices: PriceTable) -> Floats:
    """What each request cost; NaN where one of its LLM calls has no price.

    Args:
        table: the spans.
        prices: from `price_table`.
    """
    amount = np.full(len(table), np.nan)
    rows = np.flatnonzero(table.model >= 0)
    for name, members in of_models(table):
        _model(table, name, members, prices, amount)
    costs: Floats = np.zeros(len(table.trace_ids))
    np.add.at(costs, table.trace[rows], amount[rows])
    return costs


def _model(table: SpanTable, name: str, rows: Ints, prices: PriceTable, amount: Floats) -> ModelCost:
    """The cost of one model's calls; fills their places in `amount`."""
    priced_as = prices.match(name)
    price = prices.models[priced_as] if priced_as is not None else None
    cached = table.cached[rows]
    left = np.ones(len(rows), bool)
    unpriced: dict[str, int] = {}
    for reason, applies in _reasons(table, rows, price):
        if (without := left & applies & ~cached).any():
            unpriced[reason] = int(without.sum())
        left &= ~applies
    if price is not None:
        amount[rows[left]] = _amounts(table, rows[left], price)
    sent, saved = amount[rows[left & ~cached]], amount[rows[left & cached]]
    amount[rows[cached]] = 0.0
    priced = len(sent) + int(cached.sum())
    return ModelCost(
        name=name,
        priced_as=priced_as,
        price=price,
        calls=len(rows),
        priced=priced,
        cost=float(sent.sum()) if priced else None,
        cost_per_call=estimate.mean(sent),
        unpriced=unpriced,
        cached=int(cached.sum()),
        saved=float(saved.sum()) if len(saved) or not cached.any() else None,
        saved_unpriced=int(cached.sum()) - len(saved),
    )


def _sum_of_known(amounts: Iterable[float | None]) -> float | None:
    """Null when there are some and none is known."""
    each = list(amounts)
    known = [amount for amount in each if amount is not None]
    return float(sum(known)) if known or not each else None


def _reasons(table: SpanTable, rows: Ints, price: Price | None) -> list[tuple[str, Bools]]:
    """Why calls cannot be priced; the first that applies counts."""
    came_in = table.input_tokens[rows]
    no_input, no_output = came_in < 0, table.output_tokens[rows] < 0
    return [
        (MODEL_UNKNOWN, np.full(len(rows), price is None)),
        (OPEN, (table.end_ns[rows] < 0) & (no_input | no_output)),
        (FAILED, (table.status[rows] == _ERROR) & no_input & no_output),
        (INPUT_UNKNOWN, no_input),
        (OUTPUT_UNKNOWN, no_output),
        (CACHE_ABOVE_INPUT, table.cache_read_tokens[rows] > came_in),
    ]


def _amounts(table: SpanTable, rows: Ints, price: Price) -> Floats:
    cached = np.maximum(table.cache_read_tokens[rows], 0)
    fresh = table.input_tokens[rows] - cached
    found = _sum(price, fresh, cached, table.output_tokens[rows])
    if price.above is not None:
        is_long = table.input_tokens[rows] > price.above.input_tokens
        found[is_long] = _sum(price.above, fresh, cached, table.output_tokens[rows])[is_long]
    return found


def _sum(price: Price | LongPrice, fresh: Ints, cached: Ints, output: Ints) -> Floats:
    total: Floats = fresh * price.input + cached * _cache_read(price) + output * price.output
    return total / MILLION


def _sum_of_one(price: Price | LongPrice, fresh: int, cached: int, output: int) -> float:
    return (fresh * price.input + cached * _cache_read(price) + output * price.output) / MILLION


def _cache_read(price: Price | LongPrice) -> float:
    return price.input if price.cache_read is None else price.cache_read


def _file(path: Path) -> PriceTable:
    try:
        text = path.read_bytes()
        document = _parsed(text, path.suffix)
    except OSError as error:
        raise ConfigError(f"the price table {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, msgspec.DecodeError) as error:
        form = {".toml": "TOML", ".yml": "YAML", ".yaml": "YAML"}.get(path.suffix, "JSON")
        raise ConfigError(f"the price table {path} is no {form}, which its ending says: {error}") from error
    return _read(document, f"the price table {path}")


def _parsed(text: bytes, suffix: str) -> Any:
    if suffix == ".toml":
        import tomllib  # noqa: PLC0415  # few have a table of their own

        return tomllib.loads(text.decode())
    if suffix in {".yml", ".yaml"}:
        import yaml  # noqa: PLC0415  # likewise

        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(str(error)) from error
    return msgspec.json.decode(text)


def _plugin(point: EntryPoint) -> PriceTable:
    where = f"the price table of the entry point {point.name!r} ({point.value})"
    make = load_entry_point(point)
    try:
        made = make()
    except Exception as error:
        raise ConfigError(f"{where} cannot be made: {type(error).__name__}: {error}") from error
    return made if isinstance(made, PriceTable) else _read(made, where)


def _read(document: Any, where: str) -> PriceTable:
    if isinstance(document, Mapping):  # TOML has dates
        document = {key: str(value) if isinstance(value, date) else value for key, value in document.items()}
    try:
        return msgspec.convert(document, PriceTable)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{where}: {error}; it needs currency, date (YYYY-MM-DD) and models, with the input and output"
            " of each per million tokens and, where it is known, cache_read"
        ) from error
