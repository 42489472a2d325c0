"""``lumos run`` and ``lumos simulate``: a whole federation on this computer."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from lumos_core.cli.examples import demo_examples, print_examples
from lumos_core.cli.options import (
    FromOption,
    MethodOption,
    RoundsOption,
    SeedOption,
    SettingsOption,
    parse_settings,
)
from lumos_core.cli.screens import results_table
from lumos_core.cli.web import PORT, Host, Port, Web, watching
from lumos_core.config import NodeConfig
from lumos_core.data.layout import shared_state
from lumos_core.data.sequences import users_text
from lumos_core.deployment.centralised_child import start_baselines, wait_for_baselines
from lumos_core.deployment.local import LocalNode, deploy, simulate_here, simulate_with_flower
from lumos_core.deployment.ray_cluster import check_address, check_cluster, machines_line
from lumos_core.deployment.round_lines import RoundLines
from lumos_core.errors import ConfigError, FederationError, require_extra
from lumos_core.federation.one_user_clients import check_one_user_clients
from lumos_core.processes.children import Children, ending_on_signals
from lumos_core.runs.history import OnEvent
from lumos_core.runs.report import Row, cells, federated_row, untested, write_report
from lumos_core.runs.report_page import PAGE, write_failed_page, write_page
from lumos_core.runs.summary import RunSummary
from lumos_core.views.source import ViewCount, count_views

if TYPE_CHECKING:  # imports polars
    from lumos_core.deployment.plan import LocalPlan

Data = Annotated[
    Path | None,
    typer.Option(help="Folder that 'lumos prepare' wrote (default: the bundled sample)."),
]
Nodes = Annotated[
    int | None,
    typer.Option(min=1, help="Number of nodes (default: 3, or as prepared)."),
]
RunDir = Annotated[
    Path | None, typer.Option(help="Folder for the results (default: runs/<time>-<method>).")
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Resume the stopped run in --run-dir, as it was configured."),
]
Baselines = Annotated[
    bool,
    typer.Option(help="For comparison, also train on the pooled data and rank by popularity."),
]

Engine = Annotated[
    Literal["flower", "in-process"],
    typer.Option(
        help="flower: the apps, with virtual nodes under Flower's simulation engine; in-process: "
        "the nodes one after the other in this process."
    ),
]

Clients = Annotated[
    Literal["nodes", "users"],
    typer.Option(
        help="With --engine in-process: users makes a client of each user, and trains the clients "
        "of a round together."
    ),
]

Ray = Annotated[
    str,
    typer.Option(
        metavar="HOST:PORT",
        help="With --engine flower: spread the nodes over the machines of a running Ray cluster, "
        "of which this machine is one. Trusted networks only.",
    ),
]

_NO_PAGE: AbstractContextManager[str] = nullcontext("")


def run_command(
    data: Data = None,
    nodes: Nodes = None,
    rounds: RoundsOption = None,
    method: MethodOption = None,
    seed: SeedOption = None,
    settings: SettingsOption = None,
    run_dir: RunDir = None,
    resume: Resume = False,
    start: FromOption = None,
    baselines: Baselines = True,
    web: Web = False,
    host: Host = "127.0.0.1",
    port: Port = PORT,
) -> None:
    """Run a federation of real processes over gRPC on this computer.

    Starts a Flower SuperLink and a SuperNode per node, shows every round, and ends every process at
    the end, also after Ctrl-C. Exits 0 only if the run completed.
    """
    from lumos_core.deployment.plan import plan_local  # imports polars

    flat, node_settings = parse_settings(settings, rounds=rounds, method=method, seed=seed)
    plan = plan_local(flat, node_settings, data, nodes, run_dir, resume, start)
    local = [LocalNode(f.name, f, plan.node_settings) for f in plan.folders]
    _execute(
        "run",
        plan,
        baselines,
        lambda on_event: deploy(
            plan.config, local, plan.run_dir, on_event, resume, start=plan.start
        ),
        page=watching(plan.run_dir, host, port) if web else _NO_PAGE,
    )


def simulate_command(
    data: Data = None,
    nodes: Nodes = None,
    rounds: RoundsOption = None,
    method: MethodOption = None,
    seed: SeedOption = None,
    settings: SettingsOption = None,
    run_dir: RunDir = None,
    resume: Resume = False,
    start: FromOption = None,
    baselines: Baselines = True,
    engine: Engine = "flower",
    clients: Clients = "nodes",
    ray: Ray = "",
) -> None:
    """Run the same federation without a network: virtual nodes of Flower, or one process."""
    from lumos_core.deployment.plan import plan_local  # imports polars

    flat, node_settings = parse_settings(settings, rounds=rounds, method=method, seed=seed)
    if node_settings:
        raise ConfigError(
            f"-c node.{next(iter(node_settings))}: virtual nodes have no configuration of their "
            "own; leave it out or use 'lumos run'"
        )
    if clients == "users" and engine != "in-process":
        raise ConfigError(
            f"--clients users --engine {engine}: a virtual node for each user would take a process "
            "a message; use --engine in-process"
        )
    if ray:
        _check_ray(ray, engine)
    plan = plan_local(flat, {}, data, nodes, run_dir, resume, start)
    if clients == "users":
        check_one_user_clients(plan.config)
    names = [folder.name for folder in plan.folders]

    def federate(on_event: OnEvent) -> RunSummary:
        if engine == "flower":
            return simulate_with_flower(
                plan.config, plan.data, len(names), plan.run_dir, on_event, resume, plan.start, ray
            )
        users = dict(zip(names, plan.sequences, strict=True))
        return simulate_here(
            plan.config, plan.catalog, users, plan.data, plan.run_dir, on_event, resume, clients,
            plan.start,
        )  # fmt: skip

    if ray:
        console = Console(soft_wrap=True)
        with console.status("asking the machines of the Ray cluster"):
            machines = check_cluster(ray, plan.data)
        console.print(machines_line(machines), highlight=False)
    _execute("simulate", plan, baselines, federate, clients)


def _check_ray(address: str, engine: str) -> None:
    """Raises ConfigError: the address is none, this engine has no cluster, or Ray is missing."""
    check_address(address)
    if engine != "flower":
        raise ConfigError(f"--ray --engine {engine}: only Flower's engine has a Ray cluster")
    require_extra("ray", "simulation", "--ray")


# ---------------------------------------------------------------- execution
def _execute(
    command: str,
    plan: "LocalPlan",
    baselines: bool,
    federate: Callable[[OnEvent], RunSummary],
    clients: Literal["nodes", "users"] = "nodes",
    page: AbstractContextManager[str] = _NO_PAGE,
) -> None:
    """Run a federation and report it.

    Args:
        page: serves a page of the run while it is open, at the address that it yields.
    """
    console = Console(soft_wrap=True)
    users = users_text(sum(len(s) for s in plan.sequences), sum(s.left_out for s in plan.sequences))
    nodes = f"{len(plan.folders)} nodes" if clients == "nodes" else "one user a client"
    console.print(
        f"{plan.config.method}: {nodes}, {users}, "
        f"{len(plan.catalog)} items, {plan.config.rounds} rounds; logs in {plan.run_dir / 'logs'}",
        highlight=False,
    )
    if plan.start is not None:
        console.print(f"starts from {plan.start.facts.text}", markup=False, highlight=False)
    stores = _stores(plan, clients)
    found = _count_views(plan, stores)
    try:
        with (
            ending_on_signals(),
            page as address,
            Children(plan.run_dir / "logs") as children,
        ):
            if address:
                console.print(f"{'page':>8}  {address}", highlight=False)
            centralised = None
            if baselines and plan.config.evaluation == "leave-one-out":
                centralised = start_baselines(children, plan.config, plan.data, plan.run_dir)
            with RoundLines(console, plan.config.rounds, local=True).live() as lines:
                summary = federate(lines)
            if summary.outcome != "completed":
                write_failed_page(plan.run_dir, summary)
                raise FederationError(
                    f"the run failed: {summary.reason}; logs are in {plan.run_dir / 'logs'}, and "
                    f"{plan.run_dir / PAGE} shows what failed"
                )
            if summary.reason:
                console.print(f"ended early: {summary.reason}", highlight=False)
            rows = [federated_row(summary)] if summary.test else []
            if centralised is not None:
                with console.status("training on the pooled data"):
                    rows += wait_for_baselines(centralised, plan.run_dir)
        write_report(plan.run_dir, summary, rows)
        examples = demo_examples(plan) if clients == "nodes" else []
        report = write_page(plan.run_dir, summary, rows, examples)
    except KeyboardInterrupt:
        console.print("[yellow]interrupted; every process was ended[/]")
        console.print(
            f"to resume:  lumos {command} --resume --run-dir {plan.run_dir}", highlight=False
        )
        raise typer.Exit(130) from None
    _print_results(console, plan, report, rows, summary)
    if plan.config.has_views:
        console.print(
            f"{'views':>8}  {view_line(found, _count_views(plan, stores))}", highlight=False
        )
        if clients == "nodes":
            print_examples(console, plan, examples)
    if (views := summary.views) is not None and not views.complete:
        console.print(views.sentence(), style="yellow", markup=False, highlight=False)


def _stores(plan: "LocalPlan", clients: str) -> list[NodeConfig]:
    """Where the views of each node's users are kept."""
    settings = dict(plan.node_settings)
    if clients == "users":
        settings["state"] = str(shared_state(plan.data))
    return [
        NodeConfig.from_flat({"data": str(folder.resolve()), **settings}) for folder in plan.folders
    ]


def _count_views(plan: "LocalPlan", stores: Sequence[NodeConfig]) -> ViewCount:
    """Count the views in all nodes' stores. These are on this computer, so no message is needed."""
    if not plan.config.has_views:
        return ViewCount(0, 0)
    counts = [
        count_views(plan.config, store, plan.catalog, users)
        for store, users in zip(stores, plan.sequences, strict=True)
    ]
    return ViewCount(*(sum(column) for column in zip(*counts, strict=True)))


def view_line(before: ViewCount, after: ViewCount) -> str:
    """How many views a run generated and reused, from the counts before and after it."""
    text = f"{after.stored - before.stored} generated, {before.stored} reused"
    missing = after.total - after.stored
    return f"{text}, {missing} still missing" if missing else text


def _print_results(
    console: Console, plan: "LocalPlan", report: Path, rows: list[Row], summary: RunSummary
) -> None:
    if rows:
        head, *body = cells(rows)
        console.print(results_table(head, body, boxed=True))
    elif plan.config.holds_out:
        console.print(untested(summary), highlight=False)
    else:
        console.print("the last model is the result: evaluation = none holds nothing out")
    places = {
        "model": plan.run_dir / "checkpoint" / "best.safetensors",
        "history": plan.run_dir / "history.jsonl",
        "report": report,
    }
    for name, path in places.items():
        console.print(f"{name:>8}  {path}", highlight=False)
