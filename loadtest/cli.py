"""`qianyan-load`, and `python -m loadtest`: what an engineer types. Owns words and exit statuses; measures nothing.

Exit status: 0 goals met; 1 goals missed, or a wrong answer; 2 the run could not be made.
"""

from __future__ import annotations

import asyncio
import functools
import json
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from loadtest import compare as comparing
from loadtest import prepare as preparing
from loadtest import result, shapes
from loadtest.plan import Plan
from loadtest.report import write_report
from loadtest.run import Make, Options, Run
from loadtest.scenarios.catalogue import MIXES, SCENARIOS, is_fast, read_mix
from loadtest.target import Target, TargetError
from loadtest.users.fleet import Fleet
from loadtest.verdict import Goals
from loadtest.x509 import Issuer

F = TypeVar("F", bound=Callable[..., Any])
_MISSED: Final = 1
_UNABLE: Final = 2


def _clear(command: F) -> F:
    """Turns what the user can mend into one line on standard error and status 2."""

    @functools.wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except (TargetError, ValueError, OSError) as error:
            click.echo(f"qianyan-load: {error or type(error).__name__}", err=True)
            sys.exit(_UNABLE)

    return wrapped  # type: ignore[return-value]


def _decorated(options: list[Callable[[F], F]]) -> Callable[[F], F]:
    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


_target_option = click.option(
    "--target", "target_file", required=True, type=click.Path(dir_okay=False, path_type=Path),
    help="What is loaded and what is true there: a file that `prepare` wrote.",
)  # fmt: skip
_json_option = click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
_load_options = _decorated(
    [
        click.option("--scenario", "scenarios", multiple=True, metavar="NAME=RATE", help="Requests a second of one."),
        click.option("--mix", type=click.Choice(list(MIXES)), help="A named mix; --scenario changes its rates."),
        click.option("--rate", type=click.FloatRange(min=0.01), help="Scales the mix to so many requests a second."),
        click.option("--shape", default="steady", show_default=True, type=click.Choice(list(shapes.SHAPES)),
                     help="How the rate goes over the run; see `scenarios`."),
        click.option("--duration", default=60.0, show_default=True, type=click.FloatRange(1, 7 * 86_400),
                     help="Seconds of arrivals."),
        click.option("--connections", default=64, show_default=True, type=click.IntRange(1, 10_000),
                     help="At most, to each listener, by each engine."),
        click.option("--timeout", default=10.0, show_default=True, type=click.FloatRange(0.1, 600),
                     help="Seconds after which a request is given up."),
        click.option("--warm-up", default=0.0, show_default=True, type=click.FloatRange(0, 3600),
                     help="Seconds of the same load before, which are not counted."),
        click.option("--sample", default=0.01, show_default=True, type=click.FloatRange(0, 1),
                     help="Share of answers that are judged whole: signature, truth, freshness."),
    ]
)  # fmt: skip


_goal_options = _decorated(
    [
        click.option("--p99-ms", type=float, help="Goal: 99 % of requests end within so many milliseconds."),
        click.option("--error-rate", type=click.FloatRange(0, 1), help="Goal: at most this share of requests fails."),
        click.option("--min-rate", type=float, help="Goal: at least so many good answers a second."),
        click.option("--signing", type=click.Choice(["software", "hsm"]),
                     help="Where the keys are, if the target's file does not say."),
        click.option("--cache-share", type=click.FloatRange(0, 1),
                     help="Share of OCSP answers from the cache, where the service's metrics cannot be read."),
        click.option("--name", default="", help="What the report is called."),
        click.option("--out", "out_dir", default=Path("load-report"), show_default=True,
                     type=click.Path(path_type=Path), help="Folder for report.html and result.json."),
    ]
)  # fmt: skip


@click.group()
@click.version_option(package_name="qianyan", prog_name="qianyan-load")
def main() -> None:
    """Loads a qianyan service, judges its answers, and reports.

    Arrivals follow a schedule whatever the service does, and latency counts from the scheduled moment: waiting for a
    slow service is not left out. A wrong answer fails the run, whatever its goals.

    \b
    A service of its own, on this machine:  make load
    One of yours, once:
      qianyan-load prepare --public URL --private URL --token-file F --out t.json
    then, each with --target t.json:
      qianyan-load run --mix standard --rate 2000 --duration 120 --p99-ms 50
      qianyan-load run --mix ocsp --rate 40000 --shape ramp        (the knee)
      qianyan-load run --scenario ocsp-post=100 --generator wrk    (the most)
      qianyan-load locust --mix standard --users 200 --workers 4
    Two builds:
      qianyan-load compare before/result.json after/result.json
    """


@main.command()
def scenarios() -> None:
    """List scenarios, mixes and shapes."""
    for name, one in SCENARIOS.items():
        click.echo(f"{name:14} {one.help}{'' if is_fast(name) else '  (Python engine)'}")
    click.echo("\nmixes, requests a second:")
    for name, rates in MIXES.items():
        click.echo(f"{name:14} {', '.join(f'{one}={rate:g}' for one, rate in rates.items())}")
    click.echo("\nshapes:")
    for name, text in shapes.SHAPES.items():
        click.echo(f"{name:16} {text}")


@main.command()
@_target_option
@_load_options
@_goal_options
@click.option("--arrivals", default="poisson", show_default=True, type=click.Choice(["poisson", "constant"]))
@click.option("--engine", default="auto", show_default=True, type=click.Choice(["auto", "native", "python"]),
              help="auto: compiled for calls that stand alone, Python for the rest.")  # fmt: skip
@click.option(
    "--processes",
    default=1,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Of the compiled engine; wrk's threads.",
)
@click.option(
    "--generator",
    default="own",
    show_default=True,
    type=click.Choice(["own", "wrk"]),
    help="wrk: it drives one scenario as fast as it is answered; ours asks RATE a second beside it and judges.",
)
@click.option("--closed", is_flag=True, help="Closed loop (each connection waits for its answer), for comparison.")
@click.option("--seed", default=1, show_default=True, type=int)
@_json_option
@_clear
def run(**values: Any) -> None:
    """Run once, write report.html and result.json, and judge the goals.

    Ctrl-C ends the run early; the report is written all the same.
    """
    _whole_run(values, None)


@main.command()
@_target_option
@_load_options
@_goal_options
@click.option("--users", default=64, show_default=True, type=click.IntRange(1, 100_000),
              help="At a multiple of 1, all workers together; each waits for its answers.")  # fmt: skip
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Processes on this machine.")
@click.option("--listen", default="127.0.0.1", show_default=True, help="Where the master waits for workers.")
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="The master's port.  [default: a free one]")
@click.option("--elsewhere", default=0, type=click.IntRange(0, 1000), help="Workers that other machines bring along.")
@click.option("--worker-of", metavar="HOST:PORT", help="Be workers for the master there; other options as there.")
@_json_option
@_clear
def locust(
    users: int, workers: int, listen: str, port: int, elsewhere: int, worker_of: str | None, **values: Any
) -> None:
    """Run with users who wait for their answers (locust): a master and workers, reports as from `run`.

    A closed loop shows what so many clients get; for latencies of a service under a given rate use `run`.
    """
    values |= {"arrivals": "poisson", "engine": "auto", "processes": 1, "closed": True, "seed": 1, "generator": "own"}
    fleet = Fleet(users, workers, listen, port, elsewhere)
    if worker_of is not None:
        host, _, number = worker_of.rpartition(":")
        if not host or not number.isdigit():
            raise TargetError(f"{worker_of!r}: write HOST:PORT of the master")
        asyncio.run(fleet.join(_plan(values), host, int(number)))
        return
    _whole_run(values, fleet.make)


def _plan(values: dict[str, Any]) -> Plan:
    return Plan(
        target=str(values["target_file"].resolve()),
        rates=read_mix(values["scenarios"], values["mix"], values["rate"]),
        shape=values["shape"],
        duration_s=values["duration"],
        seed=values["seed"],
        poisson=values["arrivals"] == "poisson",
        connections=values["connections"],
        timeout_s=values["timeout"],
        sample=values["sample"],
        closed=values["closed"],
    )


def _whole_run(values: dict[str, Any], make: Make | None) -> None:
    """Runs, writes, prints, and exits by the goals."""
    plan, out_dir = _plan(values), values["out_dir"]
    goals = Goals(values["p99_ms"], values["error_rate"], values["min_rate"])
    name = values["name"] or values["mix"] or ", ".join(plan.rates)
    signing, share = values["signing"], values["cache_share"]
    wrk = values["generator"] == "wrk"
    options = Options(plan, name, values["engine"], values["processes"], goals, signing, share, wrk)
    document = asyncio.run(_execute(options, values["warm_up"], make))
    out_dir.mkdir(parents=True, exist_ok=True)
    result.save(document, out_dir / "result.json")
    write_report(document, out_dir / "report.html")
    if values["as_json"]:
        click.echo(json.dumps({**_main_figures(document), "report": str(out_dir / "report.html")}, indent=2))
    else:
        _print(document, out_dir)
    sys.exit(0 if all(row["met"] for row in document["goals"]) else _MISSED)


async def _execute(options: Options, warm_up_s: float, make: Make | None = None) -> dict[str, Any]:
    """The run's document; `warm_up_s` seconds of the same before it are thrown away."""
    plan = options.plan
    works = [Run(options, lambda text: click.echo(text, err=True), make)]
    if warm_up_s:
        before = replace(options, plan=replace(plan, duration_s=warm_up_s, shape="steady", seed=plan.seed + 1))
        works.insert(0, Run(before, lambda text: click.echo(f"warm-up {text}", err=True), make))
    loop = asyncio.get_running_loop()
    document: dict[str, Any] = {}
    for work in works:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, work.stop)
        document = await work.execute()
        if work.interrupted:
            break
    return {**document, "warm_up_s": warm_up_s}


def _main_figures(document: dict[str, Any]) -> dict[str, Any]:
    """What is worth a line."""

    def figures(one: dict[str, Any]) -> dict[str, Any]:
        return {name: one[name] for name in ("count", "rate", "faults", "errors", "latency_ms")}

    kinds = {name: figures(one) for name, one in document["kinds"].items()}
    rest: dict[str, Any] = {
        name: document[name] for name in ("name", "goals", "environment", "wrk", "knee", "drift") if name in document
    }
    return {**rest, "total": figures(document["total"]), "kinds": kinds, "generator": document["generator"]}


def _print(document: dict[str, Any], out_dir: Path) -> None:
    click.echo(f"\n{'':14}{'good/s':>11}{'faults':>9}{'p50 ms':>9}{'p99 ms':>9}{'p99.9 ms':>10}{'max ms':>9}")
    for name, one in [*document["kinds"].items(), ("all", document["total"])]:
        ms = one["latency_ms"]
        cells = f"{one['rate']:11,.1f}{one['faults']:9,}{ms['p50']:9.2f}{ms['p99']:9.2f}{ms['p99.9']:10.2f}"
        click.echo(f"{name:14}{cells}{ms['max']:9.1f}")
    if "wrk" in document:
        one = document["wrk"]
        ms = one["latency_ms"]
        cells = f"{one['rate']:11,.1f}{one['faults']:9,}{ms['p50']:9.2f}{ms['p99']:9.2f}{ms['p99.9']:10.2f}"
        click.echo(f"{'wrk':14}{cells}{ms['max']:9.1f}   {one['scenario']}, as fast as it is answered")
    for text in document["generator"]["wrong"]:
        click.echo(f"WRONG ANSWER {text}")
    for text in document["generator"]["limits"]:
        click.echo(f"the generator was a limit: {text}")
    for text in document["generator"]["cautions"]:
        click.echo(f"caution: {text}")
    generator = document["generator"]
    click.echo(
        f"judged whole: {generator['checked']:,} answers, {generator['check_us']:.0f} µs each, "
        f"{generator['check_cpu_s'] / document['seconds']:.1%} of a core"
    )
    if "knee" in document:
        knee = document["knee"]
        told = f"knee at {knee['rate']:,.0f} requests/s" if knee["rate"] else "no knee: the service kept up throughout"
        click.echo(f"{told}; at most {knee['highest']:,.0f} answered a second")
    if "drift" in document:
        drift = document["drift"]
        grown = [f"{name} {share:+.1%}" for name, share in [*drift["memory"].items(), ("p99", drift["p99"])]]
        click.echo(f"drift, last quarter against the second: {', '.join(grown)}")
    for row in document["goals"]:
        click.echo(f"{'met   ' if row['met'] else 'MISSED'} {row['goal']}: {row['reached']:g} (limit {row['limit']:g})")
    click.echo(f"report {out_dir / 'report.html'}")


@main.command()
@click.option("--public", required=True, metavar="URL", help="The public listener.")
@click.option("--private", required=True, metavar="URL", help="The private listener.")
@click.option("--token-file", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A token with the scopes issue, revoke, sign and metrics.")  # fmt: skip
@click.option("--ca-file", default="", help="PEM of the authority that signed the private listener's certificate.")
@click.option("--authority", default="issuing", show_default=True, help="Who issues.")
@click.option("--signing-key", default="demo", show_default=True, help="The key that the sign scenarios use.")
@click.option("--signing-public-key", default="", metavar="HEX", help="Its 65 octets (`qianyan key list --json`).")
@click.option("--ldap", default="", metavar="URL", help="The directory, for the scenario ldap.")
@click.option("--ldap-base", default="dc=qianyan", show_default=True)
@click.option("--holders", default=200, show_default=True, type=click.IntRange(1, 1_000_000))
@click.option("--revoked", default=0.05, show_default=True, type=click.FloatRange(0, 1), help="Share of holders.")
@click.option("--held", default=0.01, show_default=True, type=click.FloatRange(0, 1), help="Share of holders.")
@click.option("--ra", "with_ra", is_flag=True, help="Register an RA with two people too, for the scenarios ra-….  The "
              "token then needs registration:write.")  # fmt: skip
@click.option("--facts", "facts_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help='For the report: {"signing": "software", "versions": {"qianyan": …}, "settings": {…}}.')  # fmt: skip
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The target file, mode 0600."
)
@_clear
def prepare(public: str, private: str, token_file: Path, facts_file: Path | None, out: Path, **more: Any) -> None:
    """Issue certificates for a run, revoke and hold some, and write down what is true.

    This changes the service that it is pointed at. Never point it at one in production.
    """
    facts = json.loads(facts_file.read_text()) if facts_file is not None else {}
    target = Target(
        public=public.rstrip("/"),
        private=private.rstrip("/"),
        authority=more["authority"],
        issuer=Issuer(b""),
        token=token_file.read_text().strip(),
        signing_key=more["signing_key"],
        signing_public_key=bytes.fromhex(more["signing_public_key"]),
        directory=more["ldap"],
        directory_base=more["ldap_base"],
        facts=facts,
        ca_file=more["ca_file"],
    )
    wish = preparing.Wish(more["holders"], more["revoked"], more["held"], ra=more["with_ra"])
    asyncio.run(preparing.prepare(target, wish, lambda n: None if n % 100 else click.echo(f"{n} holders", err=True)))
    target.save(out)
    click.echo(f"{out}: {len(target.holders)} holders, {len(target.known)} certificates")


@main.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@_json_option
@_clear
def compare(before: Path, after: Path, as_json: bool) -> None:
    """Say what changed between two results beyond noise. Exit status 1 where something got worse."""
    rows = comparing.compare(result.load(before), result.load(after))
    if as_json:
        click.echo(json.dumps([row.document() for row in rows], indent=2))
    else:
        click.echo(comparing.table(rows))
    sys.exit(_MISSED if any(row.verdict == "worse" for row in rows) else 0)


@main.command()
@click.argument("result_file", type=click.Path(path_type=Path))
@click.option("--out", default=Path("report.html"), show_default=True, type=click.Path(path_type=Path))
@_clear
def report(result_file: Path, out: Path) -> None:
    """Write the HTML report of a result.json anew."""
    write_report(result.load(result_file), out)
    click.echo(str(out))
