"""A process that remembers no data set of another test and has no network."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest

from fsbench.data import load


@pytest.fixture(autouse=True)
def _no_memory_of_other_tests(monkeypatch):
    monkeypatch.setattr(load, "_memo", load._Memo())


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def urlopen(request, *args, **kwargs):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
