"""Commands that run long: convert, group, permute, first-level."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from daskglm.cli.first_level_options import design_options, first_level_arguments
from daskglm.cli.options import (
    LongCommand,
    deficient_option,
    example,
    exclude_option,
    image_options,
    na_option,
    one_or_many,
    run_options,
    running,
    shown,
    threads_option,
)
from daskglm.cli.reports import report_option, write_report
from daskglm.errors import ContrastError, listing, nearest


@click.command(cls=LongCommand, epilog=example("daskglm convert 'maps/*.nii' --participants age.tsv --output all.zarr"))
@click.argument("images", nargs=-1, required=True)
@click.option("--output", required=True, type=click.Path(), help="The store, a folder ending in .zarr.")
@click.option("--on-error", type=click.Choice(["stop", "quarantine"]), default="stop",
              help="Stop at a file that cannot be used, or leave its subject out.")  # fmt: skip
@image_options
@run_options
def convert(
    images: tuple[str, ...],
    output: str,
    cluster: str | None,
    performance_report: str | None,
    log_file: str | None,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Convert images to a Zarr store.

    IMAGES are one 3-D file a subject, or a quoted glob.

    Given again with more files it appends; after an interruption it continues.
    """
    from daskglm.models.convert import convert as run
    from daskglm.report.summary import print_conversion
    from daskglm.report.values import conversion_values

    with running(cluster, performance_report, log_file, quiet):
        result = run(one_or_many(images), output, progress=not quiet, **options)
    shown(result, as_json, print_conversion, conversion_values)


@click.command(cls=LongCommand, epilog=example('daskglm group all.zarr --formula "~ age" --contrast age --output out'))
@click.argument("images", nargs=-1, required=True)
@click.option("--formula", default="~ 1", help='Design from the participants, as in "~ age + C(site)".')
@click.option("--contrast", "contrasts", multiple=True, help="t contrast: an expression, or name=expression.")
@click.option("--f-contrast", "f_contrasts", multiple=True, help='F contrast, as in "age, sex"; or name=...')
@click.option("--output", required=True, type=click.Path(), help="Result folder.")
@deficient_option
@report_option
@threads_option
@na_option
@image_options
@run_options
def group(
    images: tuple[str, ...],
    output: str,
    formula: str,
    contrasts: tuple[str, ...],
    f_contrasts: tuple[str, ...],
    cluster: str | None,
    performance_report: str | None,
    log_file: str | None,
    quiet: bool,
    as_json: bool,
    no_report: bool,
    **options: Any,
) -> None:
    """Fit a model across subjects.

    IMAGES are a store, files, a quoted glob, or the output of first-level:
    then one --contrast names the first-level contrast.
    """
    from daskglm.models.cohort_stores import group_input
    from daskglm.models.group import group_analysis
    from daskglm.report.summary import print_group
    from daskglm.report.values import group_values

    source, chosen = group_input(one_or_many(images), contrasts, bool(f_contrasts), formula)
    with running(cluster, performance_report, log_file, quiet), naming_contrasts(images, source, contrasts):
        result = group_analysis(
            source, output, formula, chosen, f_contrasts=f_contrasts,
            progress=not quiet, **options,
        )  # fmt: skip
    shown(result, as_json, print_group, group_values)
    write_report(output, no_report)


@click.command(
    cls=LongCommand, epilog=example('daskglm permute all.zarr --formula "~ age" --contrast age --output perm')
)
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
@deficient_option
@report_option
@threads_option
@na_option
@image_options
@run_options
def permute(
    images: tuple[str, ...],
    output: str,
    formula: str,
    contrasts: tuple[str, ...],
    f_contrasts: tuple[str, ...],
    cluster: str | None,
    performance_report: str | None,
    log_file: str | None,
    quiet: bool,
    as_json: bool,
    no_report: bool,
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
    from daskglm.report.values import permutation_values

    source, chosen = group_input(one_or_many(images), contrasts, bool(f_contrasts), formula)
    with running(cluster, performance_report, log_file, quiet), naming_contrasts(images, source, contrasts):
        result = permutation_analysis(
            source, output, formula, chosen, f_contrasts=f_contrasts, two_sided=not one_sided,
            connectivity=int(connectivity), progress=not quiet, **options,
        )  # fmt: skip
    shown(result, as_json, print_permutation, permutation_values)
    write_report(output, no_report)


@click.command(
    "first-level",
    cls=LongCommand,
    epilog=example('daskglm first-level ds001 first --task faces --contrast "face - house"'),
)
@click.argument("dataset", type=click.Path())
@click.argument("output", type=click.Path())
@click.option("--task", help="Task; may be left out where there is one.")
@click.option("--space", help="Space of the images; may be left out where there is one.")
@click.option("--contrast", "contrasts", multiple=True, help='t contrast: "face - house", or name=expression.')
@click.option("--f-contrast", "f_contrasts", multiple=True, help='F contrast, as in "face, house"; or name=...')
@click.option(
    "--confounds",
    multiple=True,
    help="motion, wm_csf, global_signal, compcor, high_pass, scrub, ica_aroma; motion=full, scrub=5, ...; or columns "
    "of the table, as in a_comp_cor_0?",
)
@design_options
@click.option("--participant-label", "subjects", multiple=True, help="Only these subjects.")
@exclude_option
@click.option("--group-stores", is_flag=True, default=None,
              help="Store the effects of these subjects for the group; those of all are stored anyway.")  # fmt: skip
@click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only images with it, as in run=1; res= for those without res.",
)
@click.option("--derivatives", default="derivatives", type=click.Path(), help="Folder of the preprocessed images.")
@report_option
@threads_option
@run_options
@click.pass_context
def first_level(
    ctx: click.Context,
    /,
    dataset: str,
    output: str,
    cluster: str | None,
    performance_report: str | None,
    log_file: str | None,
    quiet: bool,
    as_json: bool,
    no_report: bool,
    **options: Any,
) -> None:
    """Fit every run of a BIDS DATASET.

    Maps of each run and subject go to OUTPUT, and a store a contrast for the group.

    The same command again does what is missing. Runs that fail are in failures.tsv.
    """
    from daskglm.models.cohort import first_level_analysis
    from daskglm.report.summary import print_first_level
    from daskglm.report.values import first_level_values

    arguments = first_level_arguments(**options)
    with running(cluster, performance_report, log_file, quiet):
        result = first_level_analysis(dataset, output, progress=not quiet, **arguments)
    shown(result, as_json, print_first_level, first_level_values)
    write_report(output, no_report)
    ctx.exit(0 if result.failures.empty else 1)


@contextmanager
def naming_contrasts(images: tuple[str, ...], source: Any, given: tuple[str, ...]) -> Iterator[None]:
    """Name a folder's first-level contrasts too where a contrast is wrong: it may be one of them that is meant."""
    try:
        yield
    except ContrastError as error:
        if source is images[0] or len(images) > 1:
            raise
        from daskglm.models.cohort_stores import group_stores

        labels = list(group_stores(images[0]))
        near = "".join(dict.fromkeys(nearest(text, labels) for text in given))
        raise ContrastError(
            f"{error}; the first-level contrasts in {images[0]} are: {listing(labels)}{near}"
        ) from error
