"""The images that workers train in: build, push, save, load, list, and which one fits.

Nothing here shows anything: `watch` is told how it gets on (see `nbtrain.image_commands`).
"""

from __future__ import annotations

from .archive import load as load
from .archive import save as save
from .base import build as build
from .client import connect as connect
from .fit import misfits as misfits
from .local import Image as Image
from .local import check as check
from .local import check_fits as check_fits
from .local import choose as choose
from .local import default_image as default_image
from .local import find_fitting as find_fitting
from .local import images as images
from .local import versions_of as versions_of
from .registry import push as push
