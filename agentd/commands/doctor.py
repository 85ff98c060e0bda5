"""`agentd doctor`: what is wrong with this installation, and what to do about it."""

import argparse
from collections.abc import Sequence

from agentd.clock import SystemClock
from agentd.commands.home import home_alone
from agentd.commands.output import GREEN, RED, YELLOW, colour, note, plain, print_json, say
from agentd.doctor import Finding, Level, Mended, examine, mend
from agentd.paths import discover
from agentd.states import Exit

SHOWN = 20  # missing things of one table; the list beside the old database has all

EXAMPLES = """example:
  agentd doctor
  agentd doctor --repair      # with the daemon stopped

Exits 1 when there is a problem; warnings do not count. --repair needs the daemon stopped. It makes
private what should be, removes what killed processes left, and saves what can be read of a damaged
database into a new one. The damaged one is kept beside it, with a list of what is missing.

--json prints one object: ok, findings [{name, level (ok, warning, problem), what, hint}], and with
--repair: mended [text] and repaired (null, or {kept, rows {table: n}, missing {table: [what]},
notes [text]})."""

MARKS = {
    Level.OK: ("ok", GREEN),
    Level.WARNING: ("warning", YELLOW),
    Level.PROBLEM: ("problem", RED),
}


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("--repair", action="store_true", help="mend what can be mended")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Mend if asked to, then look at everything."""
    paths, clock = discover(), SystemClock()
    mended: Mended | None = None
    if args.repair:
        with home_alone(paths):
            mended = mend(paths, clock)
        if not args.json:
            _print_mended(mended)
    findings: list[Finding] = []
    for finding in examine(paths, clock):
        findings.append(finding)
        if not args.json:
            _print(finding)
    fine = all(finding.level is not Level.PROBLEM for finding in findings)
    if args.json:
        document = {"ok": fine, "findings": [vars(finding) for finding in findings]}
        if mended is not None:
            repaired = mended.repaired and mended.repaired.document()
            document |= {"mended": mended.done, "repaired": repaired}
        print_json(document)
    elif not fine:
        note("there is a problem")
    return Exit.OK if fine else Exit.FAILED


def _print(finding: Finding) -> None:
    word, code = MARKS[finding.level]
    say(f"{colour(f'{word:7}', code)}  {finding.name:13}  {plain(finding.what)}")
    if finding.hint and finding.level is not Level.OK:
        say(f"{'':24}  {plain(finding.hint)}")


def _print_mended(mended: Mended) -> None:
    for line in mended.done:
        say(plain(line))
    repaired = mended.repaired
    if repaired is None:
        say("the database needed no repair" if not mended.done else "")
        return
    say(f"the damaged database is kept as {repaired.kept}")
    for table, count in repaired.rows.items():
        missing = repaired.missing.get(table, ())
        say(f"  {table:12}  {count:>8} saved  {_missing(missing)}".rstrip())
    for line in repaired.notes:
        say(f"  {plain(line)}")
    if repaired.missing:
        say(f"the whole list is in {repaired.kept}.json")
        say()


def _missing(missing: Sequence[str]) -> str:
    if not missing:
        return ""
    more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
    return colour(f"missing: {plain(', '.join(missing[:SHOWN]))}{more}", RED)
