# Try `make help`.
.PHONY: help setup demo run bench test check lint types unit network docs house news onion-table clean

help:
	@echo 'torsocks_tx: a SOCKS4, SOCKS4a and SOCKS5 server that speaks through Tor.'
	@echo
	@echo '  make demo      real clients, step by step, on a private Tor network on this machine'
	@echo '  make run       the server on the live Tor network, at 127.0.0.1:1080, until Ctrl-C'
	@echo '                 more options:  make run ARGS="--help"'
	@echo '  make test      the tests on the newest versions, with a private Tor network: 6 minutes'
	@echo '  make check     every check there is, with every client and all versions: 15 minutes'
	@echo '  make bench     how fast it is, beside other servers: 15 minutes; ARGS=--quick is less'
	@echo
	@echo '  make setup     a virtual environment in .venv with all that development needs'
	@echo '  make lint      lint and format          make unit      unit tests and fuzzing'
	@echo '  make types     type checks              make network   real clients and a private Tor'
	@echo '  make docs      write what the documents have from the code, and build the site from them'
	@echo '  make house     measure the shape of the package, beside its bounds'
	@echo '  make news      print what the next changelog will say, from newsfragments/'
	@echo '  make onion-table  measure what clients hear of onion services that fail (10 minutes)'
	@echo '  make clean     away with all that these made'
	@echo
	@echo 'The first call of each sets up what it needs; PYTHON=/path/to/python3 chooses the Python.'

setup:
	@tools/setup

demo:
	@tools/setup demo
	@exec .venv/bin/python tools/demo.py $(ARGS)

run:
	@tools/setup run
	@exec tools/run $(ARGS)

bench:
	@tools/setup run
	@exec tools/bench $(ARGS)

test:
	@exec tools/check test

check:
	@exec tools/check all

lint types unit network:
	@exec tools/check $@

docs: setup
	@.venv/bin/python tools/conformance.py
	@.venv/bin/python tools/reference.py
	@.venv/bin/python tools/pictures.py
	@.venv/bin/sphinx-build -q -W -n --keep-going docs build/site
	@echo 'The site is in build/site: begin with index.html.'

house: setup
	@.venv/bin/python tools/house.py

news: setup
	@.venv/bin/towncrier build --draft --version next

onion-table: setup
	@exec .venv/bin/python tools/onion_table.py $(ARGS)

clean:
	rm -rf .venv .venv-* build dist *.egg-info .mypy_cache .ruff_cache .hypothesis
	rm -f twisted/plugins/dropin.cache
	find . -name __pycache__ -prune -exec rm -rf {} +
