"""One HTML page that needs nothing else: templates beside this module, with a style in common."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """The page that a template makes of the values, every text in them escaped.

    Args:
        template: file name, as in `page.html.jinja`.
        **values: what the template names.
    """
    return _ENVIRONMENT.get_template(template).render(**values)


def _percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def _heat(accuracy: float) -> float:
    """Opacity of a cell's tint: nothing from 98 % on, full at 70 % and below."""
    return round(min(max((0.98 - accuracy) / 0.28, 0.0), 1.0), 3)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("streetvision.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {"percent": _percent, "heat": _heat}
    environment.filters.update(filters)
    return environment


_ENVIRONMENT = _environment()
