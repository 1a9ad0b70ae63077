# SPDX-License-Identifier: Apache-2.0
"""Benchmarks against dlopen and the peers, and the report made from them.

``pytest bench/ --benchmark-json results.json`` measures, ``python -m bench.report results.json``
reports, ``python -m bench.callgrind`` counts instructions. Run them from the repository's root;
they use the installed package, never the source tree's. The docstring of `bench.report` has the
commands that make the committed report.
"""
