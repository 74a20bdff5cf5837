"""Images as HTML, for parts of a notebook that change what they show.

Owns how a row of images and its words become HTML. Never decides what is shown. Every image has its words as text, too.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Grey = NDArray[np.uint8]


def row(pictures: Sequence[tuple[Grey, str]], title: str, side: int = 120) -> str:
    """Images beside each other, each above its words, under a title."""
    shown = "".join(
        f"<figure style='margin:0 .8em 0 0;display:inline-block'>{img(png(image), f'{title} {words}', side)}"
        f"<figcaption style='font-size:85%'>{html.escape(words)}</figcaption></figure>"
        for image, words in pictures
    )
    return f"<p>{html.escape(title)}</p><div>{shown}</div>"


def img(content: bytes, words: str, width: int) -> str:
    """A PNG, with words for those who do not see it."""
    source = base64.b64encode(content).decode()
    return f"<img alt='{html.escape(words)}' width='{width}' src='data:image/png;base64,{source}'>"


def png(image: Grey) -> bytes:
    """An image, grey or in colours, as PNG."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, format="png")
    return content.getvalue()
