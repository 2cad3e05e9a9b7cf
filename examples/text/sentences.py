"""Sentences of four libraries' documentation, from their docstrings: what the network is trained and tested on."""

from __future__ import annotations

import importlib
import inspect
import random
import re
from collections.abc import Iterator

MODULES = {
    "matplotlib": """
        artist axes axis backend_bases collections colorbar colors contour figure gridspec image legend lines patches
        path quiver spines text ticker transforms widgets
    """,
    "numpy": "fft lib linalg ma polynomial random testing",
    "python": """
        argparse ast asyncio collections concurrent.futures configparser csv datetime decimal difflib email
        ftplib functools heapq http.client imaplib inspect io ipaddress json logging mailbox multiprocessing
        optparse os pathlib pickle queue random re shutil smtplib socket sqlite3 ssl statistics string
        subprocess tarfile tempfile textwrap threading traceback types typing unittest urllib.request uuid
        weakref xml.dom.minidom zipfile
    """,
    "torch": """
        autograd distributions fft functional linalg nn nn.functional nn.init nn.utils optim sparse special utils.data
    """,
}
"""By label, of a library the modules that are read; of libraries other than Python's also the whole."""
MAX_PER_LABEL = 1500
_NAMES = re.compile(r"\b(matplotlib|mpl|plt|pyplot|numpy|np|python|torch|pytorch)\b", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z]{2,}")


def labelled() -> list[tuple[str, str]]:
    """(sentence, label), in an order that is always the same; a sentence that names a library is left out."""
    found: list[tuple[str, str]] = []
    for label, names in MODULES.items():
        library = "" if label == "python" else f"{label}."
        modules = [library + name for name in names.split()] + ([label] if library else [])
        sentences = sorted({sentence for name in modules for sentence in _sentences(name)})
        random.Random(0).shuffle(sentences)
        found += [(sentence, label) for sentence in sentences[:MAX_PER_LABEL]]
    random.Random(1).shuffle(found)
    return found


def _sentences(module: str) -> Iterator[str]:
    for text in _docstrings(importlib.import_module(module)):
        for paragraph in re.split(r"\n\s*\n", text):
            for sentence in re.split(r"(?<=[.!?])\s+", " ".join(paragraph.split())):
                is_prose = sentence[:1].isupper() and sentence.endswith(".") and 6 <= len(_WORD.findall(sentence)) <= 60
                if is_prose and not _NAMES.search(sentence):
                    yield sentence


def _docstrings(module: object) -> Iterator[str]:
    """Of a module, its functions and classes, and their methods."""
    yield inspect.getdoc(module) or ""
    for name, value in sorted(vars(module).items()):
        if name.startswith("_") or not (callable(value) or inspect.isclass(value)):
            continue
        yield inspect.getdoc(value) or ""
        if inspect.isclass(value):
            for method, function in sorted(vars(value).items()):
                if not method.startswith("_") and callable(function):
                    yield inspect.getdoc(function) or ""
