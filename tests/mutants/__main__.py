"""`python -m tests.mutants [NAME …]`: plants bugs, one at a time, and checks that the tests catch each.

A NAME is a part of a bug's name, a guarantee (G1 … G9), or an area such as `events`, `stats` or `activity`; AREAS in
mutants.py lists all areas. Exit 1 if a bug survives or no longer applies, or if `make test` catches fewer than 9 of 10.
"""

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed

import click
from rich.text import Text

from cli.output import print_json, progress_bar, stdout, table
from tests.mutants.mutants import AREAS, MUTANTS, Mutant
from tests.mutants.plant import (
    FIRST_TIER_SHARE,
    SELF_TEST,
    Outcome,
    TestsDidNotRunError,
    Verdict,
    copy_of_tree,
    first_failure,
    outcome_of,
)

CLEAN_TIMEOUT_S = 1800


@click.command()
@click.argument("names", nargs=-1)
@click.option(
    "--jobs", default=2, show_default=True, help="How many bugs to test at once, each in its own copy of the tree."
)
@click.option(
    "--tier",
    type=click.Choice(["first"]),
    help="Run only the tests of `make test`. Default: also those of `make test-all` if `make test` catches nothing.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the outcomes as JSON.")
def main(names: tuple[str, ...], jobs: int, tier: str | None, as_json: bool) -> None:
    """Plant the bugs whose name contains one of NAMES, or whose guarantee or area is one of NAMES; without NAMES, all."""
    chosen = [each for each in MUTANTS if not names or any(name in each.name or name == each.promise for name in names)]
    if not chosen:
        raise click.UsageError(
            f"no planted bug, guarantee or area matches {' or '.join(names)}; areas: {', '.join(AREAS)}"
        )
    tiers = ("first", "full") if tier is None else (tier,)
    _check_clean(chosen, tier)
    outcomes = []
    with progress_bar() as progress:
        task = progress.add_task(f"planting {len(chosen)} bugs", total=len(chosen))
        for outcome in _outcomes(chosen, tiers, jobs):
            outcomes.append(outcome)
            progress.console.print(_line(outcome), soft_wrap=True)
            progress.advance(task)
    outcomes.sort(key=lambda outcome: chosen.index(outcome.mutant))
    if as_json:
        print_json([_plain(outcome) for outcome in outcomes])
    else:
        _print_table(outcomes)
    too_few_first = _caught_first(outcomes) < FIRST_TIER_SHARE * len(outcomes)
    survived = tier is None and not all(outcome.is_caught for outcome in outcomes)
    sys.exit(too_few_first or survived or any(outcome.verdict is Verdict.BROKEN for outcome in outcomes))


def _caught_first(outcomes: Sequence[Outcome]) -> int:
    return sum(each.verdict is Verdict.CAUGHT for each in outcomes)


def _check_clean(chosen: Sequence[Mutant], tier: str | None) -> None:
    """Check that the chosen tests pass on a copy without a bug; otherwise their failure would prove nothing.

    The self-test runs too: it checks that tests and the processes they start import the copy.
    """
    tests = sorted({test for mutant in chosen for test in mutant.tests})
    with copy_of_tree() as root:
        try:
            failure = first_failure(root, [SELF_TEST, *tests], tier, CLEAN_TIMEOUT_S)
        except TestsDidNotRunError as error:
            raise click.ClickException(f"without a bug {error}") from None
    if failure is not None:
        raise click.ClickException(f"without a bug {failure.test} fails: {failure.why}")
    click.echo(f"{len(tests)} tests pass without a bug", err=True)


def _outcomes(chosen: Sequence[Mutant], tiers: Sequence[str], jobs: int) -> Iterator[Outcome]:
    """Yield outcomes as they are ready."""
    with ThreadPoolExecutor(jobs) as executor:
        under_way: list[Future[Outcome]] = [executor.submit(outcome_of, mutant, tiers) for mutant in chosen]
        try:
            for future in as_completed(under_way):
                yield future.result()
        finally:
            executor.shutdown(cancel_futures=True)


def _line(outcome: Outcome) -> Text:
    line = f"{outcome.verdict}: {outcome.mutant.name} ({outcome.seconds:.0f} s) {outcome.by} {outcome.why}"
    return Text(line, style="" if outcome.is_caught else "bold red")


def _print_table(outcomes: Sequence[Outcome]) -> None:
    rows = [
        (each.mutant.name, each.mutant.promise, each.place, _caught_by(each), f"{each.seconds:.0f}")
        for each in outcomes
    ]
    caught = sum(each.is_caught for each in outcomes)
    title = f"{caught} of {len(outcomes)} planted bugs were caught, {_caught_first(outcomes)} by `make test`"
    stdout().print(table(title, ("bug", "promise", "place", "caught by", "seconds"), rows, left=4))


def _caught_by(outcome: Outcome) -> str:
    match outcome.verdict:
        case Verdict.CAUGHT:
            return outcome.by
        case Verdict.CAUGHT_LATER:
            return f"{outcome.by} (`make test-all`)"
        case Verdict.CAUGHT_ELSEWHERE:
            return f"{outcome.by} (not by its own tests)"
        case _:
            return f"{outcome.verdict}: {outcome.why}"


def _plain(outcome: Outcome) -> dict[str, object]:
    return {
        "name": outcome.mutant.name,
        "promise": outcome.mutant.promise,
        "place": outcome.place,
        "verdict": outcome.verdict.value,
        "by": outcome.by,
        "why": outcome.why,
        "seconds": round(outcome.seconds, 1),
    }


if __name__ == "__main__":
    main()
