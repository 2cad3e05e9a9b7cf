"""`smartbatch archive`: the command line of `build_archive`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from smartbatch.archive.settings import ArchiveSettings
from smartbatch.commands.options import AsJson, Overrides, parse_overrides

ModelOption = Annotated[str | None, typer.Option("--model", help="torchvision model by name.", show_default="resnet18")]
ModelPathOption = Annotated[
    Path | None,
    typer.Option(
        "--model-path",
        envvar="MODEL_PATH",
        help="Weights (.pth, .safetensors), or a TorchScript or torch.export program.",
        show_default="torchvision's pretrained weights",
    ),
]


def archive(
    model: ModelOption = None,
    timm: Annotated[str | None, typer.Option(help="timm model by name (extra: timm).")] = None,
    model_file: Annotated[Path | None, typer.Option(help="Python file defining the torch.nn.Module.")] = None,
    model_path: ModelPathOption = None,
    hf: Annotated[
        str | None, typer.Option(metavar="DIR|NAME", help="Hugging Face model: its folder, or its name on the hub.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="What the --hf model is for.", show_default="as its config.json tells")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="tokenizer.json, so that requests may be text.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of archive and model.", show_default="the model's")] = None,
    handler: Annotated[Path | None, typer.Option(help="Module with a subclass of SmartBatchHandler.")] = None,
    num_classes: Annotated[int | None, typer.Option(help="Width of the last layer.")] = None,
    input_shape: Annotated[str | None, typer.Option(help="Shape of one item, such as 3,*,* or 1,8,8.")] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME:DTYPE:SHAPE[:PAD]",
            help="A named input, without the batch; a letter in its shape is a size that items may differ in.",
        ),
    ] = None,
    lengths: Annotated[
        list[str] | None,
        typer.Option(metavar="LETTER=SIZES", help="Sizes to pad to, such as L=16,32,64; the last is the most."),
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Class names: JSON, or one per line.")] = None,
    overrides: Overrides = None,
    example: Annotated[
        Path | None,
        typer.Option(
            help="A request's body that must be answered, kept in the archive; its type is told by its suffix.",
            show_default="a tensor of --input-shape",
        ),
    ] = None,
    extra_files: Annotated[list[Path] | None, typer.Option(help="File, or folder whose contents, to add.")] = None,
    version: Annotated[str, typer.Option(help="Model version.")] = "1.0",
    output: Annotated[Path, typer.Option(help="Folder for the archive.")] = Path("model_store"),
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace an archive of that name.")] = False,
    require_pretrained: Annotated[
        bool, typer.Option("--require-pretrained", help="Fail where pretrained weights cannot be fetched.")
    ] = False,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Seeded random weights; fetches nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Build model_store/NAME.mar, proving on the way that it loads and answers."""
    # torch takes seconds to import, so that is where the first line has to be out already.
    console = Console(stderr=True, highlight=False)
    started = time.monotonic()
    settings = ArchiveSettings(
        model=model,
        timm=timm,
        model_file=model_file,
        model_path=model_path,
        hf=hf,
        task=task,
        tokenizer=tokenizer,
        name=name,
        version=version,
        handler=handler,
        num_classes=num_classes,
        input_shape=input_shape,
        inputs=tuple(inputs or ()),
        lengths=tuple(lengths or ()),
        labels=labels,
        overrides=parse_overrides(overrides or []),
        example=example,
        extra_files=tuple(extra_files or ()),
        output=output,
        force=force,
        require_pretrained=require_pretrained,
        random_weights=random_weights,
    )
    path = _build(settings, console)
    size_mb = path.stat().st_size / 1e6
    if as_json:
        print(json.dumps({"archive": str(path), "model": settings.archive_name, "size_mb": round(size_mb, 1)}))
    else:
        console.print(f"built {path} ({size_mb:.1f} MB) in {time.monotonic() - started:.0f} s", soft_wrap=True)


def _build(settings: ArchiveSettings, console: Console) -> Path:
    """Print each step as it begins; on a terminal a spinner shows that the present one is alive."""
    with console.status("starting") as status:

        def report(line: str) -> None:
            style = "bold yellow" if line.startswith("WARNING") else ""
            console.print(_plain(line), style=style, soft_wrap=True)
            status.update(_plain(line))
            # torch draws the download's progress bar itself, and two live lines would fight.
            if line.startswith("fetching"):
                status.stop()
            else:
                status.start()

        model = settings.hf or settings.model or settings.timm or settings.model_file or settings.model_path
        report(f"archiving {model or settings.archive_name}")
        from smartbatch.archive.build import build_archive  # imports torch

        return build_archive(settings, report)


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
