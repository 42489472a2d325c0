"""``lumos catalog``: build, extend and show a catalog artefact."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lumos_core.cli.options import ConfigOption
from lumos_core.cli.views import LLMOption, QuantizationOption, catalog_stages, configured
from lumos_core.data.catalog import HEADER, Catalog
from lumos_core.data.catalog_versions import Lineage
from lumos_core.data.layout import ARTEFACT_FILE, CATALOG_FILE, CATALOG_VERSIONS
from lumos_core.errors import ConfigError
from lumos_core.terminal.progress import Progress
from lumos_core.views.llm.find import LLMConfig, llm_config, model_fingerprint
from lumos_core.views.titles.artefact_reading import recipe
from lumos_core.views.titles.catalog_artefact import About, CatalogArtefact
from lumos_core.views.titles.resumable import Work

catalog_app = typer.Typer(
    help="What the language model says about a catalog's titles, in one file for all machines.",
    no_args_is_help=True,
)

CatalogPath = Annotated[Path, typer.Argument(help="The catalog.tsv of the run.")]
ArtefactPath = Annotated[Path, typer.Argument(help="An artefact that 'lumos catalog build' made.")]
OutOption = Annotated[
    Path, typer.Option(help=f"The file to write; {ARTEFACT_FILE} beside catalog.tsv is found.")
]


@catalog_app.command("build")
def build_command(
    catalog: CatalogPath,
    out: OutOption,
    llm: LLMOption = None,
    quantization: QuantizationOption = None,
    config: ConfigOption = None,
) -> None:
    """Read all titles of a catalog once, for all machines with the same language model.

    Ctrl-C is safe at any time: the next call resumes where this one ended. -c llm-noun=… if the
    run's differs from the default.
    """
    from lumos_core.views.llm.load import load_llm
    from lumos_core.views.titles.artefact_reading import build_artefact

    run, items = configured(config, llm, quantization, catalog.parent), Catalog.read(catalog)
    choice, console = llm_config(run), Console()
    with _resumable(console), Progress(console) as progress:
        work = Work(on_stage=catalog_stages(progress))
        model = load_llm(choice)
        made = build_artefact(model, choice, items, run.llm_noun, work)
    made.write(out)
    _say(console, out, made, f"{len(made):,} titles", model.read.tokens)


@catalog_app.command("extend")
def extend_command(
    old: Annotated[
        Path,
        typer.Argument(help="A catalog.tsv, or an artefact that 'lumos catalog build' made."),
    ],
    new: Annotated[Path, typer.Argument(help="The catalog.tsv with all items, old and new.")],
    out: Annotated[
        Path, typer.Option(help="The file to write: of a catalog, its name is catalog.tsv.")
    ],
    llm: LLMOption = None,
    quantization: QuantizationOption = None,
) -> None:
    """Make the next version of a catalog or of an artefact.

    Of a catalog: items may be added at the end and titles corrected; what moves or removes an item
    is refused by name. Beside OUT a chain of versions is written, by which models and nodes with an
    earlier version can still be used. --out may be OLD itself.

    Of an artefact: only titles that it lacks are read, by the language model that made it; what it
    says of others stays. Ctrl-C is safe at any time.
    """
    if _is_table(old):
        _extend_catalog(old, new, out)
    else:
        _extend_artefact(old, new, out, llm, quantization)


def _is_table(path: Path) -> bool:
    """Whether a file is a catalog.tsv: the header of an artefact is not text."""
    try:
        with path.open("rb") as file:
            return file.read(len(HEADER)) == HEADER.encode()
    except OSError:
        return path.suffix == ".tsv"  # whoever reads it says what is wrong


def _extend_catalog(old: Path, new: Path, out: Path) -> None:
    if out.name != CATALOG_FILE:
        raise ConfigError(f"--out {out}: expected a file called {CATALOG_FILE}")
    chain, grown = Lineage.of(Catalog.read(old)).extended(Catalog.read(new))
    chain.write(out)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for item, before, now in grown.corrected:
        console.print(f"corrected  {item}: {before!r} is now {now!r}")
    console.print(
        f"{out}: version {grown.number}, {len(chain.catalog):,} items: {grown.added:,} added, "
        f"{len(grown.corrected):,} titles corrected"
    )
    console.print(f"fingerprint {chain.catalog.fingerprint}")
    console.print(
        f"the earlier versions are in {out.with_name(CATALOG_VERSIONS)}: it goes with the catalog"
    )


def _extend_artefact(
    artefact: Path, catalog: Path, out: Path, llm: str | None, quantization: str | None
) -> None:
    from lumos_core.views.llm.load import load_llm
    from lumos_core.views.titles.artefact_reading import check_fit, extend_artefact

    before, items = CatalogArtefact.read(artefact), Catalog.read(catalog)
    choice = llm_config(configured(None, llm, quantization, None))
    _check_model(artefact, before.about, choice)
    console = Console()
    if not before.missing(items.titles):
        before.write(out)
        _say(console, out, before, "no title is new", 0)
        return
    with _resumable(console), Progress(console) as progress:
        work = Work(on_stage=catalog_stages(progress))
        model = load_llm(choice)
        check_fit(artefact, before.basis, model)
        made = extend_artefact(before, model, choice, items, work)
    made.write(out)
    new = f"{len(made) - len(before):,} titles added, {len(made):,} in all"
    _say(console, out, made, new, model.read.tokens)


@catalog_app.command("show")
def show_command(artefact: ArtefactPath) -> None:
    """Check an artefact, and show who read which titles."""
    found = CatalogArtefact.read(artefact)
    about, basis = found.about, found.basis
    meaning, wording = found.rows.meaning.shape[1], found.rows.wording.shape[1]
    quantised = "" if about.quantization == "none" else f", {about.quantization} weights"
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for name, value in {
        "digest": about.digest,
        "titles": f"{len(found):,}, {artefact.stat().st_size / 2**20:,.1f} MiB",
        "read by": f"{about.llm}{quantised} ({about.model[:16]})",
        "noun": about.noun,
        "vectors": f"{meaning} values of meaning, {wording} of wording, float16",
        "basis": f"{about.basis[:16]}, of {len(basis.wording.titles):,} titles",
        "versions": f"recipe {about.recipe}, written by LUMOS {about.lumos}",
    }.items():
        console.print(f"{name:>8}  {value}")


def _say(console: Console, out: Path, made: CatalogArtefact, what: str, tokens: int) -> None:
    size = out.stat().st_size / 2**20
    for line in (
        f"{out}: {what}, {size:,.1f} MiB, {tokens:,} tokens read",
        f"digest {made.about.digest}",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _resumable(console: Console) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        console.print("interrupted; finished batches are stored, call again to resume")
        raise typer.Exit(130) from None


def _check_model(path: Path, about: About, choice: LLMConfig) -> None:
    """The model here is the one that made the artefact, and it is asked in the same way."""
    made, here = (about.model, about.recipe), (model_fingerprint(choice), recipe())
    if made != here:
        raise ConfigError(
            f"{path}: was made by {about.llm} ({about.model[:16]}, {about.quantization}) with "
            f"recipe {about.recipe}, found {choice.llm} ({here[0][:16]}, {choice.quantization}) "
            f"with recipe {here[1]}; give the same model with --llm and --quantization, use the "
            "same LUMOS, or make a new artefact with 'lumos catalog build'"
        )
