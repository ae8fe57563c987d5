"""Runs as containers of a Docker engine: a head and workers on a network of their own."""

from __future__ import annotations

from .backend import DockerBackend as DockerBackend
