"""``daskglm``: the command line."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import click

from daskglm.errors import ContrastError, DaskGLMError, ParameterError, listing

_SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True}


class _Group(click.Group):
    """Commands whose errors are one clear line and status 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; tracebacks are for ``--debug``."""
        try:
            with warnings.catch_warnings():
                if not ctx.params.get("debug"):
                    warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except DaskGLMError as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"daskglm: {error}", err=True)
            ctx.exit(2)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            fault = " ".join(f"{type(error).__name__}: {error}".split())
            click.echo(f"daskglm: unexpected error, please report it ({fault}); --debug shows where", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo(
                "daskglm: interrupted; convert, first-level and permute go on where they were when given again",
                err=True,
            )
            ctx.exit(130)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning as one line, without the line of code that it came from."""
    click.echo(f"daskglm: warning: {' '.join(str(message).split())}", err=True)


@click.group(cls=_Group, context_settings=_SETTINGS)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(package_name="daskglm")
def main(debug: bool) -> None:
    """Voxel-wise linear models of large neuroimaging cohorts.

    \b
    daskglm demo
    daskglm convert "maps/*.nii.gz" --participants people.tsv --output all.zarr
    daskglm group all.zarr --formula "~ age + sex" --contrast age --output out/
    """  # noqa: D301 (click reads the backspace: do not rewrap)


def _shared(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command that reads images."""
    options = [
        click.option("--participants", type=click.Path(), help="Table (.tsv, .csv) with a column participant_id."),
        click.option("--mask", type=click.Path(), help="Mask image; by default voxels with data in enough images."),
        click.option("--missing", type=click.Choice(["nan", "zero"]), default="nan", help="What is missing data."),
        click.option("--min-coverage", type=click.FloatRange(0, 1), default=0.5,
                     help="Fraction of the images that a voxel must have."),
        click.option("--smoothing-fwhm", type=float, help="Smooth each image first, in mm."),
        click.option("--cluster", help="'local', a scheduler's address or a YAML file; by default threads."),
        click.option("--overwrite", is_flag=True, help="Replace what an earlier run wrote."),
        click.option("--quiet", is_flag=True, help="No progress bar."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@click.argument("images", nargs=-1, required=True)
@click.option("--output", required=True, type=click.Path(), help="The store, a folder ending in .zarr.")
@click.option("--on-error", type=click.Choice(["stop", "quarantine"]), default="stop",
              help="Stop at a file that cannot be used, or leave its subject out.")  # fmt: skip
@_shared
def convert(images: tuple[str, ...], output: str, cluster: str | None, quiet: bool, **options: Any) -> None:
    """Convert images to a Zarr store.

    IMAGES are one 3-D file a subject, or a quoted glob.

    Given again with more files it appends; after an interruption it continues.
    """
    from daskglm.models.convert import convert as run
    from daskglm.report.summary import print_conversion

    with _cluster(cluster):
        result = run(_one_or_many(images), output, progress=not quiet, **options)
    print_conversion(result, _console())


@main.command()
@click.argument("images", nargs=-1, required=True)
@click.option("--formula", default="~ 1", help='Design from the participants, as in "~ age + C(site)".')
@click.option("--contrast", "contrasts", multiple=True, help="t contrast: an expression, or name=expression.")
@click.option("--f-contrast", "f_contrasts", multiple=True, help='F contrast, as in "age, sex"; or name=...')
@click.option("--output", required=True, type=click.Path(), help="Result folder.")
@_shared
def group(
    images: tuple[str, ...],
    output: str,
    formula: str,
    contrasts: tuple[str, ...],
    f_contrasts: tuple[str, ...],
    cluster: str | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Fit a model across subjects.

    IMAGES are a store, files, a quoted glob, or the output of first-level:
    then one --contrast names the first-level contrast.
    """
    from daskglm.models.cohort_stores import group_input
    from daskglm.models.group import group_analysis
    from daskglm.report.summary import print_group

    source, named = group_input(_one_or_many(images), _named(contrasts), bool(f_contrasts))
    with _cluster(cluster), _naming_contrasts(images, source):
        result = group_analysis(
            source, output, formula, named, f_contrasts=_named(f_contrasts),
            progress=not quiet, **options,
        )  # fmt: skip
    print_group(result, _console())


@main.command()
@click.argument("images", nargs=-1, required=True)
@click.option("--formula", default="~ 1", help='Design from the participants, as in "~ age + C(site)".')
@click.option("--contrast", "contrasts", multiple=True, help="t contrast: an expression, or name=expression.")
@click.option("--f-contrast", "f_contrasts", multiple=True, help='F contrast, as in "age, sex"; or name=...')
@click.option("--output", required=True, type=click.Path(), help="Result folder; the same again continues.")
@click.option("--n-perm", type=click.IntRange(1), default=10_000, help="Rearrangements.")
@click.option("--one-sided", is_flag=True, help="Only positive effects count.")
@click.option("--scheme", default="freedman-lane", help="smith, draper-stoneman or ter-braak instead.")
@click.option("--rearrangement", type=click.Choice(["auto", "permutation", "sign_flip", "both"]), default="auto",
              help="auto: sign flips where a constant is tested.")  # fmt: skip
@click.option("--within", help="Column of the participants: rows change places within its blocks only.")
@click.option("--whole", help="Column of the participants: its blocks change places as wholes.")
@click.option("--variance-groups", help="Column of the participants: groups with variances of their own.")
@click.option("--cluster-threshold", "threshold", type=float, help="Cluster-forming p: cluster size and mass too.")
@click.option("--tfce", is_flag=True, help="Threshold-free cluster enhancement too.")
@click.option("--connectivity", type=click.Choice(["6", "18", "26"]), default="6", help="Neighbours of a voxel.")
@click.option("--tail", is_flag=True, help="Small p from a generalized Pareto tail.")
@click.option("--stop-at", type=float, help="Stop early when p is clearly on one side of this.")
@click.option("--seed", "random_state", type=int, default=0, help="Of the rearrangements.")
@_shared
def permute(
    images: tuple[str, ...],
    output: str,
    formula: str,
    contrasts: tuple[str, ...],
    f_contrasts: tuple[str, ...],
    cluster: str | None,
    quiet: bool,
    one_sided: bool,
    connectivity: str,
    **options: Any,
) -> None:
    """Test contrasts across subjects by permutation.

    IMAGES are a store, files, a quoted glob, or the output of first-level:
    then one --contrast names the first-level contrast.
    """
    from daskglm.models.cohort_stores import group_input
    from daskglm.models.permutation_analysis import permutation_analysis
    from daskglm.report.summary import print_permutation

    source, named = group_input(_one_or_many(images), _named(contrasts), bool(f_contrasts))
    with _cluster(cluster), _naming_contrasts(images, source):
        result = permutation_analysis(
            source, output, formula, named, f_contrasts=_named(f_contrasts), two_sided=not one_sided,
            connectivity=int(connectivity), progress=not quiet, **options,
        )  # fmt: skip
    print_permutation(result, _console())


@main.command("first-level")
@click.argument("dataset", type=click.Path())
@click.argument("output", type=click.Path())
@click.option("--task", help="Task; may be left out where there is one.")
@click.option("--space", help="Space of the images; may be left out where there is one.")
@click.option("--contrast", "contrasts", multiple=True, help='t contrast: "face - house", or name=expression.')
@click.option("--f-contrast", "f_contrasts", multiple=True, help='F contrast, as in "face, house"; or name=...')
@click.option(
    "--confounds",
    multiple=True,
    help="motion, wm_csf, global_signal, compcor, high_pass, scrub, ica_aroma; motion=full, scrub=5, ...",
)
@click.option("--hrf", "hrf_model", default="glover", help='As in "spm + derivative".')
@click.option("--drift", type=click.Choice(["cosine", "polynomial", "none"]), default="cosine", help="Slow drifts.")
@click.option("--high-pass", type=float, default=0.01, help="Highest frequency of cosine drifts, in Hz.")
@click.option("--noise", "noise_model", default="ar1", help="ols, ar1, ar2, ...")
@click.option("--smoothing-fwhm", type=float, help="Smooth each volume first, in mm.")
@click.option("--participant-label", "subjects", multiple=True, help="Only these subjects.")
@click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only images with it, as in run=1; res= for those without res.",
)
@click.option("--derivatives", default="derivatives", type=click.Path(), help="Folder of the preprocessed images.")
@click.option("--t-r", type=float, help="Repetition time in seconds, in place of the dataset's.")
@click.option("--cluster", help="'local', a scheduler's address or a YAML file; by default threads.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.pass_context
def first_level(
    ctx: click.Context,
    /,
    dataset: str,
    output: str,
    contrasts: tuple[str, ...],
    f_contrasts: tuple[str, ...],
    subjects: tuple[str, ...],
    filters: tuple[str, ...],
    drift: str,
    cluster: str | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Fit every run of a BIDS DATASET.

    Maps of each run and subject go to OUTPUT, and a store a contrast for the group.

    The same command again does what is missing. Runs that fail are in failures.tsv.
    """
    from daskglm.models.cohort import first_level_analysis
    from daskglm.report.summary import print_first_level

    if not contrasts and not f_contrasts:
        raise ContrastError("a first-level analysis needs a contrast; give --contrast or --f-contrast")
    with _cluster(cluster):
        result = first_level_analysis(
            dataset, output, _named(contrasts), f_contrasts=_named(f_contrasts), subjects=subjects or None,
            filters=_pairs(filters), drift_model=None if drift == "none" else drift, progress=not quiet, **options,
        )  # fmt: skip
    print_first_level(result, _console())
    ctx.exit(0 if result.failures.empty else 1)


@main.command()
@click.argument("store", type=click.Path())
def info(store: str) -> None:
    """Show what a STORE holds."""
    from daskglm.io.store import open_images
    from daskglm.report.summary import print_store

    print_store(open_images(store), _console())


@main.command()
@click.option("--output", default="daskglm-demo", type=click.Path(), help="Folder for the cohort and the results.")
@click.option("--subjects", default=36, type=click.IntRange(12), help="How many to simulate.")
def demo(output: str, subjects: int) -> None:
    """Simulate a cohort and find its known effect.

    The whole path, on a local cluster: images, Zarr store, maps and a picture.
    """
    from daskglm.demo import run_demo

    run_demo(output, subjects, _console())


def _one_or_many(images: tuple[str, ...]) -> Any:
    """One path or pattern, or the files that a shell expanded a pattern to."""
    return images[0] if len(images) == 1 else list(images)


def _named(definitions: tuple[str, ...]) -> dict[str, str]:
    """Name -> expression, of texts that are "name=expression" or an expression, its own name."""
    named: dict[str, str] = {}
    for text in definitions:
        name, equals, expression = (part.strip() for part in text.partition("="))
        if name in named:
            raise ContrastError(f"two contrasts are called {name!r}; name one of them: new_name=definition")
        named[name] = expression if equals else name
    return named


def _pairs(filters: tuple[str, ...]) -> list[tuple[str, str]] | None:
    """Entity and value, of texts "entity=value"; None without any."""
    for text in filters:
        if "=" not in text:
            raise ParameterError(
                f"a filter is KEY=VALUE, as in run=1 (res= for files without res), but this is {text!r}"
            )
    parts = [text.partition("=") for text in filters]
    return [(key.strip(), value.strip()) for key, _, value in parts] or None


@contextmanager
def _naming_contrasts(images: tuple[str, ...], source: Any) -> Iterator[None]:
    """Name a folder's first-level contrasts too where a contrast is wrong: it may be one of them that is meant."""
    try:
        yield
    except ContrastError as error:
        if source is images[0] or len(images) > 1:
            raise
        from daskglm.models.cohort_stores import group_stores

        labels = listing(group_stores(images[0]))
        raise ContrastError(f"{error}; the first-level contrasts in {images[0]} are: {labels}") from error


def _cluster(cluster: str | None) -> Any:
    """The cluster asked for, its dashboard announced; threads of this process by default."""
    if cluster is None:
        return nullcontext()
    from daskglm.cluster import connect

    return connect(cluster)


def _console() -> Any:
    """Standard output."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
