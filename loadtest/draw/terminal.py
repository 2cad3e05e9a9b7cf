"""What a terminal showed, as a PNG for a README."""

from __future__ import annotations

from pathlib import Path

from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

SIZE = 18
LINE = 26
MARGIN = 22
BACKGROUND, FOREGROUND = "#16181D", "#E6E6E6"


def draw_terminal(path: Path, text: str, command: str) -> None:
    """Draw text in a monospaced font under the command it came from."""
    font = ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono.ttf", SIZE)
    lines = [f"$ {command}", *(line.rstrip() for line in text.rstrip().splitlines())]
    width = max(font.getlength(line) for line in lines)
    size = (round(width) + 2 * MARGIN, len(lines) * LINE + 2 * MARGIN)
    image = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(image)
    for index, line in enumerate(lines):
        draw.text((MARGIN, MARGIN + index * LINE), line, font=font, fill=FOREGROUND)
    image.quantize(32).save(path, "PNG", optimize=True)
