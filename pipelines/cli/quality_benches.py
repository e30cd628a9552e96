"""How good the answers are."""

from pathlib import Path
from typing import Any

import click

from pipelines.cli.benches import bench
from pipelines.cli.options import json_file_option, names_of, picture_file


@bench.command("freshness")
@click.option(
    "--data",
    required=True,
    help="`completejourney`, a folder of Parquet files (docs/benchmarks.md), one with the lines.parquet of UCI Online "
    "Retail, or a mapping file.",
)
@click.option("--windows", type=click.IntRange(min=1), default=10, show_default=True, help="Weeks to stay fresh over.")
@click.option("--base-weeks", type=click.IntRange(min=2), default=13, show_default=True, help="Weeks to begin with.")
@click.option("--replay-share", type=click.FloatRange(0, 0.99), default=None, help="Replayed rows (default: settings).")
@click.option("--users", type=click.IntRange(min=10), help="So many users, drawn at random (default: all).")
@click.option("--tower-steps", type=click.IntRange(min=1), help="Steps at most from zero (default: settings).")
@click.option("--seed", type=int, default=13, show_default=True, help="Of weights, batches and samples.")
@click.option("--quick", is_flag=True, help="A smoke run of minutes: few users, weeks and steps.")
@json_file_option
@click.option(
    "--plot",
    "plot_file",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=picture_file,
    help="Picture, .png or .svg.",
)
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), help="Finished parts (default: in the home).")
def bench_freshness(quick: bool, **options: Any) -> None:
    """Compare ways to stay fresh, week by week: incremental with and without replay, from zero, frozen.

    Each week the model is trained as the loop would, and measured on the items that customers buy for the first time in
    the week after the next, and on baskets of the first weeks. Run again after a stop, it goes on where it was.

    \b
    Example: headrace bench freshness --data completejourney --users 500 --json freshness.json --plot freshness.png
    """
    from pipelines.benchmarks.freshness_command import run_freshness

    run_freshness(quick=quick, **options)


def _quality_options(command: Any) -> Any:
    """Add the options that `bench recommend` and `bench search` share."""
    file = click.Path(dir_okay=False, path_type=Path)
    folder = click.Path(file_okay=False, path_type=Path)
    for option in reversed(
        (
            click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Of the model."),
            click.option("--cases", default="", metavar="A,B", help="Only these cases (default: all)."),
            click.option("--quick", is_flag=True, help="A smoke run on a sample; says so in every output."),
            click.option("--fresh", is_flag=True, help="Measure again what is stored."),
            json_file_option,
            click.option(
                "--plot",
                "plot_file",
                type=file,
                callback=picture_file,
                help="Picture, .png or .svg (default: next to the records, .png).",
            ),
            click.option("--work", type=folder, help="Unfinished and finished work (default: benchmarks in the home)."),
            click.option("--cache", type=folder, help="Text embeddings (default: the cache in the home)."),
            click.option("--encoder", metavar="NAME", help="Of the untouched baseline (default: that of training)."),
        )
    ):
        command = option(command)
    return command


def _bench_options(cases: str, work: Path | None, cache: Path | None, **options: Any) -> Any:
    from pipelines.benchmarks.runs import BenchOptions
    from pipelines.places import Places

    places = Places.from_environment()
    return BenchOptions(
        work=work or places.benchmarks,
        cache=cache or places.embedding_cache,
        cases=tuple(name.strip() for name in cases.split(",") if name.strip()),
        **options,
    )


@bench.command("recommend")
@click.option("--data", required=True, metavar="DIR", help="Folder of Parquet files, or completejourney.")
@click.option("--ablation", is_flag=True, help="Also without each part, with the first seed: as long again as 3 seeds.")
@click.option("--image-encoder", metavar="NAME", help="Looks at the items' pictures (default: none does).")
@_quality_options
def bench_recommend(data: str, **options: Any) -> None:
    """Measure how well held-out users' next items are found, by baselines and by the model; all items are ranked.

    The folder has items.parquet (item_id, title; optional description, category, brand, price, image) and
    interactions.parquet (user_id, item_id, timestamp; optional pos, event_type, basket_id). With `pos`, each user's
    last item is the test; without it, the newest tenth of the baskets. What is done is kept: a killed bench goes on
    where it was. docs/benchmarks.md says what the numbers mean, docs/your-own-data.md what reads pictures.

    \b
    Example: headrace bench recommend --data shop --json shop.json
    Example: headrace bench recommend --data shop --quick
    Example: headrace bench recommend --data completejourney --cases popularity,item_knn,headrace --seeds 1
    """
    from pipelines.benchmarks.recommend import bench_recommend as run_bench
    from pipelines.progress import TerminalProgress

    run_bench(data, _bench_options(**options), TerminalProgress())


@bench.command("search")
@click.option("--data", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Folder of Parquet files.")
@click.option("--lowest-grade", type=float, help="The grade that says not relevant (default: the lowest there is).")
@_quality_options
def bench_search(data: Path, lowest_grade: float | None, **options: Any) -> None:
    """Measure how well the answers of held-out queries are found, by baselines and by the model; all items are ranked.

    The folder has items.parquet (item_id, title; optional description, category, brand, price, image) and
    judgements.parquet (query, item_id, grade). Queries are divided by a hash of their text. What is done is kept: a
    killed bench goes on where it was. docs/benchmarks.md says what the numbers mean.

    \b
    Example: headrace bench search --data shop --json shop.json
    Example: headrace bench search --data shop --cases bm25,headrace --seeds 1
    """
    from pipelines.benchmarks.search import bench_search as run_bench
    from pipelines.progress import TerminalProgress

    run_bench(data, _bench_options(**options), TerminalProgress(), lowest_grade=lowest_grade)


@bench.command("joint")
@click.option("--data", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Folder of Parquet files.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps of each task at most (default: those of the loop).")
@_quality_options
def bench_joint(data: Path, steps: int | None, **options: Any) -> None:
    """Compare one item tower for recommendation and search with two, at equal numbers of parameters.

    The folder is that of `bench recommend`. Queries come from its judgements.parquet; without it they are made from
    the catalogue, which the output says. The encoder stands still, vectors alone are measured. What is done is kept: a
    killed bench goes on where it was.

    \b
    Example: headrace bench joint --data shop --steps 600 --seeds 1 --json joint.json
    Example: headrace bench joint --data shop --quick
    """
    from pipelines.benchmarks.joint import bench_joint as run_bench
    from pipelines.progress import TerminalProgress

    run_bench(data, _bench_options(**options), TerminalProgress(), steps=steps)


@bench.command("compress")
@click.option("--data", default="completejourney", show_default=True, metavar="DIR", help="Folder, or completejourney.")
@click.option("--variants", metavar="A,B", help="Query towers (default: the four that bars are set for).")
@click.option("--item-variants", metavar="A,B", help="Towers that read items (default: 6-layer, 2-layer, static).")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of every random choice.")
@click.option("--quick", is_flag=True, help="A smoke run on a sample; says so in every output.")
@json_file_option
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), help="Work (default: in the home).")
def bench_compress(
    data: str, variants: str | None, item_variants: str | None, work: Path | None, **options: Any
) -> None:
    """Measure query towers, towers for new items, item vectors and bundle size against the full model in torch.

    The folder is that of `bench search`; queries of the default data are made from titles and categories. What is
    measured with was held out from tuning and distillation. What is done is kept: a killed bench goes on where it was,
    but for a distillation, which begins again.

    \b
    Example: headrace bench compress --data shop --json compress.json
    Example: headrace bench compress --quick
    """
    from pipelines.benchmarks.compress import DEFAULT_ITEM_VARIANTS, DEFAULT_VARIANTS, CompressOptions
    from pipelines.benchmarks.compress import bench_compress as run_bench
    from pipelines.places import Places
    from pipelines.progress import TerminalProgress

    places = Places.from_environment()
    chosen = CompressOptions(
        data,
        work or places.benchmarks,
        places.embedding_cache,
        variants=names_of(variants) or DEFAULT_VARIANTS,
        item_variants=names_of(item_variants) or DEFAULT_ITEM_VARIANTS,
        **options,
    )
    run_bench(chosen, TerminalProgress())
