"""``lumos deploy``: credentials of a deployment, and its server."""

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from lumos_core.cli.deploy_series import (
    KEEP,
    AtOption,
    EveryOption,
    KeepOption,
    NightsOption,
    SeriesEpsilonOption,
    SeriesOption,
    refuse_without_timetable,
    series_options,
    serve_series,
)
from lumos_core.cli.options import (
    ConfigOption,
    FromOption,
    MethodOption,
    RoundsOption,
    SeedOption,
    parse_settings,
)
from lumos_core.cli.screens import results_table
from lumos_core.deployment import admission, credentials, folders, renewal
from lumos_core.deployment.demo import run_demo
from lumos_core.deployment.node_keys import PublicKey
from lumos_core.deployment.renewal import SERVER_DAYS
from lumos_core.errors import ConfigError, FederationError
from lumos_core.runs.certificate_dates import WARN_DAYS
from lumos_core.runs.report import (
    REPORTED_METRICS,
    cells,
    federated_row,
    untested,
    write_report,
)
from lumos_core.runs.report_page import write_failed_page, write_page
from lumos_core.runs.summary import RunSummary

deploy_app = typer.Typer(
    name="deploy",
    help="A federation across machines: credentials, nodes, server.",
    no_args_is_help=True,
)


@deploy_app.command("init")
def init_command(
    out: Annotated[Path, typer.Argument(help="New folder for certificates and keys.")],
    host: Annotated[
        list[str],
        typer.Option(help="Name or address by which nodes reach the server; repeatable."),
    ],
    nodes: Annotated[
        str,
        typer.Option(
            help="For trials: number or names (north,south) of nodes whose keys are made here. "
            "Without it, each node makes its own: lumos node init.",
            show_default=False,
        ),
    ] = "",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Fleet port.")] = 9092,
    days: Annotated[
        int, typer.Option(min=1, max=3650, help="Validity of the server certificate.")
    ] = SERVER_DAYS,
) -> None:
    """Write the authority, certificate and secrets of a new deployment; never overwrites.

    With --nodes also the keys of nodes, which then have to travel: for demos and trials.
    """
    names = folders.node_names(nodes) if nodes else []
    manifest = folders.create(out, host, names, port, days)
    console = _console()
    console.print(f"server   {out / 'server'}  to the server's machine")
    for name in manifest.nodes:
        console.print(f"node     {out / 'nodes' / name}  to the machine of {name}, and only there")
    console.print(f"CA       {out / 'ca'}  keep it offline")
    if manifest.nodes:
        console.print(
            "\nThe nodes' private keys were made here: good for a trial. Otherwise make each where "
            "it is used\n('lumos node init') and admit it with 'lumos deploy add-node'."
        )
    else:
        _print_needs(console, folders.ServerKit(out / "server", manifest), "each node", "NAME")
    console.print("\nserver:     lumos deploy server server --catalog catalog.tsv")
    first = manifest.nodes[0] if manifest.nodes else "NAME"
    console.print(f"each node:  lumos node start {first} --data DATA")


Folder = Annotated[
    Path,
    typer.Argument(
        help="The server's folder, or the folder that 'lumos deploy init' wrote.",
        metavar="FOLDER",
    ),
]
PublicKeyFile = typer.Option(
    "--public-key", help="File NAME.pub that the node's owner made with 'lumos node init'."
)
OptionalPublicKey = Annotated[Path | None, PublicKeyFile]
Fingerprint = Annotated[
    str,
    typer.Option(
        metavar="SHA256:…",
        help="What the node's owner reads out; a file with another key is refused.",
        show_default=False,
    ),
]


@deploy_app.command("add-node")
def add_node_command(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="Name of the new node.")],
    public_key: OptionalPublicKey = None,
    fingerprint: Fingerprint = "",
) -> None:
    """Admit one more node by the public key that it has made; a running server takes it at once.

    Without --public-key the node's key and bundle are made here, in the folder that 'lumos deploy
    init' wrote: for demos and trials. Nothing is overwritten.
    """
    if fingerprint and public_key is None:
        raise ConfigError("--fingerprint is that of --public-key FILE, which is missing")
    written = admission.add_node(folder, name, public_key, fingerprint)
    console = _console()
    if public_key is None:
        console.print(f"node     {written}  to the machine of {name}, and only there")
    else:
        console.print(
            f"node     {name} is admitted by the key {PublicKey.read(written).fingerprint}"
        )
        if not fingerprint:
            console.print("         its owner sees the same fingerprint: compare the two")
        place = admission.Place.of(folder)
        manifest = folders.Manifest.read(place.manifest_path)
        _print_needs(console, folders.ServerKit(place.server, manifest), name, name)
    _print_server(console, folder)


@deploy_app.command("remove-node")
def remove_node_command(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="Name of the node.")],
) -> None:
    """Revoke a node: its key is refused from then on, also by a server that is running.

    Its files are moved to the folder 'removed'; its name is free for a new key (add-node).
    """
    place = admission.remove_node(folder, name)
    console = _console()
    console.print(f"removed  {name}; its files are in {place}")
    _print_server(console, folder)


@deploy_app.command("rotate-node")
def rotate_node_command(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="Name of the node.")],
    public_key: Annotated[Path, PublicKeyFile],
    fingerprint: Fingerprint = "",
) -> None:
    """Admit another key under a node's name; its old key is refused from then on.

    The node's owner makes the new key with 'lumos node init FOLDER --new-key'.
    """
    key = admission.rotate_node(folder, name, public_key, fingerprint)
    console = _console()
    console.print(f"node     {name} is admitted by the key {key.fingerprint}, no longer by its old")
    if not fingerprint:
        console.print("         its owner sees the same fingerprint: compare the two")
    console.print(f"         on its machine: mv node.key.new node.key, and start {name} again")
    _print_server(console, folder)


@deploy_app.command("renew")
def renew_command(
    folder: Folder,
    ca: Annotated[
        Path | None,
        typer.Option(
            help="Folder with ca.crt and ca.key (default: ca beside the server's folder).",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(help="Name or address for the certificate, instead of those before."),
    ] = None,
    days: Annotated[
        int, typer.Option(min=1, max=3650, help="Validity of the server certificate.")
    ] = SERVER_DAYS,
    extend_ca: Annotated[
        bool,
        typer.Option(
            "--extend-ca",
            help="Also a new certificate of the authority for its same key. Nodes need the new "
            "ca.crt before the old one expires.",
        ),
    ] = False,
    new_ca: Annotated[
        bool,
        typer.Option(
            "--new-ca",
            help="Only make a new authority, since the key of the old one is lost or stolen. The "
            "server keeps its certificate until 'renew' is called again.",
        ),
    ] = False,
) -> None:
    """Give the server a new certificate; a running server starts again with it by itself."""
    if extend_ca and new_ca:
        raise ConfigError("--extend-ca keeps the authority's key, --new-ca replaces it: choose one")
    authority = renewal.authority_of(folder, ca)
    console = _console()
    if new_ca:
        away = renewal.replace_authority(folder, authority)
        _print_new_authority(console, folder, authority, away)
        return
    if extend_ca:
        renewal.extend_authority(folder, authority)
    done = renewal.renew(folder, authority, host or (), days)
    left = credentials.days_left(done.certificate)
    hosts = ", ".join(done.kit.manifest.hosts)
    console.print(f"server   {done.kit.certificate}  valid for {left:.0f} days, for {hosts}")
    until = credentials.days_left(done.authority)
    console.print(f"CA       {done.kit.ca}  valid for {until:.0f} days")
    if until < WARN_DAYS:
        console.print("[yellow]         it expires soon: lumos deploy renew --extend-ca[/]")
    if done.authority_changed:
        console.print(f"nodes    give them {done.kit.ca}, before the one that they have expires")
    _print_server(console, folder)


def _print_new_authority(
    console: Console, folder: Path, authority: renewal.Authority, away: Path | None
) -> None:
    kit = admission.Place.of(folder).server
    if away is not None:
        console.print(f"old CA   {away}")
    console.print(f"CA       {authority.folder}  keep it offline")
    console.print(f"nodes    give each of them {kit / folders.CA}, which holds the new certificate")
    console.print("         and, until the next step, the old one; then start the node again")
    console.print(f"then     lumos deploy renew {folder}: the server's certificate by the new CA")


def _console() -> Console:
    return Console(soft_wrap=True, highlight=False)


def _print_needs(console: Console, kit: folders.ServerKit, who: str, name: str) -> None:
    """Print what a node that makes its own key needs from the server; none of it is secret."""
    found = credentials.certificate_fingerprint(credentials.read_certificate(kit.ca))
    address = kit.manifest.superlink
    console.print(f"{who} needs the address {address} and {kit.ca}, SHA-256")
    console.print(f"         {found}")
    if name == "NAME":
        console.print(f"         lumos node init {name} --superlink {address} --ca ca.crt")


def _print_server(console: Console, folder: Path) -> None:
    """Print how to bring a change to the server. The command works whether the server's machine has
    the folder or not, and leaves run and state in it unchanged."""
    place = admission.Place.of(folder)
    if place.has_bundles:
        console.print(f"server   rsync -a {place.server}/ HOST:server/   if it runs elsewhere")
    console.print("         a server that is running follows within a few seconds")


@deploy_app.command("server")
def server_command(
    folder: Annotated[Path, typer.Argument(help="Folder 'server' of 'lumos deploy init'.")],
    catalog: Annotated[Path, typer.Option(help="catalog.tsv that all nodes have.")],
    run_dir: Annotated[
        Path | None, typer.Option(help="Folder of the run (default: run in the server's folder).")
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the SuperLink's database (default: state in the server's folder)."
        ),
    ] = None,
    rounds: RoundsOption = None,
    method: MethodOption = None,
    seed: SeedOption = None,
    start: FromOption = None,
    domain: Annotated[
        Literal["products", "films", "games", "news", "books", "music", "places"] | None,
        typer.Option(
            help="What the items are, for the language model (default: as recorded in the prepared "
            "folder that holds the catalog; for another word use -c llm-noun=…).",
            show_default=False,
        ),
    ] = None,
    settings: ConfigOption = None,
    bind: Annotated[
        str,
        typer.Option(help="Interface of the fleet port, the only port that other machines use."),
    ] = "0.0.0.0",
    control_port: Annotated[
        int, typer.Option(min=0, help="Control port on loopback; 0: any free one.")
    ] = 0,
    every: EveryOption = "",
    at: AtOption = "",
    nights: NightsOption = 0,
    keep: KeepOption = KEEP,
    series: SeriesOption = None,
    series_epsilon: SeriesEpsilonOption = 0.0,
) -> None:
    """Run a federation for nodes on other machines until it has finished.

    Every node needs TLS and a node key. A process that dies is started again, and the run resumes
    after its last finished round. The same command resumes a run that was stopped; with a larger
    --rounds it continues a run that has completed. Nodes are added, removed and given other keys
    while it runs, and a renewed certificate is taken up.

    With --every or --at it does a run after another, each beginning with the model in use, which is
    replaced only by one that is better on the validation targets.
    """
    # these import polars and numpy, which the other commands do without
    from lumos_core.data.domains import NOUNS
    from lumos_core.deployment.plan import server_config, server_start
    from lumos_core.deployment.server_supervisor import ServerOptions, serve

    flat, for_node = parse_settings(settings, rounds=rounds, method=method, seed=seed)
    if for_node:
        raise ConfigError(f"-c node.{next(iter(for_node))}: a node's keys go into its node.toml")
    if domain is not None:
        if "llm-noun" in flat:
            raise ConfigError("key 'llm-noun' is given twice, as --domain and with -c")
        flat["llm-noun"] = NOUNS[domain]

    def options_of(
        folder_of_run: Path, model: Path | None, changes: Mapping[str, Any]
    ) -> ServerOptions:
        kit = folders.ServerKit.read(folder)  # as it is now: nodes may have been added
        keys = {**flat, **changes}
        config = server_config(keys, len(kit.manifest.nodes), catalog, folder_of_run)
        config, begun = server_start(config, folder_of_run, model)
        if begun is not None:
            console.print(f"starts from {begun.facts.text}", markup=False, highlight=False)
        return ServerOptions(
            kit=kit,
            config=config,
            run_dir=folder_of_run,
            state=state or folder / "state",
            bind=bind,
            control_port=control_port,
            start=begun,
        )

    console = Console(soft_wrap=True)
    try:
        if every or at:
            if flat.get("evaluation") == "none":
                raise ConfigError(
                    "evaluation = none with --every or --at: a night's model is taken into use "
                    "only if it is better on the validation targets, and there are none; leave "
                    "evaluation as it is"
                )
            if run_dir is not None:
                raise ConfigError("--run-dir: every run of a series has a folder of its own")
            plan = series_options(series or folder / "series", every, at, nights, keep,
                                  series_epsilon)  # fmt: skip
            serve_series(plan, options_of, flat, start, partial(_print_results, console), console)
            return
        refuse_without_timetable(nights, keep, series, series_epsilon)
        options = options_of(run_dir or folder / "run", start, {})
        summary = serve(options, console)
    except KeyboardInterrupt:
        console.print("[yellow]interrupted; every process was ended[/]")
        console.print("to resume: the same command again", highlight=False)
        raise typer.Exit(130) from None
    if summary.outcome != "completed":
        write_failed_page(options.run_dir, summary)
        raise FederationError(f"the run failed: {summary.reason}")
    _print_results(console, options.run_dir, summary)


def _print_results(console: Console, run_dir: Path, summary: RunSummary) -> None:
    """Print how the run ended, as a table and in one line, and write its report."""
    if summary.reason:
        console.print(f"ended early: {summary.reason}", highlight=False)
    if not summary.test:  # evaluation = none, or last-days without a test
        write_report(run_dir, summary, [])
    elif summary.test.keys() >= set(REPORTED_METRICS):  # not in summaries of older versions
        rows = [federated_row(summary)]
        write_report(run_dir, summary, rows)
        write_page(run_dir, summary, rows)
        # without the last column: data of other machines cannot be pooled for a comparison
        head, *body = (row[:-1] for row in cells(rows))
        console.print(results_table(head, body, boxed=True))
    best = run_dir / "checkpoint" / "best.safetensors"
    quality = untested(summary)
    if summary.test:
        quality = f"round {summary.best_round} is best, test HR@20 {summary.test['hr@20']:.4f}"
    console.print(f"completed; {quality}; model: {best}")


@deploy_app.command("demo")
def demo_command(
    folder: Annotated[
        Path | None, typer.Option(help="New folder (default: runs/<time>-deploy-demo).")
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Number of nodes.")] = 3,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of training.")] = 3,
    settings: ConfigOption = None,
) -> None:
    """Show a deployment with TLS and node keys on this machine, and tear it down."""
    folder = folder or Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-deploy-demo"
    if folder.exists():
        raise ConfigError(f"{folder}: exists already; choose another --folder")
    run_demo(folder, nodes, rounds, settings or [], Console(soft_wrap=True))
