"""Commands of the contract that come later: until then they say so."""

import click


def _later(name: str, does: str) -> click.Command:
    def not_yet() -> None:
        raise click.UsageError(f"`projector {name}` is not available in this version yet.")

    return click.Command(
        name,
        callback=not_yet,
        short_help=f"(later) {does}",
        help=f"{does} Not available in this version yet.",
        context_settings={"ignore_unknown_options": True},
        params=[click.Argument(["rest"], nargs=-1, expose_value=False, type=click.UNPROCESSED)],
    )


LATER = (_later("verify", "Compare read models with the event log."),)
