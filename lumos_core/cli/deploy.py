"""``lumos deploy``: credentials of a deployment, and its server."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from lumos_core.cli.options import (
    ConfigOption,
    MethodOption,
    RoundsOption,
    SeedOption,
    parse_settings,
)
from lumos_core.cli.screens import results_table
from lumos_core.deployment import folders
from lumos_core.deployment.demo import run_demo
from lumos_core.errors import ConfigError, FederationError
from lumos_core.runs.report import REPORTED_METRICS, cells, federated_row, write_report
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
    nodes: Annotated[str, typer.Option(help="Number of nodes, or their names: north,south.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Fleet port.")] = 9092,
    days: Annotated[
        int, typer.Option(min=1, max=3650, help="Validity of the server certificate.")
    ] = 825,
) -> None:
    """Write certificates, keys and secrets of a new deployment; never overwrites."""
    names = folders.node_names(nodes)
    manifest = folders.create(out, host, names, port, days)
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"server   {out / 'server'}  to the server's machine")
    for name in manifest.nodes:
        console.print(f"node     {out / 'nodes' / name}  to the machine of {name}, and only there")
    console.print(f"CA       {out / 'ca'}  keep it offline")
    console.print(
        "\nserver:     lumos deploy server server --catalog catalog.tsv"
        f"\neach node:  lumos node start {manifest.nodes[0]} --data DATA"
    )


@deploy_app.command("add-node")
def add_node_command(
    out: Annotated[Path, typer.Argument(help="Folder that 'lumos deploy init' wrote.")],
    name: Annotated[str, typer.Argument(help="Name of the new node.")],
) -> None:
    """Write the key and bundle of one more node; the server accepts it from its next start on.

    Never overwrites. For a new key under an old name, remove the node first (remove-node).
    """
    bundle = folders.add_node(out, name)
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"node     {bundle}  to the machine of {name}, and only there")
    _print_server(console, out)


@deploy_app.command("remove-node")
def remove_node_command(
    out: Annotated[Path, typer.Argument(help="Folder that 'lumos deploy init' wrote.")],
    name: Annotated[str, typer.Argument(help="Name of the node.")],
) -> None:
    """Revoke a node: the server refuses its key from its next start on.

    Its key and bundle are moved to OUT/removed; its name is free for a new key (add-node).
    """
    place = folders.remove_node(out, name)
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"removed  {name}; its key and bundle are in {place}")
    _print_server(console, out)
    console.print(f"         until then the server still lets {name} take part")


def _print_server(console: Console, out: Path) -> None:
    """Print how to bring a change to the server. The command works whether the server's machine has
    the folder or not, and leaves run and state in it unchanged."""
    console.print(f"server   rsync -a {out / 'server'}/ HOST:server/   then restart it there")


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
) -> None:
    """Run a federation for nodes on other machines until it has finished.

    Every node needs TLS and a node key. A process that dies is started again, and the run resumes
    after its last finished round. The same command resumes a run that was stopped, also after a
    node was added or removed; with a larger --rounds it continues a run that has completed.
    """
    # these import polars and numpy, which the other commands do without
    from lumos_core.data.domains import NOUNS
    from lumos_core.deployment.plan import server_config
    from lumos_core.deployment.server_supervisor import ServerOptions, serve

    flat, for_node = parse_settings(settings, rounds=rounds, method=method, seed=seed)
    if for_node:
        raise ConfigError(f"-c node.{next(iter(for_node))}: a node's keys go into its node.toml")
    if domain is not None:
        if "llm-noun" in flat:
            raise ConfigError("key 'llm-noun' is given twice, as --domain and with -c")
        flat["llm-noun"] = NOUNS[domain]
    kit = folders.ServerKit.read(folder)
    run_dir = run_dir or folder / "run"
    options = ServerOptions(
        kit=kit,
        config=server_config(flat, len(kit.manifest.nodes), catalog, run_dir),
        run_dir=run_dir,
        state=state or folder / "state",
        bind=bind,
        control_port=control_port,
    )
    console = Console(soft_wrap=True)
    try:
        summary = serve(options, console)
    except KeyboardInterrupt:
        console.print("[yellow]interrupted; every process was ended[/]")
        console.print("to resume: the same command again", highlight=False)
        raise typer.Exit(130) from None
    if summary.outcome != "completed":
        raise FederationError(f"the run failed: {summary.reason}")
    _print_results(console, options.run_dir, summary)


def _print_results(console: Console, run_dir: Path, summary: RunSummary) -> None:
    """Print how the run ended, as a table and in one line, and write its report."""
    if summary.reason:
        console.print(f"ended early: {summary.reason}", highlight=False)
    if summary.test.keys() >= set(REPORTED_METRICS):  # not in summaries of older versions
        rows = [federated_row(summary)]
        write_report(run_dir, summary, rows)
        # without the last column: data of other machines cannot be pooled for a comparison
        head, *body = (row[:-1] for row in cells(rows))
        console.print(results_table(head, body, boxed=True))
    best = run_dir / "checkpoint" / "best.safetensors"
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
