"""The tool of the support desk, a registered function."""

from collections.abc import AsyncIterator
from typing import Annotated

from millstream import Builder, FunctionBaseConfig, FunctionInfo, register_function


class OrdersConfig(FunctionBaseConfig, name="look_up_order"):
    """Orders by number."""

    orders: dict[str, str]


@register_function(config_type=OrdersConfig)
async def orders(config: OrdersConfig, _builder: Builder) -> AsyncIterator[FunctionInfo]:
    async def look_up_order(number: Annotated[int, "the order's number"]) -> str:
        """What became of an order."""
        return config.orders.get(str(number), f"there is no order {number}")

    yield FunctionInfo.from_fn(look_up_order)
