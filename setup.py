"""Collect the packages of the four source roots; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

ROOTS = ("src", "lsf", "profiling", "analysis")
FOUND = {p: f"{root}/{p.replace('.', '/')}" for root in ROOTS for p in find_packages(root)}

setup(packages=sorted(FOUND), package_dir=FOUND)
