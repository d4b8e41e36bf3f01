"""The head of a recipe that runs in a minute."""

import pytest


@pytest.fixture(scope="session")
def tiny():
    """Data and model of a recipe, as text: a small network on the digits."""
    return """
version: 1
name: tiny
seed: 3
data: {source: digits, batch_size: 64}
model: {architecture: digits_cnn, arguments: {filters: [4, 8], units: 16}}
"""
