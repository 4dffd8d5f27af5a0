"""The options that several commands share."""

from collections.abc import Sequence

import click

from projections.read_models.registry import PROJECTIONS

TENANTS_LISTED_MAX = 20

projection_option = click.option(
    "--projection", type=click.Choice([projection.name for projection in PROJECTIONS]), help="Only this read model."
)
tenant_option = click.option("--tenant", help="Only this tenant.")
timeout_option = click.option(
    "--timeout", default=600.0, show_default=True, help="Give up when an outage has lasted this many seconds."
)
processes_option = click.option(
    "--processes",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Use N processes. By default one per core, at most 8, and fewer for a short log.",
)


def select_tenants(tenants: Sequence[str], tenant: str | None) -> list[str]:
    """Return all tenants, or only the one that --tenant names. Raises BadParameter if it is unknown."""
    if tenant is None:
        return list(tenants)
    if tenant not in tenants:
        listed = ", ".join(tenants[:TENANTS_LISTED_MAX]) or "none"
        more = len(tenants) - TENANTS_LISTED_MAX
        raise click.BadParameter(
            f"{tenant!r} has no events; tenants: {listed}{f' and {more:,} more' if more > 0 else ''}",
            param_hint="--tenant",
        )
    return [tenant]
