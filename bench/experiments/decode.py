"""Which JPEG path is fastest, and how far from torchvision: decode, resize to 256, crop 224, normalise; one thread.

    python -m bench.experiments.decode [--seconds S]

A path whose package is missing is reported as skipped. Differences are against torchvision.io + antialiased bilinear
resize, over the normalised tensor (1.0 is about 58 grey levels).
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from smartbatch_worker.contract.shapes import IMAGENET_MEAN as MEAN
from smartbatch_worker.contract.shapes import IMAGENET_STD as STD

from bench.images import jpeg

Path = Callable[[bytes], torch.Tensor]
"""JPEG bytes -> [3, 224, 224] float32."""


def target(height: int, width: int, shorter: int = 256) -> tuple[int, int]:
    """Height and width after the shorter side becomes `shorter`."""
    if height <= width:
        return shorter, int(shorter * width / height)
    return int(shorter * height / width), shorter


def finish(hwc: np.ndarray) -> torch.Tensor:
    """[H, W, 3] uint8 -> centre crop, normalised [3, 224, 224]."""
    top, left = round((hwc.shape[0] - 224) / 2), round((hwc.shape[1] - 224) / 2)
    return normalise(torch.from_numpy(np.ascontiguousarray(hwc[top : top + 224, left : left + 224])).permute(2, 0, 1))


def normalise(chw: torch.Tensor) -> torch.Tensor:
    """[3, H, W] uint8 -> float32, ImageNet mean and deviation."""
    return chw.float().mul_(SCALE).add_(SHIFT)


SCALE = (1 / (255 * torch.tensor(STD))).view(3, 1, 1)
SHIFT = (-torch.tensor(MEAN) / torch.tensor(STD)).view(3, 1, 1)


def torchvision_io(body: bytes) -> torch.Tensor:
    """torchvision.io.decode_jpeg, uint8 antialiased resize: the reference."""
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2 import functional

    image = decode_jpeg(torch.frombuffer(bytearray(body), dtype=torch.uint8), mode=ImageReadMode.RGB)
    size = list(target(*image.shape[1:]))
    return normalise(functional.center_crop(functional.resize(image, size, antialias=True), [224, 224]))


def torchvision_interpolate(body: bytes) -> torch.Tensor:
    """torchvision.io.decode_jpeg and torch's own interpolate on uint8, channels-last, no wrappers."""
    from torchvision.io import ImageReadMode, decode_jpeg

    image = decode_jpeg(torch.frombuffer(bytearray(body), dtype=torch.uint8), mode=ImageReadMode.RGB)
    size = target(*image.shape[1:])
    image = torch.nn.functional.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]
    top, left = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    return normalise(image[:, top : top + 224, left : left + 224])


def pillow(body: bytes) -> torch.Tensor:
    """PIL's decode and resize."""
    image = Image.open(io.BytesIO(body)).convert("RGB")
    height, width = target(image.height, image.width)
    return finish(np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)))


def pillow_draft(body: bytes) -> torch.Tensor:
    """PIL with draft mode: libjpeg decodes at 1/2, 1/4, 1/8 where that is still large enough."""
    image = Image.open(io.BytesIO(body))
    height, width = target(image.height, image.width)
    image.draft("RGB", (width, height))
    return finish(np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)))


def pillow_box(body: bytes) -> torch.Tensor:
    """PIL, resizing only the region that the crop keeps."""
    image = Image.open(io.BytesIO(body)).convert("RGB")
    height, width = target(image.height, image.width)
    top, left = round((height - 224) / 2), round((width - 224) / 2)
    y, x = image.height / height, image.width / width
    box = (left * x, top * y, (left + 224) * x, (top + 224) * y)
    out = np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR, box=box))
    return normalise(torch.from_numpy(out.copy()).permute(2, 0, 1))


def stock(body: bytes) -> torch.Tensor:
    """What TorchServe's image_classifier does: PIL and torchvision transforms."""
    from torchvision import transforms

    return transforms.Compose(  # type: ignore[no-any-return]
        [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    )(Image.open(io.BytesIO(body)).convert("RGB"))


def simplejpeg(body: bytes) -> torch.Tensor:
    """libjpeg-turbo through simplejpeg, torch's interpolate."""
    import simplejpeg as codec  # type: ignore[import-not-found]

    return interpolate_hwc(codec.decode_jpeg(body, "RGB"))


def simplejpeg_fast(body: bytes) -> torch.Tensor:
    """The same with the fast DCT and fast upsampling."""
    import simplejpeg as codec

    return interpolate_hwc(codec.decode_jpeg(body, "RGB", fastdct=True, fastupsample=True))


def interpolate_hwc(hwc: np.ndarray) -> torch.Tensor:
    """[H, W, 3] uint8 -> resized without a layout copy (a permuted view is channels-last), cropped, normalised."""
    size = target(hwc.shape[0], hwc.shape[1])
    image = torch.from_numpy(hwc).permute(2, 0, 1)[None]
    image = torch.nn.functional.interpolate(image, size=size, mode="bilinear", antialias=True)[0]
    top, left = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    return normalise(image[:, top : top + 224, left : left + 224])


def opencv(body: bytes) -> torch.Tensor:
    """OpenCV's decode and area resize."""
    import cv2  # type: ignore[import-not-found]

    cv2.setNumThreads(1)
    image = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR_RGB)
    height, width = target(image.shape[0], image.shape[1])
    way = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_LINEAR
    return finish(cv2.resize(image, (width, height), interpolation=way))


PATHS: dict[str, Path] = {
    path.__name__: path
    for path in (torchvision_io, torchvision_interpolate, pillow, pillow_box, pillow_draft, stock, simplejpeg,
                 simplejpeg_fast, opencv)
}  # fmt: skip


def main() -> None:
    """Print one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="per path and image size")
    args = parser.parse_args()
    torch.set_num_threads(1)
    bodies = {
        "375×500": jpeg(375, 500, seed=0),
        "224×224": jpeg(224, 224, seed=0),
        "1024×1024": jpeg(1024, 1024, seed=0),
    }
    sizes = ", ".join(f"{name} {len(body) / 1e3:.0f} kB" for name, body in bodies.items())
    print(f"JPEG bodies: {sizes}. ms an image, median (fastest), one thread; max and mean abs difference\n")
    print("| path | " + " | ".join(bodies) + " |\n|" + " --- |" * (1 + len(bodies)), flush=True)
    for name, path in PATHS.items():
        cells = []
        for body in bodies.values():
            try:
                diff = (path(body) - torchvision_io(body)).abs()
            except ImportError as error:
                cells.append(f"skipped: {error}")
                continue
            times: list[float] = []
            until = time.perf_counter() + args.seconds
            while time.perf_counter() < until:
                started = time.perf_counter()
                path(body)
                times.append(time.perf_counter() - started)
            median = sorted(times)[len(times) // 2]
            cells.append(f"{median * 1e3:.2f} ({min(times) * 1e3:.2f}) Δ{diff.max():.3f}/{diff.mean():.4f}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
