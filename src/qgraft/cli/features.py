"""Features of large image sets, in shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qgraft.cli.apps import app
from qgraft.cli.options import (
    DaskOption,
    JobsOption,
    JsonOption,
    OnErrorOption,
    OutOption,
    ResumeOption,
    WeightsOption,
)
from qgraft.cli.study import write_json_to


@app.command(epilog="Example: qgraft features parts/ --trunk resnet18 --out runs/features --jobs 8")
def features(
    data: Annotated[
        Path,
        typer.Argument(help="Folder with one folder per class, or a CSV manifest (path, label)."),
    ],
    trunk: Annotated[
        str, typer.Option(help="Network: cm1, cm2, cm3, mobilenetv2 or resnet18.")
    ] = "mobilenetv2",
    trunk_weights: Annotated[
        Path | None, typer.Option(help="Trained network of an earlier run; cm1 to cm3 need one.")
    ] = None,
    weights: WeightsOption = None,
    replace_last: Annotated[
        str, typer.Option(help="Dense layers of a trained network to leave out: k or all.")
    ] = "all",
    colour: Annotated[bool, typer.Option("--colour", help="Use colour, not grey.")] = False,
    shard_size: Annotated[int, typer.Option(help="Images in a shard.")] = 512,
    on_error: OnErrorOption = "fail",
    jobs: JobsOption = None,
    dask: DaskOption = None,
    out: OutOption = Path("runs/features"),
    resume: ResumeOption = False,
    json_file: JsonOption = None,
) -> None:
    """Compute the features of images once, in shards with checksums that a head streams from."""
    from qgraft.studies.feature_shards import Source, extract_shards
    from qgraft.studies.parallel import spreading
    from qgraft.studies.run import open_run
    from qgraft.terminal import Meter

    source = Source(
        str(data),
        trunk,
        str(trunk_weights) if trunk_weights else None,
        str(weights) if weights else None,
        int(replace_last) if replace_last.isdecimal() else "all",
        3 if colour else 1,
        shard_size,
        on_error,
    )
    with spreading(jobs, dask) as spread, Meter("features") as meter:
        run = open_run(out, source._asdict(), resume=resume, progress=meter, spread=spread)
        manifest = extract_shards(run, source)
    skipped, shards = manifest["skipped"], manifest["shards"]
    for fault in skipped:
        typer.echo(f"skipped: {fault}", err=True)
    count, width = manifest["n_images"], manifest["n_features"]
    typer.echo(f"{count:,} images, {width:,} features, {len(shards):,} shards: {out}", err=True)
    if json_file is not None:
        write_json_to(json_file, manifest)
