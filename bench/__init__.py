"""Benchmarks: what a stream through torsocks_tx costs, beside other servers."""
